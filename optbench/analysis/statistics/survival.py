"""Times to a target of runs that may not have reached it: survival curves, restricted means, a test of two arms.

A time is in any unit (steps, samples, seconds). A run that ended its budget without reaching the target is censored: its time is
longer than the budget. A diverged run never reaches it. A run that was paused because it was slow is censored for that reason,
which no estimator here allows: continue it, or count its time as the horizon.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.shares import clopper_pearson

if TYPE_CHECKING:
    import pandas as pd

Cause = Literal["reached", "budget", "diverged"]
CAUSES: tuple[Cause, ...] = ("reached", "budget", "diverged")
# An exact test enumerates at most this many divisions of the runs: 10 and 10 have 184,756.
_MOST_DIVISIONS = 200_000


@dataclass(frozen=True)
class Times:
    """The time of each run: in (lower, upper] if it reached the target, longer than ``lower`` if it did not.

    cause: "reached"; "budget", the run ended at ``lower`` (upper is infinite); "diverged", it never will (both are infinite).
    The time of a run that reached it is the middle of its interval; give equal bounds for an interpolated time.

    Raises ValueError for another cause (a failed, unfinished or paused run has no time: leave it out, and say so), and for bounds
    that do not belong to their cause.
    """

    lower: np.ndarray
    upper: np.ndarray
    cause: tuple[Cause, ...]

    def __post_init__(self) -> None:
        for low, high, cause in zip(self.lower, self.upper, self.cause, strict=True):
            if cause not in CAUSES:
                raise ValueError(f"cause {cause!r}: accepted: {', '.join(CAUSES)}")
            bounds = {
                "reached": 0 <= low <= high < math.inf,
                "budget": 0 <= low < high == math.inf,
                "diverged": low == math.inf,
            }
            if not bounds[cause]:
                raise ValueError(f"a time in ({low}, {high}] of cause {cause!r}")

    @classmethod
    def of(cls, times: Sequence[float], reached: Sequence[bool]) -> "Times":
        """Exact times; where not ``reached``, that of the end of the budget, or infinity for a diverged run."""
        lower = np.asarray(times, dtype=float)
        there = np.asarray(reached, dtype=bool)
        causes: list[Cause] = [
            "reached" if yes else "diverged" if math.isinf(time) else "budget"
            for time, yes in zip(lower, there, strict=True)
        ]
        return cls(lower, np.where(there, lower, math.inf), tuple(causes))

    @property
    def reached(self) -> np.ndarray:
        """True for each run that reached the target."""
        return np.array([cause == "reached" for cause in self.cause], dtype=bool)

    @property
    def end(self) -> np.ndarray:
        """The time of each run, or the end of its observation; infinity if it diverged."""
        return np.where(self.reached, (self.lower + np.where(self.reached, self.upper, 0)) / 2, self.lower)

    def __len__(self) -> int:
        return len(self.cause)


def _table(times: Times, horizon: float = math.inf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct times up to the horizon at which runs reached the target; the runs at risk before, and those that did."""
    end, reached = times.end, times.reached
    at = np.unique(end[reached & (end <= horizon)])
    at_risk = (end[None] >= at[:, None]).sum(1)
    return at, at_risk, ((end[None] == at[:, None]) & reached[None]).sum(1)


def survival(times: Times, level: float = 0.95) -> "pd.DataFrame":
    """The share of runs that have not reached the target after each time at which one did, by Kaplan & Meier 1958.

    Columns: time, at_risk, reached, survival, low, high. The bounds are those of log(-log S) by Greenwood's formula; where S is
    0 they do not exist (NaN).
    """
    import pandas as pd
    from scipy.special import ndtri

    at, at_risk, reached = _table(times)
    curve = np.cumprod(1 - reached / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.sqrt(np.cumsum(reached / (at_risk * (at_risk - reached)))) / np.abs(np.log(curve))
        width = np.exp(float(ndtri((1 + level) / 2)) * greenwood)
        low, high = (np.where(curve > 0, curve**power, math.nan) for power in (width, 1 / width))
    columns = {"time": at, "at_risk": at_risk, "reached": reached, "survival": curve, "low": low, "high": high}
    return pd.DataFrame(columns)


def restricted_mean(times: Times, horizon: float, level: float = 0.95) -> Interval:
    """The mean of min(T, horizon): the area under the survival curve, with a t interval of n - 1 degrees of freedom.

    horizon: the common budget of all runs that are compared, in the units of the times. A run that never reaches the target
    counts as the horizon. Without runs that were censored before the horizon it is the mean of min(T, horizon) with Student's
    interval; otherwise the variance is n / (n - 1) Σ A_j² d_j / (n_j (n_j - d_j)), where A_j is the area from time j on, n_j the
    number of runs at risk and d_j of those that reached the target.

    Few runs see a failure that is rare: publish it with `share_reached`. Raises ValueError if the longest run was censored
    before the horizon. Source: Irwin 1949; Royston & Parmar 2013.
    """
    from scipy.special import stdtrit

    n = len(times)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, level)
    longest = times.end.max()
    if longest < horizon and not times.reached[times.end == longest].any():
        raise ValueError(f"horizon {horizon}: no run was observed for longer than {longest}")
    at, at_risk, reached = _table(times, horizon)
    edges = np.concatenate([[0.0], at, [horizon]])
    curve = np.concatenate([[1.0], np.cumprod(1 - reached / at_risk)])
    pieces = curve * np.diff(edges)
    mean = float(pieces.sum())
    if n < 2:
        return Interval(mean, math.nan, math.nan, level)
    beyond = pieces[::-1].cumsum()[::-1][1:]
    left = at_risk - reached
    # If all reach the target, the area beyond is 0.
    terms = np.where(left > 0, beyond**2 * reached / (at_risk * np.maximum(left, 1)), 0.0)
    width = float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(n / (n - 1) * float(terms.sum()))
    return Interval(mean, mean - width, mean + width, level)


def share_reached(times: Times, level: float = 0.95) -> Interval:
    """The share of runs that reached the target, with the interval of Clopper and Pearson."""
    return clopper_pearson(int(times.reached.sum()), len(times), level)


def logrank(first: Times, second: Times, exact: bool | Literal["auto"] = "auto") -> tuple[float, float]:
    """The log-rank test of equal survival: the statistic (O - E)² / Var, and its two-sided p-value.

    O - E: the runs of the first arm that reached the target, less those expected from its share of the runs at risk. exact: True,
    the p-value is the share of all divisions of the runs into arms of these sizes with |O - E| as large as that seen; False, that
    of chi-squared with one degree of freedom, which rejects 8.6 % of the time at 3 runs a side where 5 % were asked; "auto":
    exact up to 200,000 divisions. No exact p-value is below 0.1 with 3 runs a side, and below 0.0079 with 5.

    The statistic is NaN, and p is 1, if no run reached the target. Source: Mantel 1966; Peto & Peto 1972.
    """
    from scipy.special import erfc

    end = np.concatenate([first.end, second.end])
    reached = np.concatenate([first.reached, second.reached])
    at = np.unique(end[reached])
    at_risk = (end[None] >= at[:, None]).sum(1)
    events = ((end[None] == at[:, None]) & reached[None]).sum(1)
    if len(at) == 0:
        return math.nan, 1.0
    of_first = (first.end[None] >= at[:, None]).sum(1) / at_risk
    spread = np.where(at_risk > 1, (at_risk - events) / np.maximum(at_risk - 1, 1), 0.0)
    variance = float((events * of_first * (1 - of_first) * spread).sum())
    # O - E is a sum of scores of the runs of an arm: its event less the cumulative hazard up to its end.
    scores = reached - (events / at_risk * (at[None] <= end[:, None])).sum(1)
    seen = float(scores[: len(first)].sum())
    statistic = seen**2 / variance if variance > 0 else math.nan
    if exact is True or (exact == "auto" and math.comb(len(end), len(first)) <= _MOST_DIVISIONS):
        divisions = np.array(list(combinations(range(len(end)), len(first))))
        return statistic, float((np.abs(scores[divisions].sum(1)) >= abs(seen) - 1e-9).mean())
    return statistic, float(erfc(math.sqrt(statistic / 2))) if variance > 0 else 1.0
