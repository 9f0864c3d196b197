"""Outcomes of claims from intervals, and the names and fields that the claims of several studies have in common.

An outcome follows from a rule that was fixed before the runs. "agrees" and "disagrees" need an interval that excludes the
opposite; an interval that allows both, or none, leaves a claim "undecided".
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optbench.analysis.claims import Claim, Outcome, table
from optbench.store.run_directory import FINISHED

if TYPE_CHECKING:
    import pandas as pd

# The names of quantities that several studies measure.
SMALL_MINUS_LARGE = "test accuracy, small minus large batch"
BEST_RATE = "exponent of the best learning rate in the batch"
STEPS = "steps to the target"
#: The slope of the logarithm of a ratio of steps, of the method over the other one, on that of the batch.
STEPS_TREND = "steps to the target: exponent of the ratio in the batch"
CRITICAL_BATCH = "critical batch"
SHARPNESS = {
    "keskar": "sharpness in a box (Keskar), large over small batch",
    "sam": "sharpness in a ball (SAM), large over small batch",
}

# The fields by which a claim is found again among those about other runs.
_IDENTITY = ["claim", "source", "method", "against", "condition"]


def above(low: float, high: float, bound: float = 0.0) -> Outcome:
    """The outcome of the claim that a value lies above ``bound``, by its interval from ``low`` to ``high``."""
    return "agrees" if low > bound else "disagrees" if high < bound else "undecided"


def below(low: float, high: float, bound: float = 0.0) -> Outcome:
    """As `above`, for a value below ``bound``."""
    return above(-high, -low, -bound)


def within(low: float, high: float, smallest: float, largest: float) -> Outcome:
    """The claim that a value lies from ``smallest`` to ``largest``: its whole interval has to; "disagrees" if no part does."""
    inside, outside = smallest <= low and high <= largest, high < smallest or low > largest
    return "agrees" if inside else "disagrees" if outside else "undecided"


def holds(low: float, high: float, value: float, other: float) -> Outcome:
    """The claim that a quantity is ``value`` and not ``other``: agrees if its interval holds the first and not the second."""
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    first, second = (low <= each <= high for each in (value, other))
    return "disagrees" if not first else "undecided" if second else "agrees"


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of a claim of several parts, all of which have to agree; those that were not tested have no say."""
    found = [outcome for outcome in outcomes if outcome != "not tested"]
    if not found:
        return "not tested"
    if "disagrees" in found:
        return "disagrees"
    return "undecided" if "undecided" in found else "agrees"


def steady(found: Sequence[Claim], without: "pd.DataFrame", part: str = "seed") -> list[Claim]:
    """The claims, undecided where the runs without one of the seeds, or other parts, have another outcome, or none.

    without: the tables (`optbench.analysis.claims.table`) of the same claims about the runs without each part, one below the
    other, with the column without_PART; empty if none was left out.
    """
    parts = [own for _, own in without.groupby(f"without_{part}")] if len(without) else []
    outcomes = [dict(zip(map(tuple, part[_IDENTITY].to_numpy()), part["outcome"], strict=True)) for part in parts]
    steadied = []
    for claim in found:
        own = tuple(getattr(claim, name) for name in _IDENTITY)
        changes = any(part.get(own) != claim.outcome for part in outcomes)
        steadied.append(replace(claim, outcome="undecided") if changes else claim)
    return steadied


def without_each(
    part: str, study: str, values: Sequence[Any], claims: Callable[[Any], Sequence[Claim]]
) -> "pd.DataFrame":
    """The tables for `steady`: ``claims`` makes those about the runs without one value of a part. Empty for fewer than three."""
    import pandas as pd

    if len(values) <= 2:
        return pd.DataFrame()
    columns = [*_IDENTITY, "outcome", "estimate", "low", "high"]
    found = [table(claims(value), study)[columns].assign(**{f"without_{part}": value}) for value in values]
    return pd.concat(found, ignore_index=True)


def without_each_seed(study: str, seeds: Sequence[int], claims: Callable[[int], Sequence[Claim]]) -> "pd.DataFrame":
    """`without_each` of the seeds."""
    return without_each("seed", study, seeds, claims)


def decided(agrees: bool) -> Outcome:
    """The outcome of a claim about the runs as they are, such as a count, which has no interval."""
    return "agrees" if agrees else "disagrees"


def effect(estimate: float, low: float = math.nan, high: float = math.nan, factor: float = 1.0) -> dict[str, float]:
    """The fields of a `Claim` for an estimate with its interval, in units of 1 / ``factor`` (100: fractions as points)."""
    bounds = sorted((factor * float(low), factor * float(high))) if low == low and high == high else [math.nan] * 2
    return {"effect": factor * float(estimate), "low": bounds[0], "high": bounds[1]}


def place(runs: "pd.DataFrame") -> dict[str, str]:
    """The fields dataset and model of the claims about these runs; several are divided by "/"."""
    return {
        name: "/".join(sorted(map(str, runs[name].dropna().unique()))) if name in runs else ""
        for name in ("dataset", "model")
    }


def ended(runs: "pd.DataFrame") -> int:
    """The number of runs that are done or have diverged."""
    return int(runs["status"].isin(FINISHED).sum())


def batches(one: float, other: float | None = None) -> str:
    """The condition of a claim at one batch size, or of a method at one against the other one at another."""
    return f"batch={one:.0f}" if other is None else f"batch={one:.0f}:{other:.0f}"


def not_tested(claim: str, source: str, **fields: str) -> Claim:
    """A claim for which there are no runs."""
    return Claim(claim=claim, source=source, outcome="not tested", **fields)  # type: ignore[arg-type]
