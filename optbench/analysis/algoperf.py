"""AlgoPerf's score: performance profiles of times to a target, and the area under them.

``times`` is a frame with one row a method and one column a workload; a method that misses the target has infinity. The time
of method s on workload w over that of the fastest is r_sw = t_sw / min_s t_sw, its profile rho_s(tau) the share of workloads
with r_sw <= tau, and its score the mean height of the profile,

    B_s = 1 / (r_max - 1) * integral from 1 to r_max of rho_s(tau) dtau
        = mean over workloads of max(0, r_max - r_sw) / (r_max - 1),

of which the second form is exact. The scores depend on which methods take part.

Source: Dahl et al. 2023, "Benchmarking neural network training algorithms", arXiv 2306.07179, and the benchmark's documentation.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, identified, outcomes
from optbench.analysis.intervals import Interval, bootstrap_fit

R_MAX = 4.0


def study_medians(times: Mapping[str, np.ndarray]) -> pd.Series:
    """The time on every workload from repeated studies: of each study the fastest trial, and of these the median.

    times: for every workload an array (studies, trials).
    """
    return pd.Series({workload: float(np.median(np.min(array, axis=1))) for workload, array in times.items()})


def ratios(times: pd.DataFrame) -> pd.DataFrame:
    """r_sw: times over the fastest on the same workload; infinity where the target was missed, by others too.

    Raises ValueError when a time is not positive or not a number.
    """
    values = times.to_numpy(float)
    if not (values > 0).all():
        raise ValueError("times must be positive; a method that misses the target has infinity")
    fastest = values.min(axis=0)
    divided = np.where(np.isinf(values), math.inf, values / np.where(np.isinf(fastest), 1.0, fastest))
    return pd.DataFrame(divided, index=times.index, columns=times.columns)


def profiles(times: pd.DataFrame, taus: Sequence[float]) -> pd.DataFrame:
    """rho_s(tau), one row a method and one column a value of tau."""
    table = ratios(times).to_numpy()
    shares = {float(tau): (table <= tau).mean(axis=1) for tau in taus}
    return pd.DataFrame(shares, index=times.index)


def scores(times: pd.DataFrame, r_max: float = R_MAX) -> pd.Series:
    """B_s of every method, between 0 and 1, by the exact integral; a workload that no method solves adds 0 to all."""
    table = ratios(times).to_numpy()
    return pd.Series(np.maximum(0.0, r_max - table).mean(axis=1) / (r_max - 1), index=times.index)


def with_held_out(times: pd.DataFrame, held_out: pd.DataFrame, factor: float = R_MAX) -> pd.DataFrame:
    """``times`` with infinity where a method fails on the held-out variant of the workload.

    It fails when it misses the target there or takes more than ``factor`` times as long as the fastest method there.
    ``held_out`` has a column for each workload that has such a variant.
    """
    result = times.astype(float)
    variants = ratios(held_out.loc[times.index])
    for workload in variants.columns:
        result.loc[variants[workload] > factor, workload] = math.inf
    return result


def geometric_mean_speedup(times: pd.DataFrame, reference: str) -> pd.Series:
    """How many times faster than the ``reference`` method each one is, as the geometric mean over workloads.

    0 where a method misses a target that the reference reaches. Workloads that the reference misses are left out: it has no
    time that others could be compared with.
    """
    solved = times.loc[:, np.isfinite(times.loc[reference])]
    with np.errstate(divide="ignore"):
        logs = np.log(solved.loc[reference].to_numpy(float) / solved.to_numpy(float))
    return pd.Series(np.exp(logs.mean(axis=1)), index=times.index)


def score_intervals(
    samples: Mapping[str, Sequence[np.ndarray]],
    r_max: float = R_MAX,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """The score of every method by its median times over seeds, with a bootstrap of the seeds within each workload.

    samples: for every method one array a workload, in the same order, as `frames.scores_by_task` gives it for a time to target.
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


def median_times(
    runs: pd.DataFrame,
    time: str = "steps_to_target",
    method: str = "optimizer",
    workload: Sequence[str] = ("model", "dataset"),
) -> pd.DataFrame:
    """``times`` from a frame of runs: the median over runs, by method and by workload, named model-dataset.

    Every run counts, so give it those of the tuned settings. A method without any run on a workload has infinity there.
    """
    runs = identified(runs)
    table = runs.assign(_time=outcomes(runs, time)).dropna(subset=["_time"])
    rows = [
        (key[method], "-".join(str(key[name]) for name in workload), float(cell["_time"].median()))
        for key, cell in cells(table, [method, *workload])
    ]
    frame = pd.DataFrame(rows, columns=["method", "workload", "time"])
    return frame.pivot(index="method", columns="workload", values="time").fillna(math.inf)
