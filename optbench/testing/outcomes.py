"""Outcomes of checks (returned values, or `Broken` or `NotApplicable` raised), and comparisons of results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Numbers = Mapping[str, Tensor]
# In float64 a different order of summation changes a few of the last digits; a few steps of training add to that.
RTOL, ATOL = 1e-7, 1e-9
# A difference by rounding may be so many times the effect of one unit in the last place of the initial weights.
_FACTOR = 1e3


class _Ended(Exception):
    """A check that has found out; ``values``: what was measured until then."""

    def __init__(self, reason: str, **values: Any) -> None:
        super().__init__(reason)
        self.values = values


class Broken(_Ended):
    """A promise is broken, with the reason in one line."""


class NotApplicable(_Ended):
    """The check says nothing about this subject, with the reason in one line."""


@dataclass(frozen=True)
class Found:
    """The values that a passed check has measured, and a note."""

    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def excess(found: Numbers, expected: Numbers, rtol: float = RTOL, atol: float = ATOL) -> float:
    """The largest |found - expected| / (atol + rtol |expected|) over all numbers: at most 1 is equal to rounding.

    Infinite where one is not finite and the other is, or where they have other names.
    """
    if found.keys() != expected.keys():
        return float("inf")
    largest = 0.0
    for name, tensor in expected.items():
        one, other = found[name].double(), tensor.double()
        ratio = (one - other).abs() / (atol + rtol * other.abs())
        same = (one == other) | (one.isnan() & other.isnan())
        ratio = torch.where(same, 0.0, ratio.nan_to_num(nan=float("inf")))
        largest = max(largest, float(ratio.max()) if ratio.numel() else 0.0)
    return largest


def difference(found: Numbers, expected: Numbers) -> float:
    """The largest |found - expected| over all numbers; 0 exactly where they are equal bit for bit."""
    return excess(found, expected, rtol=0.0, atol=1.0)


def name_of_worst(found: Numbers, expected: Numbers) -> str:
    """The name of the tensor that differs most."""
    return max(expected, key=lambda name: excess({name: found[name]}, {name: expected[name]}))


def require_equal(found: Numbers, expected: Numbers, what: str) -> None:
    """Raise `Broken`, with ``what`` was done, unless all numbers are equal bit for bit."""
    differs = difference(found, expected)
    if differs:
        worst = name_of_worst(found, expected)
        raise Broken(f"{what}: {worst} differs by up to {differs:.2g}", difference=differs)


def require_close(
    found: Numbers,
    expected: Numbers,
    what: str,
    nudged: Callable[[], tuple[Numbers, Numbers]] | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Found:
    """Compare numbers that may differ by rounding; raises `Broken`, with ``what`` was done, where they differ by more.

    nudged: asked only then for a result from a start that was changed by rounding alone, and for the same without that
    change. Where these two differ as much, within a factor of 1000, the method amplifies rounding, and what differs says
    nothing against the promise.
    """
    differs = difference(found, expected)
    beyond = excess(found, expected, rtol, atol)
    if beyond <= 1:
        return Found({"difference": differs})
    if nudged is not None:
        pair = nudged()
        if beyond <= _FACTOR * excess(*pair, rtol, atol):
            moved = difference(*pair)
            note = (
                f"amplifies rounding: a start nudged by one unit in the last place ends {moved:.1g} away, so that "
                f"{differs:.1g} says nothing"
            )
            return Found({"difference": differs, "nudged": moved}, note)
    worst = name_of_worst(found, expected)
    raise Broken(f"{what}: {worst} differs by up to {differs:.2g}", difference=differs)


def nudge(tensors: Mapping[str, Tensor] | list[Tensor]) -> None:
    """Move every number to the next larger one of its dtype, in place."""
    with torch.no_grad():
        for tensor in tensors.values() if isinstance(tensors, Mapping) else tensors:
            if tensor.is_floating_point():
                tensor.copy_(torch.nextafter(tensor, torch.full_like(tensor, torch.inf)))
