"""Distributions of scores: performance profiles and the probability of improvement.

Scores are sequences of arrays, one for each task, with one value for each run. Higher is better (negate losses and times);
minus infinity is a diverged run.

Source: Agarwal et al. 2021, arXiv 2108.13264 (profiles: Dolan & More 2002, arXiv cs/0102001).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, outcomes
from optbench.analysis.statistics.intervals import Interval, Tasks, bootstrap, percentile_bounds
from optbench.analysis.statistics.settings import seeds_only


def scores_by_task(
    runs: pd.DataFrame, metric: str, method: str = "optimizer", task: Sequence[str] = ("model", "dataset", "batch")
) -> dict[str, list[np.ndarray]]:
    """For every method, one array for each task with the metric of its runs; all methods have the same order of tasks.

    A task is left out for all methods if one of them has no run with an outcome, so that all tasks compare the same methods.
    """
    runs = seeds_only(runs, [method, *task])
    table = runs.assign(_value=outcomes(runs, metric)).dropna(subset=["_value"])
    methods = sorted(table[method].unique())
    scores: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for _, cell in cells(table, task):
        values = {key[method]: rows["_value"].to_numpy(float) for key, rows in cells(cell, [method])}
        if len(values) == len(methods):
            for name in methods:
                scores[name].append(values[name])
    return scores


def performance_profile(tasks: Tasks, thresholds: np.ndarray) -> np.ndarray:
    """The fraction of all runs, pooled over tasks, whose score is above each of the thresholds."""
    pooled = np.sort(np.concatenate([*tasks]))
    return (len(pooled) - np.searchsorted(pooled, thresholds, side="right")) / len(pooled)


def profile_with_band(
    tasks: Tasks, thresholds: np.ndarray, repetitions: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """`performance_profile` with the pointwise band of a stratified bootstrap; columns threshold, fraction, low, high."""
    arrays = [np.asarray(task, dtype=float) for task in tasks]
    generator = np.random.default_rng(seed)
    resampled = np.array([
        performance_profile([task[generator.integers(len(task), size=len(task))] for task in arrays], thresholds)
        for _ in range(repetitions)
    ])  # fmt: skip
    bounds = np.array([percentile_bounds(column, level) for column in resampled.T])
    fraction = performance_profile(arrays, thresholds)
    return pd.DataFrame({"threshold": thresholds, "fraction": fraction, "low": bounds[:, 0], "high": bounds[:, 1]})


def probability_of_improvement(
    first: Tasks, second: Tasks, repetitions: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The probability that a run of the first method beats one of the second on the same task, averaged over tasks.

    On one task it is the Mann-Whitney U / (n m): the share of pairs in which the first is better, where ties (such as two
    diverged runs) count half. Interval by the stratified bootstrap of both methods' runs.
    """
    if len(first) != len(second):
        raise ValueError(f"the methods ran on {len(first)} and {len(second)} tasks; they must be the same tasks")

    def statistic(tasks: list[np.ndarray]) -> np.ndarray:
        pairs = zip(tasks[: len(first)], tasks[len(first) :], strict=True)
        found: np.ndarray = np.mean([_better(x, y) for x, y in pairs], axis=0)
        return found

    return bootstrap(statistic, [*first, *second], repetitions, level, seed)


def _better(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    left, right = x[..., :, None], y[..., None, :]
    found: np.ndarray = ((left > right) + 0.5 * (left == right)).mean(axis=(-2, -1))
    return found
