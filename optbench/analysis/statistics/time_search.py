"""Times to a target of the trials of a search: which trial is the best, and how sure its time is for another such search.

The estimate is the restricted mean of the best trial: min(T, horizon), averaged over seeds. Intervals are about the search: a
resample draws trials and seeds with replacement, and chooses the best trial again. Seeds of the chosen trial alone would say how
sure the time of this one setting is, which is a narrower question.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells
from optbench.analysis.laws.scaling_laws import exponents
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.search_intervals import Search, means_over_seeds, winner

# From so many intervals between evaluations on, the line between two of them is close enough to a curve.
_RESOLVED = 5


@dataclass(frozen=True)
class TimeSearch:
    """Times to a target of the runs (trials, seeds) of one search, with a budget that is common to all that is compared.

    lower, upper: the time lies between them, or is equal to both; both are infinite if the run never reached the target, and NaN
    if it has no outcome. horizon: the budget, at which the runs that did not reach the target count. defaults: a resample
    always has the first trial, as a search does that begins with the defaults.

    Raises ValueError for shapes that differ, for bounds out of order, and without a trial.
    """

    lower: np.ndarray
    upper: np.ndarray
    horizon: float
    defaults: bool = False

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape or self.lower.ndim != 2 or not len(self.lower):
            raise ValueError(f"times of shapes {self.lower.shape} and {self.upper.shape}: both must be (trials, seeds)")
        if (self.lower > self.upper).any() or (np.isnan(self.lower) != np.isnan(self.upper)).any():
            raise ValueError("times must have lower bounds that do not exceed the upper ones")

    @property
    def unresolved(self) -> np.ndarray:
        """True for each run whose time is known only to lie between two bounds."""
        found: np.ndarray = self.lower < self.upper
        return found

    def times(self, place: float = 0.5) -> np.ndarray:
        """min(T, horizon) of the runs, with unresolved ones at ``place``, from 0 to 1, of the way between their bounds."""
        width = np.subtract(self.upper, self.lower, out=np.zeros(self.lower.shape), where=self.unresolved)
        found: np.ndarray = np.minimum(self.lower + place * width, self.horizon)
        return found

    def restricted_means(self, place: float = 0.5) -> np.ndarray:
        """The mean of the times (trials,) over the seeds that have an outcome; infinity for a trial that has none."""
        found: np.ndarray = _means(self.times(place), np.ones((1, self.lower.shape[1])))[0]
        return found

    @property
    def winners(self) -> np.ndarray:
        """The indices of the best trials: least restricted mean, then least worst seed. What still ties is all of them."""
        times = self.times()
        return np.array(winner(Search(times, times, higher=False)), dtype=int)

    @property
    def reached_at_all(self) -> bool:
        """True if any run reached the target within the horizon."""
        return bool((self.upper <= self.horizon).any())

    def reached(self) -> np.ndarray:
        """The share of the runs (trials,) with an outcome that reached the target within the horizon; NaN without an outcome."""
        known = ~np.isnan(self.upper)
        count = known.sum(axis=1)
        return np.where(count > 0, (self.upper <= self.horizon).sum(axis=1) / np.maximum(count, 1), math.nan)


def searches(runs: pd.DataFrame, horizon: float, batch: str = "batch") -> dict[float, TimeSearch]:
    """The search of ONE optimizer at every batch size, of a frame of runs with the columns of `targets.times_to_target`.

    Row i of all searches is the same trial, in ascending order, and column j the same seed. A time of fewer than five times the
    distance of the evaluations around it enters as the interval between them, because a line between them is off there. The
    defaults are resampled like other trials, which covers better (`optbench.analysis.statistics.searches`).
    """
    trials, seeds = (sorted(runs[name].unique()) for name in ("trial", "seed"))
    found = {}
    for key, cell in cells(runs, [batch]):
        grids = [
            cell.pivot(index="trial", columns="seed", values=name).reindex(trials, columns=seeds).to_numpy(float)
            for name in ("steps_to_target", "steps_before", "steps_after")
        ]
        exact, before, after = grids
        with np.errstate(invalid="ignore"):
            early = exact < _RESOLVED * (after - before)
        lower, upper = np.where(early, before, exact), np.where(early, after, exact)
        found[float(key[batch])] = TimeSearch(lower, upper, horizon)
    return found


# ---- resamples ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resamples:
    """Draws of a search: the trials (N, trials) that it has, weights (N, seeds) of its seeds, and places of unresolved times."""

    trials: np.ndarray
    seeds: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, search: TimeSearch, repetitions: int, seed: int = 0, label: int = 0) -> "Resamples":
        """As many trials and seeds as ``search`` has, drawn with replacement.

        Searches with the same seed and label share trials, as the batch sizes of one optimizer do; with another label they share
        only their seeds.
        """
        trials, seeds = search.lower.shape
        first = int(search.defaults)
        of_seeds, of_trials = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, label])
        drawn = np.ones((repetitions, trials), dtype=bool)
        if trials > first:
            others = of_trials.integers(trials - first, size=(repetitions, trials - first))
            drawn[:, first:] = (others[:, :, None] == np.arange(trials - first)).any(axis=1)
        weights = of_seeds.multinomial(seeds, np.full(seeds, 1 / seeds), repetitions)
        return cls(drawn, weights, of_trials.uniform(size=repetitions))

    @classmethod
    def whole(cls, search: TimeSearch) -> "Resamples":
        """The search itself, with unresolved times in the middle."""
        trials, seeds = search.lower.shape
        return cls(np.ones((1, trials), dtype=bool), np.ones((1, seeds)), np.full(1, 0.5))

    def best(self, search: TimeSearch) -> tuple[np.ndarray, np.ndarray]:
        """The restricted mean (N,) of the best trial of each draw, and the share of its seeds that reached the target."""
        low, high = (_means(search.times(place), self.seeds) for place in (0.0, 1.0))
        known_mean = np.isfinite(low)
        means = low + self.places[:, None] * np.subtract(high, low, out=np.zeros_like(low), where=known_mean)
        means = np.where(self.trials, means, math.inf)
        chosen = means.argmin(axis=1)
        known = ~np.isnan(search.upper)
        shares = _ratio(self.seeds @ (search.upper <= search.horizon).T, self.seeds @ known.T)
        rows = np.arange(len(means))
        return means[rows, chosen], shares[rows, chosen]


def _means(times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The means (N, trials) of times (trials, seeds) with the weights (N, seeds); infinity without an outcome."""
    means = means_over_seeds(times, weights)
    return np.where(np.isnan(means), math.inf, means)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.divide(sums, counts, out=np.full(sums.shape, math.nan), where=counts > 0)
    return found


# ---- comparisons --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeRatios:
    """Ratios of the restricted means of the best trials at every common batch size, and the slope of log ratio over log batch."""

    ratios: dict[float, Interval]
    trend: Interval


def time_ratios(
    first: Mapping[float, TimeSearch],
    second: Mapping[float, TimeSearch],
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> TimeRatios:
    """The restricted means of the best trials of ``first`` over those of ``second``, for searches with trials of their own.

    Batch sizes at which no run of one of them reached the target have no part. At one batch size the ratio of steps is that of
    examples. Intervals are those of the logarithm (of the slope itself), with the standard deviation of resamples and Student's t
    of T - 1 degrees of freedom, T the smaller number of trials. Percentiles of the resamples would be shifted: a resample holds
    the best trial only with probability 1 - (1 - 1/T)^T, about 0.64. A single seed or fewer than three trials has no interval,
    and fewer than three batch sizes no trend.
    """
    from scipy.special import stdtrit

    sizes = [
        size for size in sorted(set(first) & set(second)) if all(each[size].reached_at_all for each in (first, second))
    ]
    if not sizes:
        return TimeRatios({}, Interval(math.nan, math.nan, math.nan, level))
    logs, draws = np.zeros(len(sizes)), np.zeros((repetitions, len(sizes)))
    for sign, found in ((1, first), (-1, second)):
        drawn = Resamples.of(found[sizes[0]], repetitions, seed, label=sign + 1)
        logs += sign * np.log([found[size].restricted_means().min() for size in sizes])
        best = np.stack([drawn.best(found[size])[0] for size in sizes], axis=1)
        draws += sign * np.log(np.where(np.isfinite(best), best, math.nan))
    # A resample without an outcome at some batch size, which only unfinished sweeps have, is left out.
    draws = draws[np.isfinite(draws).all(axis=1)]
    trials, seeds = np.min([found[sizes[0]].lower.shape for found in (first, second)], axis=0)
    known = seeds > 1 and trials > 2 and len(draws) > 1
    quantile = float(stdtrit(trials - 1, (1 + level) / 2)) if known else math.nan

    def interval(estimate: float, values: np.ndarray) -> Interval:
        width = quantile * float(values.std(ddof=1)) if known else math.nan
        return Interval(float(estimate), estimate - width, estimate + width, level)

    ratios = {size: interval(log, column).exp() for size, log, column in zip(sizes, logs, draws.T, strict=True)}
    slopes = exponents(np.array(sizes), np.exp(np.vstack([logs, draws])))
    trend = interval(slopes[0], slopes[1:]) if len(sizes) > 2 else Interval(math.nan, math.nan, math.nan, level)
    return TimeRatios(ratios, trend)
