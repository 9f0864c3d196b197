"""Times to a target with censoring: hand-made tables, and scipy's own estimators."""

import math

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.statistics import shares, survival
from optbench.analysis.statistics.survival import Times, logrank, restricted_mean


def times(*words):
    """Times as they are written in tables: "7+" was censored at 7; "never" diverged."""
    return Times.of(
        [math.inf if word == "never" else float(str(word).rstrip("+")) for word in words],
        [isinstance(word, int) for word in words],
    )


EARLY = times(5, "7+", 8, 12, "15+", "20+")
ONE_BUDGET = times(5, 8, 12, "20+", "20+", "20+")


def random_times(generator, n, horizon=30.0):
    exact = np.round(generator.exponential(20, n) + 1)
    ends = np.minimum(np.round(generator.exponential(40, n) + 1), horizon)
    return Times.of(np.minimum(exact, ends), exact <= ends), stats.CensoredData(
        uncensored=exact[exact <= ends], right=ends[exact > ends]
    )


def test_the_survival_curve_by_hand():
    table = survival.survival(EARLY)
    assert table["time"].tolist() == [5, 8, 12]
    assert table["at_risk"].tolist() == [6, 4, 3]
    assert table["reached"].tolist() == [1, 1, 1]
    assert table["survival"].tolist() == pytest.approx([5 / 6, 5 / 8, 5 / 12])


def test_the_survival_curve_is_scipys():
    generator = np.random.default_rng(1)
    for n in (4, 9, 30):
        ours, theirs = random_times(generator, n)
        table = survival.survival(ours, level=0.9)
        curve = stats.ecdf(theirs).sf
        bounds = curve.confidence_interval(0.9, method="log-log")
        for column, oracle in (("survival", curve), ("low", bounds.low), ("high", bounds.high)):
            expected = [oracle.probabilities[np.flatnonzero(oracle.quantiles == time)[0]] for time in table["time"]]
            expected = np.where(table["survival"] > 0, expected, math.nan if column != "survival" else 0.0)
            assert table[column].to_numpy() == pytest.approx(expected, nan_ok=True), column


def test_restricted_means_by_hand():
    assert restricted_mean(ONE_BUDGET, 20).estimate == pytest.approx(14.1667, abs=5e-5)
    assert restricted_mean(EARLY, 20).estimate == pytest.approx(13.3333, abs=5e-5)
    assert restricted_mean(times(5, "never", 8), 10).estimate == pytest.approx((5 + 10 + 8) / 3)
    assert restricted_mean(times(5, 8), 3).estimate == 3  # all are longer than the horizon


def test_without_early_censoring_a_restricted_mean_has_students_interval():
    found = restricted_mean(times(5, 8, 12, "20+", "never", 31, 12), 20, level=0.9)
    capped = [5, 8, 12, 20, 20, 20, 12]
    oracle = stats.t.interval(0.9, 6, np.mean(capped), stats.sem(capped))
    assert (found.low, found.high) == pytest.approx(oracle)
    assert found.estimate == pytest.approx(np.mean(capped))


def test_with_early_censoring_the_variance_of_a_restricted_mean_is_greenwoods():
    """By hand: areas beyond 5, 8, 12 are 20 - ...; variance n / (n - 1) Σ A² d / (n_j (n_j - d))."""
    found = restricted_mean(EARLY, 20)
    areas = [5 / 6 * 3 + 5 / 8 * 4 + 5 / 12 * 8, 5 / 8 * 4 + 5 / 12 * 8, 5 / 12 * 8]
    variance = 6 / 5 * (areas[0] ** 2 / (6 * 5) + areas[1] ** 2 / (4 * 3) + areas[2] ** 2 / (3 * 2))
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, 5) * math.sqrt(variance))


def test_a_restricted_mean_needs_a_run_that_was_observed_up_to_the_horizon():
    with pytest.raises(ValueError, match="horizon 21"):
        restricted_mean(ONE_BUDGET, 21)
    assert restricted_mean(times(3, 5), 20).estimate == 4
    assert math.isnan(restricted_mean(times(), 20).estimate)
    assert math.isnan(restricted_mean(times(3), 20).low)


def test_a_time_between_two_evaluations_is_in_the_middle():
    found = Times(np.array([4.0, 6.0]), np.array([6.0, math.inf]), ("reached", "budget"))
    assert found.end.tolist() == [5, 6]
    assert found.reached.tolist() == [True, False]


@pytest.mark.parametrize(
    ("lower", "upper", "cause"),
    [
        (1.0, 2.0, "paused"),
        (2.0, 1.0, "reached"),
        (1.0, 2.0, "budget"),
        (5.0, math.inf, "diverged"),
        (1.0, math.inf, "reached"),
    ],
)
def test_times_that_contradict_their_cause_are_refused(lower, upper, cause):
    with pytest.raises(ValueError, match=cause):
        Times(np.array([lower]), np.array([upper]), (cause,))


def test_the_log_rank_test_of_lifelines():
    statistic, p = logrank(times(5, 8, 12, "20+", "20+"), times(9, 15, "20+", "20+", "20+"), exact=False)
    assert (statistic, p) == (pytest.approx(0.70420, abs=5e-6), pytest.approx(0.40138, abs=5e-6))


def test_the_log_rank_test_is_scipys():
    generator = np.random.default_rng(2)
    for sizes in ((4, 6), (9, 9), (30, 12)):
        (ours, theirs), (other, others) = (random_times(generator, n) for n in sizes)
        oracle = stats.logrank(theirs, others)
        statistic, p = logrank(ours, other, exact=False)
        assert (statistic, p) == (pytest.approx(oracle.statistic**2), pytest.approx(oracle.pvalue))


def test_the_exact_log_rank_test_is_a_permutation_test():
    """The observed minus the expected events, computed anew for every division by scipy's test."""
    generator = np.random.default_rng(3)
    first, second = (np.round(generator.exponential(scale, 4), 2) for scale in (5, 15))
    pooled = np.concatenate([first, second])

    def numerator(chosen):
        a = pooled[list(chosen)]
        at = np.unique(pooled)
        expected = sum((pooled == t).sum() * (a >= t).sum() / (pooled >= t).sum() for t in at)
        return abs(len(a) - expected)

    from itertools import combinations

    values = [numerator(chosen) for chosen in combinations(range(8), 4)]
    expected = np.mean(np.array(values) >= numerator(range(4)) - 1e-9)
    arms = [Times.of(arm, [True] * 4) for arm in (first, second)]
    assert logrank(*arms)[1] == logrank(*arms, exact=True)[1] == pytest.approx(expected)
    assert logrank(*arms, exact=False)[1] != pytest.approx(expected)


@pytest.mark.parametrize(("n", "least"), [(3, 0.1), (5, 0.0079)])
def test_the_least_exact_p_value(n, least):
    arms = Times.of(range(1, n + 1), [True] * n), Times.of(range(10, 10 + n), [True] * n)
    assert logrank(*arms)[1] == pytest.approx(least, abs=5e-5)


def test_many_runs_are_compared_by_chi_squared():
    generator = np.random.default_rng(4)
    (ours, _), (other, _) = random_times(generator, 30), random_times(generator, 30)
    assert logrank(ours, other) == logrank(ours, other, exact=False)


def test_arms_that_never_reach_the_target_are_not_told_apart():
    statistic, p = logrank(times("20+", "20+"), times("never", "20+"))
    assert math.isnan(statistic)
    assert p == 1


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (2, 5), (1, 20)])
def test_shares_have_scipys_exact_interval(k, n):
    found = shares.clopper_pearson(k, n, level=0.9)
    oracle = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
    assert (found.low, found.high) == (pytest.approx(oracle.low), pytest.approx(oracle.high))
    assert found.estimate == k / n


def test_the_share_that_reached_counts_diverged_runs():
    found = survival.share_reached(times(5, "never", "20+", 8))
    assert found.estimate == 0.5
    with pytest.raises(ValueError, match="0 of 0"):
        survival.share_reached(times())


def test_failures_are_compared_by_scipys_fisher_test():
    for a, b, m, n in [(0, 3, 5, 5), (1, 0, 4, 7), (2, 2, 6, 6), (5, 0, 5, 9), (0, 0, 3, 3), (1, 6, 10, 8)]:
        oracle = stats.fisher_exact([[a, m - a], [b, n - b]]).pvalue
        assert shares.fisher_exact((a, b), (m, n)) == pytest.approx(oracle)
