"""Estimates with intervals: the stratified percentile bootstrap, and statistics of runs on several tasks.

Scores on several tasks are a sequence of arrays, one for each task, with one value for each run; tasks may differ in their number
of runs. The statistics take arrays of shape (..., runs), so that all resamples of a bootstrap are computed in one call.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", arXiv 2108.13264.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Tasks = Sequence[np.ndarray]
# The number of values resampled at a time, which bounds the memory of a bootstrap.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its interval.

    level: the nominal coverage of the interval. undefined: the share of resamples in which the statistic does not exist (such
    as a fit through a single point); the bounds come from the others.

    Formatted with the format of its numbers, f"{interval:.2f}", it is "0.93 [0.81, 1.06]"; without bounds "0.93".
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95
    undefined: float = 0.0

    def exp(self) -> "Interval":
        """The interval of a quantity of which this is the logarithm's."""
        estimate, low, high = (math.exp(value) for value in (self.estimate, self.low, self.high))
        return Interval(estimate, low, high, self.level, self.undefined)

    def __format__(self, numbers: str) -> str:
        bounds = "" if math.isnan(self.low) else f" [{self.low:{numbers}}, {self.high:{numbers}}]"
        return f"{self.estimate:{numbers}}{bounds}"


def percentile_bounds(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The bounds between which ``level`` of the values lie, with equal numbers below and above; NaN is left out.

    They are order statistics, not interpolated quantiles, because values may be infinite.
    """
    ordered = np.sort(values[~np.isnan(values)])
    if len(ordered) == 0:
        return math.nan, math.nan
    # Rounded: 1 - 0.9 is a little less than 0.1.
    position = round((1 - level) / 2 * (len(ordered) - 1), 9)
    return float(ordered[math.floor(position)]), float(ordered[len(ordered) - 1 - math.floor(position)])


def interval_of_draws(values: np.ndarray, resampled: np.ndarray, stretch: float = 1.0, level: float = 0.95) -> Interval:
    """About the median of ``values``, with the quantiles of ``resampled``, whose arms are made ``stretch`` times as long.

    values: in each draw of what is not known. resampled: the same with resampled seeds, which may lie to one side. NaN if the
    value does not exist in more than half of the draws; ``undefined`` is the share in which it does not.
    """
    undefined = float(np.isnan(values).mean())
    if undefined > 0.5:
        return Interval(math.nan, math.nan, math.nan, level, undefined)
    middle = float(np.nanmedian(values))
    low, high = percentile_bounds(resampled, level)
    low, high = min(low, middle), max(high, middle)
    return Interval(middle, middle - stretch * (middle - low), middle + stretch * (high - middle), level, undefined)


def bootstrap(
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    tasks: Tasks,
    repetitions: int = 50_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The stratified percentile bootstrap: runs are resampled, with replacement, within each task.

    statistic: of a list of arrays (..., runs), one for each task, over the last axis. repetitions: 50,000 as in the source.

    With only three or five runs of one task the interval is too narrow (at n = 3 a 95 % interval of a mean covers about
    75 %): pool tasks, or use `student`.
    """
    tasks = _checked(tasks)
    estimate = float(statistic(tasks))
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // sum(len(task) for task in tasks))
    values = []
    for start in range(0, repetitions, chunk):
        size = min(chunk, repetitions - start)
        values.append(statistic([task[generator.integers(len(task), size=(size, len(task)))] for task in tasks]))
    return _interval(estimate, np.concatenate(values), level)


def bootstrap_fit(
    fit: Callable[[list[np.ndarray]], Sequence[float]],
    strata: Sequence[np.ndarray],
    repetitions: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    resampled_fit: Callable[[list[np.ndarray]], Sequence[float]] | None = None,
) -> list[Interval]:
    """As `bootstrap`, for statistics that are computed one resample at a time: one interval for each of their values.

    fit: of a list of arrays (observations, ...), one for each stratum; a value that does not exist is NaN. resampled_fit:
    replaces ``fit`` for the resamples, if these also draw an unobserved quantity.
    """
    strata, refit = _checked(strata), resampled_fit or fit
    estimates = np.asarray(fit(strata), dtype=float)
    generator = np.random.default_rng(seed)
    values = np.array([
        refit([stratum[generator.integers(len(stratum), size=len(stratum))] for stratum in strata])
        for _ in range(repetitions)
    ], dtype=float)  # fmt: skip
    return [_interval(float(estimate), column, level) for estimate, column in zip(estimates, values.T, strict=True)]


def _checked(strata: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [np.asarray(stratum, dtype=float) for stratum in strata]
    if not arrays or any(len(array) == 0 for array in arrays):
        raise ValueError("there must be at least one task, and at least one run of each")
    if any(np.isnan(array).any() for array in arrays):
        raise ValueError("a run without an outcome (NaN) cannot be resampled: count it, and leave it out")
    return arrays


def _interval(estimate: float, values: np.ndarray, level: float) -> Interval:
    low, high = percentile_bounds(values, level)
    return Interval(estimate, low, high, level, float(np.isnan(values).mean()))


# ---- statistics of tasks ------------------------------------------------------------------------------------------------


def mean(tasks: Tasks) -> np.ndarray:
    """The mean over tasks of the mean over runs: every task has equal weight."""
    found: np.ndarray = np.mean([task.mean(axis=-1) for task in tasks], axis=0)
    return found


def interquartile_mean(tasks: Tasks) -> np.ndarray:
    """The mean of the middle half of all runs, pooled over tasks: floor(n / 4) are cut at either side.

    It is finite if less than a quarter of the runs diverged; the weight of a task is its number of runs.
    """
    pooled = np.sort(np.concatenate([*tasks], axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    found: np.ndarray = pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)
    return found


def optimality_gap(tasks: Tasks, optimum: float = 1.0) -> np.ndarray:
    """The mean distance of the runs, pooled over tasks, below ``optimum``: optimum - mean(min(score, optimum))."""
    pooled = np.concatenate([*tasks], axis=-1)
    found: np.ndarray = optimum - np.minimum(pooled, optimum).mean(axis=-1)
    return found


# ---- one sample ---------------------------------------------------------------------------------------------------------


def student(values: np.ndarray, level: float = 0.95) -> Interval:
    """The mean and Student's t interval, exact for normal values even with few seeds.

    The bounds are NaN for a single value; without values all is NaN.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=float)
    if not len(values):
        return Interval(math.nan, math.nan, math.nan, level)
    centre, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(centre, math.nan, math.nan, level)
    width = float(stdtrit(n - 1, (1 + level) / 2)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(centre, centre - width, centre + width, level)


def runs_needed(deviation: float, difference: float, power: float = 0.8, level: float = 0.95) -> int:
    """The number of runs of each of two methods that detects a ``difference`` of their means, at a ``deviation`` between runs.

    n = 2 (z_{(1 + level) / 2} + z_power)^2 deviation^2 / difference^2, for normal values that are not paired.
    """
    from scipy.special import ndtri

    quantiles = float(ndtri((1 + level) / 2) + ndtri(power))
    return math.ceil(2 * (quantiles * deviation / difference) ** 2)
