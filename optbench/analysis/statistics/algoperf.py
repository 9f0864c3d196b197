"""AlgoPerf's score: performance profiles of times to a target, and the area under them.

``times`` is a frame with one row for each method and one column for each workload; a method that misses the target has infinity.
The time of method s on workload w over that of the fastest is r_sw = t_sw / min_s t_sw, its profile rho_s(tau) is the share of
workloads with r_sw <= tau, and its score is the mean height of the profile,

    B_s = 1 / (r_max - 1) * integral from 1 to r_max of rho_s(tau) dtau
        = mean over workloads of max(0, r_max - r_sw) / (r_max - 1),

where the second form is exact. The scores depend on the set of methods.

Source: Dahl et al. 2023, "Benchmarking neural network training algorithms", arXiv 2306.07179, and the benchmark's documentation.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from optbench.analysis.statistics.search_intervals import SearchInterval, nested_interval
from optbench.analysis.statistics.time_search import Resamples, TimeSearch

R_MAX = 4.0


def ratios(times: pd.DataFrame) -> pd.DataFrame:
    """r_sw: times over the fastest on the same workload; infinity if the target was missed, also by all methods.

    Raises ValueError if a time is not positive or not a number.
    """
    values = times.to_numpy(float)
    if not (values > 0).all():
        raise ValueError("times must be positive; a method that misses the target has infinity")
    return pd.DataFrame(_ratios(values), index=times.index, columns=times.columns)


def _ratios(times: np.ndarray) -> np.ndarray:
    """`ratios` of arrays (..., methods, workloads)."""
    fastest = times.min(axis=-2, keepdims=True)
    return np.where(np.isinf(times), math.inf, times / np.where(np.isinf(fastest), 1.0, fastest))


def scores(times: pd.DataFrame, r_max: float = R_MAX) -> pd.Series:
    """B_s of every method, between 0 and 1, by the exact integral; a workload that no method solves adds 0 to all."""
    return pd.Series(_heights(ratios(times).to_numpy(), r_max), index=times.index)


def _heights(table: np.ndarray, r_max: float) -> np.ndarray:
    """The mean height of the profiles (..., methods) of ratios (..., methods, workloads)."""
    found: np.ndarray = np.maximum(0.0, r_max - table).mean(axis=-1) / (r_max - 1)
    return found


def score_intervals(
    searches: Mapping[str, Sequence[TimeSearch]],
    r_max: float = R_MAX,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, SearchInterval]:
    """The score of every method by the best trials of its searches, with intervals that hold the searches.

    The time on a workload is the restricted mean of the best trial, and infinity if less than half of its seeds reach the target.
    A resample draws trials and seeds with replacement and chooses the best trials again, as in `search_intervals`; workloads on
    which a method has equally many trials and seeds share the draws. The interval is e ± t se, cut at 0 and 1, with as many
    degrees of freedom as the smallest search has trials, less one; a single seed has none.

    searches: for every method one for each workload, in the same order. Raises ValueError if their numbers differ.
    """
    workloads = len(next(iter(searches.values())))
    if any(len(own) != workloads for own in searches.values()):
        raise ValueError("all methods must have times on the same workloads")
    observed, drawn = [], []
    for label, own in enumerate(searches.values()):
        of_search = [Resamples.whole(search).best(search) for search in own]
        resampled = [Resamples.of(search, repetitions, seed, label).best(search) for search in own]
        observed.append(np.stack([_time(*found) for found in of_search], axis=-1))
        drawn.append(np.stack([_time(*found) for found in resampled], axis=-1))
    estimates, values = (_heights(_ratios(np.stack(each, axis=1)), r_max) for each in (observed, drawn))
    trials, seeds = np.min([search.lower.shape for own in searches.values() for search in own], axis=0)
    found = {}
    for name, estimate, column in zip(searches, estimates[0], values.T, strict=True):
        interval = nested_interval(float(estimate), column, float(trials - 1) if seeds > 1 else 0.0, level)
        low, high = (
            min(max(bound, 0.0), 1.0) if math.isfinite(bound) else bound for bound in (interval.low, interval.high)
        )
        found[name] = dataclasses.replace(interval, low=low, high=high)
    return found


def _time(means: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.where(shares >= 0.5, means, math.inf)
