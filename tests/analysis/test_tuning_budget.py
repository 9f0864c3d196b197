"""The expected best of k, against every subset, closed forms and simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.statistics.tuning_budget import best_of_k, curves, expected_best, weights

INF = math.inf
VALIDATION = np.array([0.3, 0.9, 0.1, 0.7, 0.5])
TEST = np.array([0.35, 0.6, 0.2, 0.8, 0.5])


def taken(subset, sign=1):
    """The member that is chosen on validation."""
    return max(subset, key=lambda i: sign * VALIDATION[i])


@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("higher", [True, False])
def test_it_is_the_mean_over_all_subsets(k, higher):
    sign = 1 if higher else -1
    without = [TEST[taken(s, sign)] for s in itertools.combinations(range(5), k)]
    repeated = [TEST[taken(s, sign)] for s in itertools.product(range(5), repeat=k)]
    assert expected_best(VALIDATION, k, TEST, higher) == pytest.approx(np.mean(without))
    assert expected_best(VALIDATION, k, TEST, higher, replacement=True) == pytest.approx(np.mean(repeated))


@pytest.mark.parametrize("replacement", [True, False])
def test_weights_are_probabilities_for_any_number_of_trials(replacement):
    for k in (1, 7, 3000):
        found = weights(3000, k, replacement)
        assert found.sum() == pytest.approx(1)
        assert (found >= 0).all()
    np.testing.assert_allclose(weights(4, 1, replacement), 0.25)


@pytest.mark.parametrize(("k", "replacement"), [(0, True), (0, False), (5, False)])
def test_a_budget_that_is_not_there_is_refused(k, replacement):
    with pytest.raises(ValueError, match="must be from 1"):
        weights(4, k, replacement)


def test_without_replacement_it_is_unbiased():
    """For uniform values the expected best of k is k / (k + 1)."""
    samples = np.random.default_rng(0).random((1500, 8))
    for k in (1, 3, 8):
        estimates = [expected_best(sample, k) for sample in samples]
        standard_error = np.std(estimates) / math.sqrt(len(samples))
        assert abs(np.mean(estimates) - k / (k + 1)) < 4 * standard_error


def test_of_trials_that_tie_each_is_equally_likely():
    validation, test = np.array([0.5, 0.5, 0.1]), np.array([0.2, 0.6, 0.9])
    assert expected_best(validation, 3, test) == pytest.approx(0.4)
    assert expected_best(validation, 1, test) == pytest.approx(1.7 / 3)


def test_diverged_trials_count_until_the_budget_exceeds_their_number():
    validation = np.array([-INF, 0.5, -INF, 0.8])
    assert [expected_best(validation, k) for k in (1, 2)] == [-INF, -INF]
    assert expected_best(validation, 3) == pytest.approx(0.8 * 0.75 + 0.5 * 0.25)
    assert expected_best(validation, 4) == 0.8
    losses = -validation
    assert expected_best(losses, 2, higher=False) == INF
    assert expected_best(validation, 1, np.array([0.1, 0.5, 0.1, 0.8])) == pytest.approx(1.5 / 4)  # 0.1: chance


def test_the_curve_is_the_expectation_and_its_band_covers():
    """Coverage of the expected best of 3 of uniform values, 3 / 4, from 30 trials."""
    generator = np.random.default_rng(1)
    hits = []
    for simulation in range(100):
        curve = best_of_k(generator.random(30), repetitions=200, seed=simulation)
        low, high = curve.loc[2, ["low", "high"]]
        hits.append(low <= 0.75 <= high)
    assert curve["trials"].tolist() == list(range(1, 31))
    assert (curve["expected"].diff().dropna() >= 0).all()
    assert 0.87 < np.mean(hits) <= 0.99


def test_the_band_at_one_trial_is_that_of_a_mean():
    test = np.random.default_rng(2).standard_normal(200)
    row = best_of_k(test, repetitions=4000).iloc[0]
    assert row["expected"] == pytest.approx(test.mean())
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * test.std() / math.sqrt(200), rel=0.06)


def test_the_band_breaks_ties_at_random():
    """All tie on validation, so the test value of the best of any k is that of a random trial."""
    test = np.repeat([0.0, 1.0], 50)
    row = best_of_k(np.ones(100), test, repetitions=1000).iloc[99]
    assert row["expected"] == 0.5
    curve = best_of_k(np.ones(100), test[::-1].copy(), repetitions=1000)
    assert (curve.loc[99, "low"], curve.loc[99, "high"]) == (0, 1)


def test_curves_of_a_frame():
    """Trial 0 is no draw; a trial is its mean over seeds; a diverged one has the result that it is given."""
    rows = [
        (0, 0, 9.0, 9.0),
        (1, 0, 0.6, 0.5),
        (1, 1, 0.8, 0.7),
        (2, 0, 0.2, 0.3),
        (2, 1, 0.2, 0.3),
        (3, 0, None, None),
        (4, 0, None, None),
    ]
    runs = pd.DataFrame(rows, columns=["trial", "seed", "validation_accuracy", "test_accuracy"])
    runs = runs.assign(optimizer="sgd", status=["done"] * 5 + ["diverged", "failed"])
    curve = curves(runs, diverged_result=0.1)
    assert curve["trials"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(curve["expected"], [(0.6 + 0.3 + 0.1) / 3, (0.6 + 0.6 + 0.3) / 3, 0.6])
    assert curve["diverged"].tolist() == [1, 1, 1]
    assert curves(runs)["expected"].tolist() == [-INF, pytest.approx(0.5), pytest.approx(0.6)]
    assert curves(runs[:1]).empty
