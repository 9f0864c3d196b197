"""Intervals: closed forms, scipy's own estimators, and coverage in simulations with a known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.statistics import intervals


def test_interquartile_mean_is_scipys_trimmed_mean():
    generator = np.random.default_rng(1)
    tasks = [generator.standard_normal(n) for n in (5, 7, 3)]
    expected = stats.trim_mean(np.concatenate(tasks), 0.25)
    assert intervals.interquartile_mean(tasks) == pytest.approx(expected, rel=1e-12)
    assert intervals.interquartile_mean([np.arange(8.0)]) == 3.5  # of 2, 3, 4, 5


def test_interquartile_mean_stands_a_quarter_of_diverged_runs():
    assert intervals.interquartile_mean([np.array([-math.inf, 1.0, 2.0, 9.0])]) == 1.5
    assert intervals.interquartile_mean([np.array([-math.inf, -math.inf, 2.0, 9.0])]) == -math.inf


def test_mean_weighs_tasks_the_same_however_many_runs_they_have():
    assert intervals.mean([np.array([1.0, 3.0]), np.array([8.0])]) == 5


def test_optimality_gap_by_hand():
    # min(score, 1): 0.5, 1, 1, 0.1
    assert intervals.optimality_gap([np.array([0.5, 1.5]), np.array([1.0, 0.1])]) == pytest.approx(1 - 2.6 / 4)
    assert intervals.optimality_gap([np.array([0.5])], optimum=0.4) == 0


def test_bounds_are_order_statistics_and_take_infinity():
    low, high = intervals.percentile_bounds(np.array([math.inf, *range(100)]), level=0.9)
    assert (low, high) == (5, 95)
    assert intervals.percentile_bounds(np.array([1.0, math.inf, math.inf]))[1] == math.inf
    assert intervals.percentile_bounds(np.array([np.nan, 2.0])) == (2, 2)
    assert all(map(math.isnan, intervals.percentile_bounds(np.array([np.nan]))))


def test_the_bootstrap_of_a_mean_has_the_variance_that_it_must_have():
    """Of resampled means of n values: the population variance over n; normal quantiles at n = 400."""
    values = np.random.default_rng(2).standard_normal(400)
    interval = intervals.bootstrap(intervals.mean, [values], repetitions=20_000)
    width = 2 * 1.959964 * values.std() / 20
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(width, rel=0.03)


def test_the_bootstrap_resamples_within_tasks_only():
    """Tasks without spread have none in any resample, however different they are from each other."""
    tasks = [np.full(4, value) for value in (1.0, 5.0, 90.0)]
    for statistic in (intervals.mean, intervals.interquartile_mean):
        interval = intervals.bootstrap(statistic, tasks, repetitions=500)
        assert interval.low == interval.high == interval.estimate


def test_the_bootstrap_is_seeded_and_chunks_do_not_show(monkeypatch):
    tasks = [np.random.default_rng(3).standard_normal(6) for _ in range(3)]
    whole = intervals.bootstrap(intervals.mean, tasks, repetitions=300, seed=5)
    assert intervals.bootstrap(intervals.mean, tasks, repetitions=300, seed=5) == whole
    assert intervals.bootstrap(intervals.mean, tasks, repetitions=300, seed=6) != whole
    monkeypatch.setattr(intervals, "_CHUNK", 18 * 7)
    chunked = intervals.bootstrap(intervals.mean, tasks, repetitions=20_000, seed=5)
    reference = stats.bootstrap(
        tuple(tasks), lambda *arrays, axis=-1: np.mean([a.mean(axis=axis) for a in arrays], axis=0),
        n_resamples=20_000, method="percentile", vectorized=True,
    )  # fmt: skip
    assert chunked.low == pytest.approx(reference.confidence_interval.low, abs=0.03)
    assert chunked.high == pytest.approx(reference.confidence_interval.high, abs=0.03)


@pytest.mark.parametrize("tasks", [[], [np.array([])], [np.array([1.0, np.nan])]])
def test_there_is_nothing_to_resample(tasks):
    with pytest.raises(ValueError, match=r"at least one|outcome"):
        intervals.bootstrap(intervals.mean, tasks)


def test_a_fit_gets_an_interval_for_each_value_and_says_how_often_there_is_none():
    strata = [np.array([0.0, 1.0]), np.full(3, 7.0)]

    def fit(arrays):
        first, second = (array.mean() for array in arrays)
        return second, (first if first > 0 else math.nan)

    constant, partial = intervals.bootstrap_fit(fit, strata, repetitions=2000)
    assert (constant.estimate, constant.low, constant.high, constant.undefined) == (7, 7, 7, 0)
    assert partial.estimate == 0.5
    assert partial.undefined == pytest.approx(0.25, abs=0.04)  # both draws are the 0
    assert (partial.low, partial.high) == (0.5, 1)


def test_student_is_scipys_interval():
    values = np.array([0.91, 0.93, 0.90])
    interval = intervals.student(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert math.isnan(intervals.student(values[:1]).low)


def test_runs_that_a_comparison_needs():
    assert intervals.runs_needed(deviation=0.2, difference=0.3) == 7  # 15.7 * 4 / 9 = 6.98
    assert intervals.runs_needed(deviation=1.0, difference=1.0) == 16


def covered(interval, truth):
    return interval.low <= truth <= interval.high


def test_coverage_of_the_stratified_bootstrap_of_a_mean():
    """Five tasks of ten runs: the percentile interval is that of variance (n - 1) / n, so 93.7 % expected."""
    generator = np.random.default_rng(4)
    hits = []
    for simulation in range(500):
        tasks = [task + (1 + task) * generator.standard_normal(10) for task in range(5)]
        hits.append(covered(intervals.bootstrap(intervals.mean, tasks, 400, seed=simulation), 2.0))
    assert 0.90 < np.mean(hits) < 0.97


def test_coverage_with_three_seeds_is_as_the_docstring_says():
    generator = np.random.default_rng(5)
    samples = generator.standard_normal((1500, 3))
    percentile = [covered(intervals.bootstrap(intervals.mean, [sample], 200), 0.0) for sample in samples]
    exact = [covered(intervals.student(sample), 0.0) for sample in samples]
    assert 0.70 < np.mean(percentile) < 0.80
    assert np.mean(exact) == pytest.approx(0.95, abs=0.02)


def test_an_interval_is_written_with_the_format_of_its_numbers():
    assert f"{intervals.Interval(0.934, 0.806, 1.057):.2f}" == "0.93 [0.81, 1.06]"
    assert f"{intervals.Interval(-1, -2, 0.5):+.1f}" == "-1.0 [-2.0, +0.5]"
    assert f"{intervals.Interval(12.3, math.nan, math.nan):.3g}" == "12.3"


def test_of_no_values_there_is_no_mean():
    found = intervals.student(np.array([]))
    assert all(math.isnan(value) for value in (found.estimate, found.low, found.high))


@pytest.mark.parametrize(
    ("values", "level", "bounds"),
    [
        # 0.025 * 40 = 1.0: the second from either end.
        (41, 0.95, (1, 39)),
        # 0.025 * 50 = 1.25 lies between two values: outwards at both ends, never inwards.
        (51, 0.95, (1, 49)),
        (20, 0.95, (0, 19)),
        (10, 0.5, (2, 7)),
    ],
)
def test_the_upper_bound_is_as_far_from_the_end_as_the_lower(values, level, bounds):
    assert intervals.percentile_bounds(np.arange(float(values))[::-1], level) == bounds


def test_student_is_exact_for_two_values():
    """t of one degree of freedom at 97.5 % is tan(0.475 pi) = 12.706; the mean of 0 and 2 has a standard error of 1."""
    found = intervals.student(np.array([0.0, 2.0]))
    assert (found.low, found.high) == pytest.approx((1 - math.tan(0.475 * math.pi), 1 + math.tan(0.475 * math.pi)))


def test_a_score_at_the_optimum_has_no_gap():
    assert intervals.optimality_gap([np.array([1.0, 1.0])]) == 0
    assert intervals.optimality_gap([np.array([0.25, 7.0])], optimum=0.5) == 0.125
