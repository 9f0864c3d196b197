"""The expected result of the best of k trials, for every tuning budget k.

With the N values of a search sorted so that y_(1) <= ... <= y_(N), y_(N) being the best, the best of k of them is y_(i) with
probability

    w_i = (i / N)^k - ((i - 1) / N)^k     k trials drawn with replacement
    w_i = C(i - 1, k - 1) / C(N, k)       without replacement; sum_i w_i y_(i) is then an unbiased estimate of the
                                          expected best of k new trials

Trials are chosen on validation; the same weights on the test values of the sorted trials give the expected test result.

Source: Sivaprasad et al. 2020, "Optimizer benchmarking needs to account for hyperparameter tuning", arXiv 1910.11758; the
expectation with replacement: Dodge et al. 2019, arXiv 1909.03004.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, outcomes, require, require_selectable
from optbench.analysis.statistics.intervals import percentile_bounds
from optbench.analysis.statistics.search_intervals import (
    Search,
    SearchInterval,
    draws,
    means_over_seeds,
    nested_interval,
)
from optbench.analysis.statistics.settings import seeds_only
from optbench.store.measured import higher_is_better


def weights(trials: int, k: int, replacement: bool = False) -> np.ndarray:
    """The probabilities w_i, for i = 1..``trials`` from the worst to the best, that the i-th is the best of ``k``.

    Raises ValueError unless 1 <= k, and k <= trials without replacement.
    """
    if k < 1 or (not replacement and k > trials):
        raise ValueError(f"k={k}: must be from 1 to the number of trials, {trials}")
    if replacement:
        cumulative = (np.arange(trials + 1) / trials) ** k
        return np.diff(cumulative)
    # Downwards from the best, k / N: C(i - 1, k - 1) = C(i, k - 1) (i - k + 1) / i.
    i = np.arange(trials - 1, 0, -1)
    return np.concatenate([[1.0], np.cumprod((i - k + 1).clip(0) / i)])[::-1] * k / trials


def expected_best(
    validation: np.ndarray, k: int, test: np.ndarray | None = None, higher: bool = True, replacement: bool = False
) -> float:
    """The expected ``test`` value (by default the validation value) of the best on validation of ``k`` trials.

    Trials that tie on validation are equally likely to be chosen. A diverged trial has the worst possible validation value; if
    it can be the best of k, an infinite test value makes the expectation infinite.
    """
    values = np.asarray(validation, dtype=float)
    reported = values if test is None else np.asarray(test, dtype=float)
    order = np.argsort(values if higher else -values, kind="stable")
    _, first, ties = np.unique(values[order], return_index=True, return_counts=True)
    # Values that tie are neighbours; np.unique lists them in ascending order, which is reversed if lower is better.
    starts = np.sort(first)
    ties = ties[np.argsort(first)]
    averaged = np.repeat(np.add.reduceat(reported[order], starts) / ties, ties)
    return float(_weighted(averaged, weights(len(values), k, replacement)))


def _weighted(values: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """``values`` (..., trials) times ``probabilities`` (trials,) or (trials, budgets), where 0 times infinity is 0."""
    finite = np.isfinite(values)
    sums = np.where(finite, values, 0.0) @ probabilities
    reached = (np.where(finite, 0.0, np.sign(values)) @ (probabilities > 0)).astype(float)
    found: np.ndarray = np.where(reached == 0, sums, np.copysign(math.inf, reached))
    return found


def best_of_k(
    validation: np.ndarray,
    test: np.ndarray | None = None,
    higher: bool = True,
    replacement: bool = False,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """`expected_best` for k = 1..N with the percentile band of a bootstrap over trials; columns trials, expected, low, high.

    Near k = N the band has little meaning: the best of a resample is never better than the best trial.
    """
    values = np.asarray(validation, dtype=float)
    reported = values if test is None else np.asarray(test, dtype=float)
    n, generator = len(values), np.random.default_rng(seed)
    drawn = generator.integers(n, size=(repetitions, n))
    # The draws are in random order, so a stable sort breaks ties at random.
    order = np.argsort(values[drawn] if higher else -values[drawn], axis=1, kind="stable")
    resampled = reported[np.take_along_axis(drawn, order, axis=1)]
    budgets = range(1, n + 1)
    resampled = _weighted(resampled, np.stack([weights(n, k, replacement) for k in budgets], axis=1))
    rows = [
        (k, expected_best(values, k, reported, higher, replacement), *percentile_bounds(column, level))
        for k, column in zip(budgets, resampled.T, strict=True)
    ]
    return pd.DataFrame(rows, columns=["trials", "expected", "low", "high"])


def best_of(
    search: Search,
    k: int,
    diverged_result: float | None = None,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> SearchInterval:
    """The expected result of the best of k new trials, with an interval e ± t se that holds the choice of trials and of seeds.

    The estimate is `expected_best` without replacement, over the trials that are ``drawn``. It is unbiased up to the optimism of
    choosing and reporting on the same seeds; for k equal to the number of trials it is the result of the winner. diverged_result:
    the result of a diverged run, such as the accuracy of chance; None: infinite, so that there is no finite expectation if all k
    trials can diverge. The resamples, and the degrees of freedom, are those of `search_intervals`.

    Raises ValueError unless 1 <= k <= the number of trials drawn.
    """
    results = search.results
    if diverged_result is not None:
        results = np.where(np.isinf(results), diverged_result, results)
    pool = np.flatnonzero(search.random)
    # The trials may be those of a search in which lower is better: its scores are negated.
    once = np.ones((1, results.shape[1]))
    observed = [means_over_seeds(values, once)[0, pool] for values in (search.scores, results)]
    estimate = expected_best(observed[0], k, observed[1])
    ((trials, seeds),) = draws([search], repetitions, np.random.default_rng(seed), False, False)
    scores, reported = (
        np.take_along_axis(means_over_seeds(v, seeds), trials, axis=1) for v in (search.scores, results)
    )
    order = np.argsort(scores, axis=1, kind="stable")
    resampled = _weighted(np.take_along_axis(reported, order, axis=1), weights(len(pool), k))
    return nested_interval(estimate, resampled, len(pool) - 1, level, "best_of_k")


def curves(
    runs: pd.DataFrame,
    by: Sequence[str] = ("optimizer",),
    metric: str = "validation_accuracy",
    result: str = "test_accuracy",
    diverged_result: float | None = None,
    replacement: bool = False,
    repetitions: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """`best_of_k` of every cell of the runs: the columns ``by``, those of `best_of_k`, and diverged, a number of trials.

    Trial 0 is left out: it is the defaults, not a draw from the search space. A trial's value is its mean over seeds.
    diverged_result: the result of a diverged trial, such as the accuracy of chance; None: the worst possible value, so that
    the expectation is infinite if all k trials can diverge.
    """
    require_selectable(metric)
    require(runs, [*by, "trial", metric, result])
    runs = seeds_only(runs, [*by, "trial"])
    drawn = runs[runs["trial"] != 0]
    table = drawn.assign(_metric=outcomes(drawn, metric), _result=outcomes(drawn, result)).dropna(subset=["_metric"])
    tables = []
    for key, cell in cells(table, by):
        trials = cell.groupby("trial")[["_metric", "_result"]].mean()
        infinite = ~np.isfinite(trials["_metric"].to_numpy())
        results = trials["_result"].to_numpy(float, copy=True)
        if diverged_result is not None:
            results[infinite] = diverged_result
        curve = best_of_k(
            trials["_metric"].to_numpy(float),
            results,
            higher_is_better(metric),
            replacement,
            repetitions,
            seed=seed,
        )
        tables.append(curve.assign(**key, diverged=int(infinite.sum()))[[*key, *curve.columns, "diverged"]])
    columns = [*by, "trials", "expected", "low", "high", "diverged"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
