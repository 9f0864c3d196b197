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
from dataclasses import dataclass

import numpy as np
import pandas as pd

from optbench.analysis.statistics.ranks import PROBLEMS, ranked
from optbench.analysis.statistics.search_intervals import (
    Search,
    SearchInterval,
    draws_of_problems,
    nested_interval,
    observed,
    resample,
)
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


# ---- winners that have new seeds --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostSearch:
    """The costs of the trials of a search up to a target, in steps, FLOPs, seconds or bytes.

    costs: a search whose results are min(cost to the target, cost of the whole run). reached: the same search, with the results 1
    for a run that reached the target and 0 for one that did not. Trials are chosen by their common validation, not by costs.
    """

    costs: Search
    reached: Search


def observed_costs(searches: Mapping[str, Sequence[CostSearch]]) -> pd.DataFrame:
    """The costs of the winners: a row for each method, a column for each problem.

    The cost is the mean over the seeds that report, and infinite unless at least half of them reach the target, or without a
    winner.
    """
    rows = [[_time(observed([each.costs]), observed([each.reached]))[0] for each in own] for own in searches.values()]
    return pd.DataFrame(rows, index=list(searches))


def scores_of_winners(
    searches: Mapping[str, Sequence[CostSearch]],
    r_max: float = R_MAX,
    problems: bool | None = None,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    shared_trials: bool = False,
) -> pd.DataFrame:
    """The score B_s of every method and its mean rank by the costs of `observed_costs`, over problems.

    searches: for every method one for each problem, in the same order. problems: whether problems are resampled, outermost; None:
    if there are at least six. In each resample trials and seeds are drawn and the winner is chosen again, as in
    `search_intervals`; methods share the seeds of a problem. shared_trials: as in `ranks.mean_ranks`. Methods that miss the
    target share the last ranks.

    Columns: method, score, low, high, rank, rank_low, rank_high, solved (the number of problems on which the winner reaches the
    target); the best score first. Intervals are e ± t se, cut to the range of the statistic, with T - 1 degrees of freedom for
    the smallest number of trials T, and at most P - 1 if P problems are resampled. Raises ValueError if the methods differ in
    their number of problems.
    """
    methods, number = list(searches), len(next(iter(searches.values())))
    if any(len(own) != number for own in searches.values()):
        raise ValueError("all methods must have costs on the same problems")
    over_problems = number >= PROBLEMS if problems is None else problems
    tasks = [[searches[name][place] for name in methods] for place in range(number)]
    seen = observed_costs(searches).to_numpy(float)
    drawn = _drawn_costs(tasks, over_problems, repetitions, np.random.default_rng(seed), shared_trials)
    degrees = min(int(one.costs.random.sum()) for task in tasks for one in task) - 1
    if over_problems:
        degrees = min(degrees, number - 1)
    rows = []
    scored, ranks = (
        (_heights(_ratios(each), r_max) for each in (seen, drawn)),
        [_mean_ranks(each) for each in (seen, drawn)],
    )
    for name, height, heights, rank, resampled, own in zip(
        methods, *(each.T for each in scored), *(each.T for each in ranks), seen, strict=True
    ):
        score, place = (nested_interval(float(e), v, degrees, level) for e, v in ((height, heights), (rank, resampled)))
        low, high = np.clip([score.low, score.high], 0, 1)
        rank_low, rank_high = np.clip([place.low, place.high], 1, len(methods))
        rows.append({
            "method": name, "score": score.estimate, "low": low, "high": high,
            "rank": place.estimate, "rank_low": rank_low, "rank_high": rank_high, "solved": int(np.isfinite(own).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable").reset_index(drop=True)


def _mean_ranks(costs: np.ndarray) -> np.ndarray:
    """The ranks (..., methods) of costs (..., methods, problems), averaged over problems."""
    found: np.ndarray = ranked(np.swapaxes(costs, -1, -2), higher=False).mean(axis=-2)
    return found


def _drawn_costs(
    tasks: Sequence[Sequence[CostSearch]],
    over_problems: bool,
    repetitions: int,
    generator: np.random.Generator,
    shared_trials: bool,
) -> np.ndarray:
    """The costs (repetitions, methods, problems) of the winners of resamples."""
    costs = [[one.costs for one in task] for task in tasks]
    found = np.full((repetitions, len(tasks[0]), len(tasks)), math.inf)
    for place, problem, here, trials in draws_of_problems(costs, repetitions, over_problems, generator, shared_trials):
        task = tasks[problem]
        # The same draws for both results of a search.
        same = int(generator.integers(2**62))
        shared = len({one.costs.seeds for one in task}) == 1
        means, shares = (
            resample(own, len(here), np.random.default_rng(same), shared_seeds=shared, trials=trials)
            for own in (costs[problem], [one.reached for one in task])
        )
        found[here, :, place] = _time(means, shares)
    return found
