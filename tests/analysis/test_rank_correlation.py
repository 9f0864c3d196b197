"""Spearman's correlation over settings: scipy, permutations by hand, false positives, and a committed table."""

import math
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.analysis.statistics.rank_correlation import rank_correlation
from optbench.errors import UserError

# Test error in images of 10,000, and the rise of the loss along filter-normalized directions, of three seeds each.
MINIMA = {
    (0.0, 64): ([1734, 1720, 1757], [0.34157, 0.31066, 0.27641]),
    (0.0, 1024): ([1727, 1729, 1731], [0.36797, 0.32492, 0.35049]),
    (5e-4, 64): ([1660, 1685, 1697], [0.07352, 0.15066, 0.09395]),
    (5e-4, 1024): ([1752, 1736, 1714], [0.33767, 0.33869, 0.30027]),
    (5e-3, 64): ([1637, 1663, 1643], [0.14681, 0.14006, 0.09985]),
    (5e-3, 1024): ([1710, 1683, 1668], [0.17501, 0.21246, 0.16143]),
}


def table(x, y):
    """Runs of the measures ``x`` and outcomes ``y`` (settings, seeds); group is the parity of the setting."""
    rows = [
        {"setting": i, "group": i % 2, "seed": j, "x": x[i][j], "y": y[i][j]}
        for i, j in product(range(len(x)), range(len(x[0])))
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def minima():
    return pd.DataFrame([
        {"weight_decay": decay, "batch": batch, "seed": seed, "test_error": error, "filter_rise": rise}
        for (decay, batch), (errors, rises) in MINIMA.items()
        for seed, (error, rise) in enumerate(zip(errors, rises, strict=True))
    ])  # fmt: skip


def test_six_settings_of_three_seeds_are_six_units(minima):
    found = rank_correlation(minima, "filter_rise", "test_error", ["weight_decay", "batch"])
    naive = stats.spearmanr(minima["filter_rise"], minima["test_error"])
    assert found.rho == pytest.approx(naive.statistic) == pytest.approx(0.80, abs=0.005)
    assert naive.pvalue < 1e-4
    # 23 of the 720 permutations of settings.
    assert found.p == pytest.approx(23 / 720) == pytest.approx(0.032, abs=5e-4)
    assert (found.low, found.high) == pytest.approx((0.04, 1.0), abs=0.1)
    assert (found.units, found.runs, found.exact) == (6, 18, True)


def test_every_permutation_of_settings_by_hand():
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((2, 4, 3))
    found = rank_correlation(table(x, y), "x", "y", ["setting"])
    every = [stats.spearmanr(x.ravel(), y[list(order)].ravel()).statistic for order in permutations(range(4))]
    assert found.p == pytest.approx(np.mean(np.abs(every) >= abs(every[0]) - 1e-9))
    assert found.rho == pytest.approx(every[0])


def test_many_settings_are_permuted_at_random():
    generator = np.random.default_rng(2)
    x = generator.standard_normal((12, 1))
    y = x + 4 * generator.standard_normal((12, 1))
    found = rank_correlation(table(x, y), "x", "y", ["setting"])
    assert not found.exact
    # For one seed it is the usual test.
    statistic = lambda order: stats.spearmanr(x.ravel(), order).statistic  # noqa: E731
    expected = stats.permutation_test((y.ravel(),), statistic, permutation_type="pairings", n_resamples=1000, rng=3)
    assert 0.05 < expected.pvalue < 0.5
    assert found.p == pytest.approx(expected.pvalue, abs=4 * math.sqrt(0.15 / 1000))


def test_an_absent_relation_is_found_as_often_as_the_level_says():
    """Settings differ in both values, and seeds little: p-values over runs reject too often."""
    generator = np.random.default_rng(0)
    rejected = {"settings": 0, "runs": 0}
    for _ in range(120):
        x, y = generator.standard_normal((2, 5, 1)) + 0.3 * generator.standard_normal((2, 5, 3))
        found = rank_correlation(table(x, y), "x", "y", ["setting"], repetitions=10)
        rejected["settings"] += found.p <= 0.05
        rejected["runs"] += stats.spearmanr(x.ravel(), y.ravel()).pvalue <= 0.05
    assert rejected["settings"] / 120 < 0.12
    assert rejected["runs"] / 120 > 0.15


def test_two_units_tell_nothing():
    found = rank_correlation(table([[1.0], [2.0]], [[3.0], [5.0]]), "x", "y", ["setting"])
    assert (found.rho, found.p, found.units) == (pytest.approx(1), 1, 2)


def test_within_groups_of_settings():
    """The groups alone make a correlation over all; within each the order is opposite."""
    x = np.array([[1.0], [11.0], [2.0], [12.0], [3.0], [13.0]])
    y = np.array([[3.0], [13.0], [2.0], [12.0], [1.0], [11.0]])
    over_all = rank_correlation(table(x, y), "x", "y", ["setting", "group"])
    within = rank_correlation(table(x, y), "x", "y", ["setting", "group"], partial=["group"])
    assert over_all.rho > 0.5
    assert within.rho == pytest.approx(-1)
    # Of the 36 permutations within groups, the one and its reverse are as far from 0.
    assert within.p == pytest.approx(2 / 36)
    with pytest.raises(ValueError, match="among the columns of units"):
        rank_correlation(table(x, y), "x", "y", ["setting"], partial=["group"])


def test_the_interval_is_that_of_settings_and_seeds():
    """Equal order in all settings and seeds: every resample is perfect. With one seed, resamples of settings are by hand."""
    x = np.arange(12.0).reshape(4, 3)
    found = rank_correlation(table(x, 2 * x), "x", "y", ["setting"])
    assert (found.low, found.high) == (pytest.approx(1), pytest.approx(1))
    y = np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    one = rank_correlation(table(np.arange(5.0)[:, None], y[:, None]), "x", "y", ["setting"], repetitions=100_000)
    draws = [list(drawn) for drawn in product(range(5), repeat=5) if len({*drawn}) > 1]
    every = [stats.spearmanr(drawn, y[drawn]).statistic for drawn in draws[::3]]
    assert one.low == pytest.approx(np.quantile(every, 0.025), abs=0.03)


def test_replicas_that_a_setting_lacks_are_left_out(minima):
    part = minima.drop(index=[1])
    found = rank_correlation(part, "filter_rise", "test_error", ["weight_decay", "batch"])
    assert (found.units, found.runs) == (6, 12)
    expected = minima[minima["seed"] != 1]
    assert found.rho == pytest.approx(stats.spearmanr(expected["filter_rise"], expected["test_error"]).statistic)


def test_what_does_not_exist_is_nan():
    constant = rank_correlation(table([[1.0], [1.0], [1.0]], [[3.0], [5.0], [4.0]]), "x", "y", ["setting"])
    assert np.isnan([constant.rho, constant.low, constant.high, constant.p]).all()
    nothing = rank_correlation(table([[math.nan]], [[1.0]]), "x", "y", ["setting"])
    assert math.isnan(nothing.rho)
    with pytest.raises(UserError, match="column z"):
        rank_correlation(table([[1.0]], [[1.0]]), "z", "y", ["setting"])
