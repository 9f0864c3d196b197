"""Ranks of methods over problems, each by the winner of its own search, with intervals that hold the searches and the problems.

On a problem, methods are ranked by the results of the winners of their searches, 1 being the best; methods that tie share their
ranks, and one without a winner is last. A rank is the mean over problems, and estimates that of new searches: trials and seeds
are resampled and the winners chosen again, as in `search_intervals`. From six problems on the problems are resampled as well,
outermost, and the rank estimates that over new problems of the same kind. Fewer have too few resamples for that (three have 10):
intervals then hold for these problems only.

Friedman's statistic, with R_j the sum of the ranks of method j of k over P problems and ties t of equal ranks on one problem,

    Q = Σ_j (R_j - P (k + 1) / 2)^2 / (P k (k + 1) / 12 - Σ_ties (t^3 - t) / (12 (k - 1)))

is chi-squared with k - 1 degrees of freedom if rankings are unrelated. Kendall's W = Q / (P (k - 1)) is 1 if all problems rank
the methods alike, and about 1 / P if there is no common ranking.

Source: Friedman 1937; Kendall & Babington Smith 1939.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from optbench.analysis.statistics.search_intervals import (
    Search,
    SearchInterval,
    draws_of_problems,
    nested_interval,
    observed,
    resample,
)

#: From this number of problems on, they are resampled.
PROBLEMS = 6
# Mean results that are equal may differ by rounding.
_DIGITS = 12


@dataclass(frozen=True)
class Ranks:
    """The ranks of methods over problems.

    table: a row for each method, the best first: method, rank, low, high; behind, behind_low, behind_high, its rank minus that of
    the first; p_best, the share of resamples in which its rank is the best. pairs: a row for each pair of methods: first, second
    (in the order of the table), difference, low, high, error. All are of the kind "search". friedman_p, kendall_w: of the
    observed rankings; NaN for one problem. problems: their number; over_problems: whether they were resampled.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    friedman_p: float
    kendall_w: float
    problems: int
    over_problems: bool

    @property
    def told_apart(self) -> float:
        """The share of pairs of methods whose difference has an interval without 0, each alone; NaN without intervals."""
        known = self.pairs.dropna(subset="low")
        return float(((known["low"] > 0) | (known["high"] < 0)).mean())


def ranked(results: np.ndarray, higher: bool = True) -> np.ndarray:
    """The rank (..., methods) of every result: 1 is best, equal results share their ranks, and NaN is the worst."""
    values = np.round(results if higher else -results, _DIGITS)
    values = np.where(np.isnan(values), -math.inf, values)
    ahead = (values[..., None, :] > values[..., :, None]).sum(-1)
    tied = (values[..., None, :] == values[..., :, None]).sum(-1)
    found: np.ndarray = 1 + ahead + (tied - 1) / 2
    return found


def friedman(ranks: np.ndarray) -> tuple[float, float]:
    """Friedman's p-value and Kendall's W of ``ranks`` (problems, methods); both NaN unless there are two of each."""
    from scipy.special import chdtrc

    problems, methods = ranks.shape
    if min(problems, methods) < 2:
        return math.nan, math.nan
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(row, return_counts=True)[1] for row in ranks))
    variance = problems * methods * (methods + 1) / 12 - ties / (12 * (methods - 1))
    deviation = float(((ranks.sum(0) - problems * (methods + 1) / 2) ** 2).sum())
    # If all methods tie on all problems there is nothing to rank.
    statistic = deviation / variance if variance > 0 else 0.0
    return float(chdtrc(methods - 1, statistic)), statistic / (problems * (methods - 1))


def mean_ranks(
    searches: Mapping[str, Sequence[Search]],
    problems: bool | None = None,
    higher: bool = True,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    shared_trials: bool = False,
) -> Ranks:
    """Every method's rank, averaged over problems, and the differences between methods.

    searches: for every method one search for each problem, in the same order; on one problem the methods share their seeds if
    they have equally many. problems: whether problems are resampled; None: if there are at least six. higher: whether higher
    results are better. shared_trials: trials are drawn once for all problems and methods (`search_intervals.common_trials`).
    Intervals are e ± t se with T - 1 degrees of freedom for the smallest T of all searches, and at most P - 1 if P problems are
    resampled; those of ranks end at 1 and at the number of methods.

    Raises ValueError if the methods differ in their number of problems, or there are no problems.
    """
    methods = list(searches)
    if len({len(own) for own in searches.values()}) != 1 or not searches[methods[0]]:
        raise ValueError("all methods must have run on the same problems")
    tasks = [[searches[name][place] for name in methods] for place in range(len(searches[methods[0]]))]
    number = len(tasks)
    over_problems = number >= PROBLEMS if problems is None else problems
    seen = np.stack([ranked(observed(task), higher) for task in tasks])
    drawn = _resampled(tasks, over_problems, higher, repetitions, np.random.default_rng(seed), shared_trials)
    degrees = min(int(one.random.sum()) for task in tasks for one in task) - 1
    if over_problems:
        degrees = min(degrees, number - 1)
    estimates, order = seen.mean(0), np.argsort(seen.mean(0), kind="stable")

    def difference(first: int, second: int) -> SearchInterval:
        return nested_interval(estimates[first] - estimates[second], drawn[:, first] - drawn[:, second], degrees, level)

    best = drawn == drawn.min(1, keepdims=True)
    shares = (best / best.sum(1, keepdims=True)).mean(0)
    rows, pairs = [], []
    for place, method in enumerate(order):
        rank, behind = (
            nested_interval(estimates[method], drawn[:, method], degrees, level),
            difference(method, order[0]),
        )
        low, high = np.clip([rank.low, rank.high], 1, len(methods))
        rows.append({
            "method": methods[method], "rank": rank.estimate, "low": low, "high": high,
            "behind": behind.estimate, "behind_low": behind.low, "behind_high": behind.high,
            "p_best": float(shares[method]),
        })  # fmt: skip
        for other in order[place + 1 :]:
            found = difference(method, other)
            pairs.append((methods[method], methods[other], found.estimate, found.low, found.high, found.error))
    columns = ["first", "second", "difference", "low", "high", "error"]
    return Ranks(pd.DataFrame(rows), pd.DataFrame(pairs, columns=columns), *friedman(seen), number, over_problems)


def _resampled(
    tasks: Sequence[Sequence[Search]],
    over_problems: bool,
    higher: bool,
    repetitions: int,
    generator: np.random.Generator,
    shared_trials: bool,
) -> np.ndarray:
    """The mean rank of every method in every resample (repetitions, methods).

    A problem that a resample holds twice has its seeds drawn twice, and its trials unless they are shared.
    """
    total = np.zeros((repetitions, len(tasks[0])))
    for _, problem, here, trials in draws_of_problems(tasks, repetitions, over_problems, generator, shared_trials):
        if len(here):
            shared = len({one.seeds for one in tasks[problem]}) == 1
            drawn = resample(tasks[problem], len(here), generator, shared_seeds=shared, trials=trials)
            total[here] += ranked(drawn, higher)
    return total / len(tasks)
