"""Profiles, and the probability of improvement against hand computation and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.statistics import profiles

INF = math.inf


def test_a_profile_counts_the_runs_above_each_threshold():
    tasks = [np.array([0.1, 0.5]), np.array([0.5, -INF])]
    np.testing.assert_allclose(profiles.performance_profile(tasks, np.array([-1, 0.1, 0.4, 0.5])), [0.75, 0.5, 0.5, 0])


def test_the_band_of_a_profile_is_binomial():
    """One task of 100 runs, 30 of them above: the share in a resample is binomial(100, 0.3) / 100."""
    tasks = [np.repeat([0.0, 1.0], [70, 30])]
    table = profiles.profile_with_band(tasks, np.array([0.5]), repetitions=4000)
    assert table["fraction"].tolist() == [0.3]
    expected = stats.binom(100, 0.3).ppf([0.025, 0.975]) / 100
    np.testing.assert_allclose(table[["low", "high"]].to_numpy()[0], expected, atol=0.011)


def test_the_band_of_a_profile_is_stratified():
    """A task wholly above and one wholly below: no resample within tasks changes the share of a half."""
    table = profiles.profile_with_band([np.zeros(6), np.ones(6)], np.array([0.5]), repetitions=200)
    assert table[["fraction", "low", "high"]].to_numpy().tolist() == [[0.5, 0.5, 0.5]]


def test_probability_of_improvement_is_mann_whitney_averaged_over_tasks():
    generator = np.random.default_rng(0)
    x = [generator.integers(0, 6, 7).astype(float), generator.standard_normal(5)]
    y = [generator.integers(0, 6, 4).astype(float), generator.standard_normal(9)]
    expected = np.mean([stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x, y, strict=True)])
    interval = profiles.probability_of_improvement(x, y, repetitions=500)
    assert interval.estimate == pytest.approx(expected)
    assert interval.low < interval.estimate < interval.high
    assert profiles.probability_of_improvement(y, x, repetitions=10).estimate == pytest.approx(1 - expected)


def test_two_runs_that_diverged_tie():
    interval = profiles.probability_of_improvement([np.array([-INF, 1.0])], [np.array([-INF, -INF])], repetitions=100)
    assert interval.estimate == (0.5 + 0.5 + 1 + 1) / 4


def test_the_methods_must_have_the_same_tasks():
    with pytest.raises(ValueError, match="same tasks"):
        profiles.probability_of_improvement([np.ones(2)], [np.ones(2)] * 2)


def test_a_run_at_a_threshold_is_not_above_it():
    assert profiles.performance_profile([np.array([0.5, 0.5, 0.6, 0.4])], np.array([0.5])).tolist() == [0.25]
