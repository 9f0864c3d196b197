"""AlgoPerf's score: performance profiles of times to a target, and the area under them.

``times`` is a frame with one row for each method and one column for each workload; a method that misses the target has infinity.
The time of method s on workload w over that of the fastest is r_sw = t_sw / min_s t_sw, its profile rho_s(tau) is the share of
workloads with r_sw <= tau, and its score is the mean height of the profile,

    B_s = 1 / (r_max - 1) * integral from 1 to r_max of rho_s(tau) dtau
        = mean over workloads of max(0, r_max - r_sw) / (r_max - 1),

where the second form is exact. The scores depend on the set of methods.

Source: Dahl et al. 2023, "Benchmarking neural network training algorithms", arXiv 2306.07179, and the benchmark's documentation.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import Interval, bootstrap_fit

R_MAX = 4.0


def ratios(times: pd.DataFrame) -> pd.DataFrame:
    """r_sw: times over the fastest on the same workload; infinity if the target was missed, also by all methods.

    Raises ValueError if a time is not positive or not a number.
    """
    values = times.to_numpy(float)
    if not (values > 0).all():
        raise ValueError("times must be positive; a method that misses the target has infinity")
    fastest = values.min(axis=0)
    divided = np.where(np.isinf(values), math.inf, values / np.where(np.isinf(fastest), 1.0, fastest))
    return pd.DataFrame(divided, index=times.index, columns=times.columns)


def scores(times: pd.DataFrame, r_max: float = R_MAX) -> pd.Series:
    """B_s of every method, between 0 and 1, by the exact integral; a workload that no method solves adds 0 to all."""
    table = ratios(times).to_numpy()
    return pd.Series(np.maximum(0.0, r_max - table).mean(axis=1) / (r_max - 1), index=times.index)


def score_intervals(
    samples: Mapping[str, Sequence[np.ndarray]],
    r_max: float = R_MAX,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """The score of every method by its median times over seeds, with a bootstrap of the seeds within each workload.

    samples: for every method one array for each workload, in the same order, as from `profiles.scores_by_task` for a time to
    target.
    """
    methods = list(samples)
    workloads = len(samples[methods[0]])
    if any(len(samples[name]) != workloads for name in methods):
        raise ValueError("all methods must have times on the same workloads")

    def fit(arrays: list[np.ndarray]) -> list[float]:
        medians = np.array([np.median(array) for array in arrays]).reshape(len(methods), workloads)
        return scores(pd.DataFrame(medians, index=methods), r_max).tolist()

    strata = [array for name in methods for array in samples[name]]
    return dict(zip(methods, bootstrap_fit(fit, strata, repetitions, level, seed), strict=True))
