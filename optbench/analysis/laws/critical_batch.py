"""Steps to a target against batch size: the three regimes, and the critical batch size.

    S(B) = S_min (1 + B_c / B)

Far below B_c the steps are inversely proportional to the batch (perfect scaling), far above they are constant (maximal data
parallelism). With E = B S examples and E_min = S_min B_c it is the same as (S / S_min - 1)(E / E_min - 1) = 1.

Sources: Shallue et al. 2019, arXiv 1811.03600 (regimes); McCandlish et al. 2018, arXiv 1812.06162 (the form).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import Interval, percentile_bounds
from optbench.analysis.statistics.time_search import Resamples, TimeSearch

# Log-log slopes that bound the regimes: our own choice, for batches that differ by a factor of about 2.
PERFECT, MAXIMAL = -0.9, -0.1
# The critical batch size is searched from 1 / _BEYOND of the smallest batch to _BEYOND times the largest.
_BEYOND, _GRID, _ROUNDS = 1000.0, 201, 5
# The number of fits at a time, which bounds the memory.
_CHUNK = 500
_LIMITS = ("", "perfect scaling", "no scaling")
# The share of runs that must reach the target for a restricted mean to be a point of the fit.
_ENOUGH = 0.8
# B_c is not identified if it changes by more than the factor _ENDS between unresolved times at these places between their bounds,
# if its interval is wider than the factor _WIDEST, or if more than this share of resamples has none. Our own choices.
_PLACES, _ENDS, _WIDEST, _UNDEFINED = (0.1, 0.9), 2.0, 10, 0.05


@dataclass(frozen=True)
class CriticalBatch:
    """The fit of S_min (1 + B_c / B).

    limit: "" if the data determine B_c; "perfect scaling" if no batch deviates from S ~ 1/B (the given B_c is a lower bound, and
    S_min an upper bound); "no scaling" if S does not fall (the given B_c is an upper bound). residual: root mean square of
    log2(S / fit).
    """

    steps_min: float
    batch: float
    residual: float
    limit: str = ""

    @property
    def examples_min(self) -> float:
        """E_min = S_min B_c, the smallest number of examples, reached at small batches."""
        return self.steps_min * self.batch

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Steps to the target at ``batch``."""
        return self.steps_min * (1 + self.batch / np.asarray(batch, dtype=float))


def fit_critical_batch(batches: np.ndarray, steps: np.ndarray, bounds: np.ndarray | None = None) -> CriticalBatch:
    """Least squares on log S with positive parameters: B_c is searched, and the best log S_min for each B_c is a mean.

    bounds: where True, the steps are only a lower bound, which takes part if the fit would pass below it. Batches that did not
    reach the target (infinity) are left out. Everything is NaN unless 2 different batches remain that are no bounds.
    """
    values = np.asarray(steps, dtype=float)
    below = np.zeros(len(values), dtype=bool) if bounds is None else np.asarray(bounds, dtype=bool)
    (found,) = fits(np.asarray(batches, dtype=float), values[None], below[None])
    steps_min, place, residual, limit = map(float, found)
    return CriticalBatch(steps_min, place, residual, _LIMITS[0 if math.isnan(limit) else int(limit)])


def fits(sizes: np.ndarray, steps: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """`fit_critical_batch` of the rows of ``steps`` and ``bounds`` (N, B): S_min, B_c, residual and index of the limit (N, 4).

    The index is that in ("", "perfect scaling", "no scaling").
    """
    kept = np.isfinite(steps)
    found = np.full((len(steps), 4), math.nan)
    patterns, rows = np.unique(np.hstack([kept, kept & bounds]), axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        used, below = np.split(pattern, 2)
        if (used & ~below).sum() < 2:
            continue
        chosen = np.flatnonzero(rows.ravel() == number)
        for start in range(0, len(chosen), _CHUNK):
            part = chosen[start : start + _CHUNK]
            found[part] = _fits_of_pattern(sizes[used], np.log(steps[part][:, used]), below[used])
    return found


def _fits_of_pattern(sizes: np.ndarray, logs: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`fits` of rows that are finite and have the same bounds ``below`` (B,)."""
    first, last = math.log(sizes.min() / _BEYOND), math.log(sizes.max() * _BEYOND)
    rows = np.arange(len(logs))
    low, high = np.full(len(logs), first), np.full(len(logs), last)
    for _ in range(_ROUNDS):
        candidates = np.linspace(low, high, _GRID, axis=1)
        rest = logs[:, None] - np.log1p(np.exp(candidates)[:, :, None] / sizes)
        level, errors = _levels(rest, below)
        best = errors.argmin(axis=1)
        low, high = candidates[rows, np.maximum(best - 1, 0)], candidates[rows, np.minimum(best + 1, _GRID - 1)]
    place = candidates[rows, best]
    width = (last - first) / (_GRID - 1)
    limit = np.where(place > last - width, 1, np.where(place < first + width, 2, 0))
    residual = np.sqrt(np.maximum(errors[rows, best], 0.0)) / math.log(2)
    return np.column_stack([np.exp(level[rows, best]), np.exp(place), residual, limit])


def _levels(rest: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log S_min and the mean squared error for log S - log(1 + B_c / B) (..., B), of which those ``below`` are lower bounds."""
    if not below.any():
        return rest.mean(axis=-1), rest.var(axis=-1)
    part = np.broadcast_to(~below, rest.shape)
    for _ in range(int(below.sum()) + 1):
        level = np.where(part, rest, 0.0).sum(axis=-1) / part.sum(axis=-1)
        part = ~below | (rest > level[..., None])
    errors = np.where(part, (rest - level[..., None]) ** 2, 0.0).sum(axis=-1) / part.sum(axis=-1)
    return level, errors


def local_slopes(batches: np.ndarray, steps: np.ndarray) -> pd.DataFrame:
    """The log-log slope between neighbouring batch sizes, and the regime that it means.

    Columns batch_low, batch_high, slope, regime: "perfect" for a slope of at most -0.9, "diminishing" below -0.1, else "maximal";
    "not reached", with a slope of NaN, if one of the two has no finite steps.
    """
    order = np.argsort(np.asarray(batches, dtype=float))
    sizes, values = np.asarray(batches, dtype=float)[order], np.asarray(steps, dtype=float)[order]
    rows = []
    for low, high, before, after in zip(sizes[:-1], sizes[1:], values[:-1], values[1:], strict=True):
        known = math.isfinite(before) and math.isfinite(after)
        slope = math.log(after / before) / math.log(high / low) if known else math.nan
        rows.append((low, high, slope, regime(slope)))
    return pd.DataFrame(rows, columns=["batch_low", "batch_high", "slope", "regime"])


def regime(slope: float) -> str:
    """The name of a local slope's regime, as in `local_slopes`."""
    if math.isnan(slope):
        return "not reached"
    return "perfect" if slope <= PERFECT else "diminishing" if slope < MAXIMAL else "maximal"


# ---- of searches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CriticalBatchIntervals:
    """S_min, B_c and E_min = S_min B_c of searches, with intervals for another search of the same kind.

    steps: the restricted mean of the best trial at every batch, with its interval. bounds: the batches at which too few runs
    reached the target, whose restricted mean is a lower bound. unresolved: those whose time is shorter than the distance of
    evaluations allows to know. ends: B_c with all unresolved times near their lower bounds, and near their upper ones.
    not_reached: batches at which no run reached the target, which have no part. undefined: the share of resamples in which B_c is
    beyond all batches by a factor of 1,000, or does not exist.
    """

    fit: CriticalBatch
    steps_min: Interval
    batch: Interval
    examples_min: Interval
    steps: dict[float, Interval]
    bounds: tuple[float, ...]
    unresolved: tuple[float, ...]
    ends: tuple[float, float]
    not_reached: tuple[float, ...]
    undefined: float

    @property
    def not_identified(self) -> str:
        """The reason for which the data do not determine B_c; "" if they do."""
        if self.fit.limit or math.isnan(self.fit.batch):
            return self.fit.limit or "fewer than two batch sizes have a time"
        if max(self.ends) > _ENDS * min(self.ends):
            return "times shorter than the distance of evaluations decide"
        if not self.batch.high <= _WIDEST * self.batch.low:
            return f"the interval is wider than a factor of {_WIDEST}"
        return f"{self.undefined:.0%} of resamples have none" if self.undefined > _UNDEFINED else ""


def critical_batch(
    searches: Mapping[float, TimeSearch], repetitions: int = 1000, level: float = 0.95, seed: int = 0
) -> CriticalBatchIntervals:
    """The fit to the restricted means of the best trials at every batch, with a nested bootstrap.

    A resample draws trials and seeds, the same at all batch sizes, chooses the best trial of each batch again, and fits again;
    the bounds are percentiles, which cover a critical batch .95 of the time where resamples of the chosen trials' seeds cover .65
    (12 trials, 5 seeds). The time of a batch at which less than 80 % of the runs of the best trial reached the target is a lower
    bound. Unresolved times are drawn between their bounds, at the same place for all runs of a resample.

    Raises ValueError unless all searches have the same numbers of trials and seeds and the same horizon.
    """
    if len({(search.lower.shape, search.horizon) for search in searches.values()}) > 1:
        raise ValueError("the searches of all batch sizes must have the same trials, seeds and horizon")
    sizes = np.array([size for size in sorted(searches) if searches[size].reached_at_all])
    not_reached = tuple(float(size) for size in sorted(searches) if not searches[size].reached_at_all)
    found = [searches[size] for size in sizes]
    means = np.array([search.restricted_means().min() for search in found])
    bounds = np.array([search.reached()[search.winners].mean() < _ENOUGH for search in found], dtype=bool)
    fit = fit_critical_batch(sizes, means, bounds)
    at_ends = [np.array([search.restricted_means(place).min() for search in found]) for place in _PLACES]
    ends = [fit_critical_batch(sizes, each, bounds).batch for each in at_ends]
    resampled, draws = _resampled(searches, sizes, repetitions, seed)
    one_seed = any(search.lower.shape[1] < 2 for search in found)

    def interval(estimate: float, values: np.ndarray) -> Interval:
        low, high = (math.nan, math.nan) if one_seed else percentile_bounds(values, level)
        return Interval(float(estimate), low, high, level, float(np.isnan(values).mean()) if len(values) else 0.0)

    columns = dict(zip(sizes, np.where(np.isfinite(draws), draws, math.nan).T, strict=True))
    return CriticalBatchIntervals(
        fit,
        interval(fit.steps_min, resampled[:, 0]),
        interval(fit.batch, resampled[:, 1]),
        interval(fit.examples_min, resampled[:, 0] * resampled[:, 1]),
        {float(size): interval(mean, columns[size]) for size, mean in zip(sizes, means, strict=True)},
        tuple(map(float, sizes[bounds])),
        tuple(float(size) for size in sizes if searches[size].unresolved[searches[size].winners].any()),
        (ends[0], ends[1]),
        not_reached,
        float((resampled[:, 3] != 0).mean()),
    )


def critical_batch_ratio(
    first: Mapping[float, TimeSearch],
    second: Mapping[float, TimeSearch],
    repetitions: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """B_c of ``first`` over that of ``second``, for searches with trials of their own and the same seeds.

    The interval is that of a normal logarithm, with the standard deviation of the resamples: it covers .93 to .96.
    """
    from scipy.special import ndtri

    drawn = []
    for label, searches in enumerate((first, second)):
        sizes = np.array([size for size in sorted(searches) if searches[size].reached_at_all])
        drawn.append(_resampled(searches, sizes, repetitions, seed, label)[0][:, 1])
    estimate = critical_batch(first, 1).batch.estimate / critical_batch(second, 1).batch.estimate
    logs = np.log(drawn[0] / drawn[1])
    logs = logs[np.isfinite(logs)]
    one_seed = any(search.lower.shape[1] < 2 for searches in (first, second) for search in searches.values())
    if one_seed or len(logs) < 2:
        return Interval(estimate, math.nan, math.nan, level)
    width = float(ndtri((1 + level) / 2)) * float(logs.std(ddof=1))
    undefined = 1 - len(logs) / repetitions
    return Interval(estimate, estimate * math.exp(-width), estimate * math.exp(width), level, undefined)


def _resampled(
    searches: Mapping[float, TimeSearch], sizes: np.ndarray, repetitions: int, seed: int, label: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`fits` of resamples that take the same trials and seeds at all ``sizes``, and their restricted means (N, B)."""
    if not len(sizes):
        return np.full((repetitions, 4), math.nan), np.zeros((repetitions, 0))
    drawn = Resamples.of(searches[sizes[0]], repetitions, seed, label)
    means, shares = (
        np.stack(columns, axis=1) for columns in zip(*(drawn.best(searches[size]) for size in sizes), strict=True)
    )
    return fits(sizes, means, shares < _ENOUGH), means
