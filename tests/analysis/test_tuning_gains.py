"""Gains of tuning by hand: units, diverged defaults, the median over methods, and what is resampled."""

import math

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.statistics.search_intervals import Search
from optbench.analysis.statistics.tuning_gains import tuning_gains

INF, NAN = math.inf, math.nan


def search(best, default, trials=4, winner=1):
    """Trials chosen by one seed, with two new seeds of the winner and of trial 0; all others are as good as the winner."""
    best, default = np.asarray(best, float), np.asarray(default, float)
    validation, results = np.full((trials, 3), NAN), np.full((trials, 3), NAN)
    validation[:, 0] = np.arange(1, trials + 1)
    validation[0, 0] = 99
    validation[winner, 0] = 0
    results[:, 0] = best.mean()
    results[winner], results[0] = [NAN, *best], [NAN, *default]
    return Search(validation, results, False, choosing=np.array([True, False, False]))


def test_a_gain_is_the_loss_of_the_defaults_minus_that_of_the_winner_in_units_of_the_problem():
    found = tuning_gains({"a": [search([1, 1], [3, 3]), search([10, 10], [40, 40])]}, [1.0, 20.0], repetitions=20)
    row = found.table.iloc[0]
    assert (row["gain"], row["problems"], row["default_diverged"]) == (pytest.approx((2 + 1.5) / 2), 2, 0)
    higher = tuning_gains({"a": [search([3, 3], [1, 1])]}, [2.0], higher=True, repetitions=20)
    assert higher.table.loc[0, "gain"] == 1


def test_where_the_defaults_win_the_gain_is_0_without_noise():
    own = search([2.0, 9.0], [2.0, 9.0], winner=0)
    own.results[1:, 0] = NAN
    own.validation[1:, 0] = NAN
    found = tuning_gains({"a": [own], "b": [search([1, 1], [2, 2])]}, [1.0], repetitions=200)
    assert found.table.set_index("method").loc["a", "gain"] == 0


def test_defaults_that_diverge_are_counted_and_left_out():
    found = tuning_gains({"a": [search([1, 1], [INF, INF]), search([1, 1], [2, 2])]}, [1.0, 1.0], repetitions=20).table
    assert found.loc[0, ["gain", "problems", "default_diverged"]].tolist() == [1, 1, 1]


def test_the_median_is_over_methods_and_each_is_compared_with_it():
    methods = {name: [search([1, 1], [1 + gain, 1 + gain])] for name, gain in (("a", 1.0), ("b", 2.0), ("c", 5.0))}
    found = tuning_gains(methods, [1.0], repetitions=20)
    assert found.median.estimate == 2
    assert found.table["behind"].tolist() == [-1, 0, 3]


def test_the_interval_holds_trials_and_new_seeds_drawn_alike_for_both():
    """Seeds differ by 1 and 3, trials do not: of two seeds with replacement the mean has the deviation 1/sqrt(2)."""
    own = search([1, 1], [2, 4])
    found = tuning_gains({"a": [own]}, [1.0], repetitions=4000).table.iloc[0]
    assert found["gain"] == 2
    assert found["high"] - 2 == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(0.5), rel=0.05)


def test_problems_are_resampled_from_six_on():
    """Gains of 0 and 1 in turn, without other noise: the mean of six draws has the deviation 0.5 / sqrt(6)."""
    own = [search([1, 1], [1 + place % 2] * 2, trials=9) for place in range(6)]
    found = tuning_gains({"a": own}, [1.0] * 6, repetitions=4000).table.iloc[0]
    assert found["gain"] == 0.5
    assert found["high"] - 0.5 == pytest.approx(stats.t.ppf(0.975, 5) * 0.5 / math.sqrt(6), rel=0.05)
    fixed = tuning_gains({"a": own}, [1.0] * 6, problems=False, repetitions=100).table.iloc[0]
    assert fixed["high"] == pytest.approx(0.5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_trial_is_drawn_for_all_problems_together(shared):
    """The gain is 1 on each of nine problems while a resample holds the one good trial of four, and 0 without it."""
    validation = np.array([[1.0], [0.0], [1.0], [1.0]])
    own = Search(validation, validation, False)
    found = tuning_gains({"a": [own] * 9}, [1.0] * 9, problems=False, repetitions=20_000, shared_trials=shared)
    held = 1 - 0.75**4
    deviation = math.sqrt(held * (1 - held) / (1 if shared else 9))
    assert found.median.error == pytest.approx(deviation, rel=0.03)
