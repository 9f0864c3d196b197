"""Losses and accuracies on lines and planes through parameter space, and between the ends of two runs.

The evaluated function takes the parameters and returns any number of named values, such as train loss, test loss and their
accuracies. Every point is computed from the origin, not from its neighbour, so that no error accumulates. Values that are not
finite are kept; only plots clip them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from optbench.curvature.swapped_parameters import kept, place

Evaluate: TypeAlias = Callable[[list[Tensor]], Mapping[str, float]]


@dataclass(frozen=True)
class Line:
    """positions: (n,). values: for each name (n,). All float64 on the CPU."""

    positions: Tensor
    values: dict[str, Tensor]


@dataclass(frozen=True)
class Surface:
    """x: (nx,) along the first direction, y: (ny,) along the second. values: for each name (ny, nx). float64 on the CPU."""

    x: Tensor
    y: Tensor
    values: dict[str, Tensor]


def model_state(model: nn.Module) -> list[Tensor]:
    """Copies of the parameters and then the floating-point buffers of ``model``, such as the running statistics of batch norm."""
    return [tensor.detach().clone() for tensor in (*model.parameters(), *_moving_buffers(model))]


def evaluation(model: nn.Module, measure: Callable[[], Mapping[str, float]]) -> Evaluate:
    """``measure``, which evaluates the present ``model``, as a function of the model's parameters.

    It takes one tensor for each of ``model.parameters()`` with fixed buffers ("weights" of Li et al. 2018), or a whole
    ``model_state`` ("states"). Afterwards, even after an exception, the model's own parameters and buffers are restored,
    including running statistics that ``measure`` moved. ``measure`` chooses mode and examples: surfaces use eval mode and
    examples without augmentation. Raises ValueError for tensors that fit neither.
    """

    def evaluate(values: list[Tensor]) -> Mapping[str, float]:
        parameters = list(model.parameters())
        with kept([*parameters, *model.buffers()]):
            whole = len(values) > len(parameters)
            place([*parameters, *_moving_buffers(model)] if whole else parameters, values)
            return measure()

    return evaluate


def _moving_buffers(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


@torch.no_grad()
def shifted(origin: Sequence[Tensor], *moves: tuple[float, Sequence[Tensor]]) -> list[Tensor]:
    """origin + the sum of x d over the ``moves`` (x, d), as new tensors; at x = 0 exactly the origin."""
    point = [tensor.detach().clone() for tensor in origin]
    for length, direction in moves:
        for tensor, along in zip(point, direction, strict=True):
            if length != 0:
                tensor.add_(along, alpha=length)
    return point


def line(evaluate: Evaluate, origin: Sequence[Tensor], direction: Sequence[Tensor], positions: Sequence[float]) -> Line:
    """The values at origin + x ``direction`` for each x of ``positions`` (the source uses 51 in [-1, 1]).

    origin: one tensor for each parameter, copied before the first evaluation.
    """
    start = [tensor.detach().clone() for tensor in origin]
    found = [evaluate(shifted(start, (x, direction))) for x in positions]
    return Line(_tensor(positions), _columns(found, (len(positions),)))


def grid(
    evaluate: Evaluate,
    origin: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    x: Sequence[float],
    y: Sequence[float],
) -> Surface:
    """The values at origin + x ``first`` + y ``second`` for all pairs (the source uses 51 x 51 in [-1, 1]^2)."""
    start = [tensor.detach().clone() for tensor in origin]
    found = [evaluate(shifted(start, (across, first), (up, second))) for up in y for across in x]
    return Surface(_tensor(x), _tensor(y), _columns(found, (len(y), len(x))))


def interpolation(
    evaluate: Evaluate, first: Sequence[Tensor], second: Sequence[Tensor], positions: Sequence[float]
) -> Line:
    """The values at first + x (second - first), exactly the two states at x = 0 and 1 (the source uses 401 in [-0.5, 1.5]).

    first, second: parameters, or ``model_state``s; with parameters only, the running statistics of batch norm fit neither end.
    Goodfellow, Vinyals & Saxe 2015, "Qualitatively characterizing neural network optimization problems"; between a small-batch
    and a large-batch minimum, Keskar et al. 2017. Outside [0, 1] an extrapolated running variance can become negative, which
    gives NaN.
    """
    ends = [(a.detach().clone(), b.detach().clone()) for a, b in zip(first, second, strict=True)]
    found = [evaluate([torch.lerp(a, b, x) for a, b in ends]) for x in positions]
    return Line(_tensor(positions), _columns(found, (len(positions),)))


def _tensor(positions: Sequence[float]) -> Tensor:
    return torch.tensor([float(x) for x in positions], dtype=torch.float64)


def _columns(rows: Sequence[Mapping[str, float]], shape: tuple[int, ...]) -> dict[str, Tensor]:
    names = rows[0] if rows else ()
    return {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64).view(shape) for name in names}
