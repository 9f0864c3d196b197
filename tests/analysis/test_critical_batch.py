"""The critical batch size on exact hyperbolas, against scipy, and in simulation."""

import math

import numpy as np
import pytest
from scipy import optimize

from optbench.analysis.laws.critical_batch import critical_batch, fit_critical_batch, local_slopes, regime

INF = math.inf
BATCHES = 2.0 ** np.arange(3, 14)


def steps(batches, steps_min=200.0, batch=300.0):
    return steps_min * (1 + batch / np.asarray(batches))


def test_an_exact_hyperbola_is_found():
    fit = fit_critical_batch(BATCHES, steps(BATCHES))
    assert (fit.steps_min, fit.batch, fit.limit) == (pytest.approx(200), pytest.approx(300), "")
    assert fit.residual < 1e-6
    np.testing.assert_allclose(fit(BATCHES), steps(BATCHES))
    # McCandlish et al.: (S / S_min - 1) (E / E_min - 1) = 1
    examples = BATCHES * steps(BATCHES)
    np.testing.assert_allclose((steps(BATCHES) / fit.steps_min - 1) * (examples / fit.examples_min - 1), 1, rtol=1e-5)


def test_a_noisy_fit_is_scipys_least_squares_on_the_logarithms():
    data = steps(BATCHES) * np.exp(0.2 * np.random.default_rng(1).standard_normal(len(BATCHES)))
    best = optimize.least_squares(lambda p: np.log(data) - p[0] - np.log1p(np.exp(p[1]) / BATCHES), [5, 5])
    fit = fit_critical_batch(BATCHES, data)
    assert (fit.steps_min, fit.batch) == pytest.approx(tuple(np.exp(best.x)), rel=1e-4)
    assert fit.residual == pytest.approx(np.sqrt(np.mean(best.fun**2)) / math.log(2))


@pytest.mark.parametrize(
    ("data", "limit"), [(1e5 / BATCHES, "perfect scaling"), (np.full(11, 70.0), "no scaling"), (BATCHES, "no scaling")]
)
def test_data_that_do_not_hold_a_critical_batch(data, limit):
    fit = fit_critical_batch(BATCHES, data)
    assert fit.limit == limit
    assert fit.batch > 1000 * 8 if limit == "perfect scaling" else fit.batch < 1


def test_batches_that_miss_the_target_are_left_out_and_told():
    data = {batch: np.array([value, value]) for batch, value in zip(BATCHES, steps(BATCHES), strict=True)}
    data[8.0] = np.array([INF, INF])
    data[16.0] = np.array([5.0, INF])  # a median of infinity
    found = critical_batch(data, repetitions=20)
    assert found.not_reached == (8, 16)
    assert found.batches == tuple(BATCHES[2:])
    assert found.fit.batch == pytest.approx(300)
    assert math.isnan(fit_critical_batch([8, 16], [5, INF]).batch)


def test_over_trials_the_least_counts():
    data = {b: np.array([INF, 9 * s, s]) for b, s in zip(BATCHES, steps(BATCHES), strict=True)}
    found = critical_batch(data, over="trials", repetitions=20)
    assert found.batch.estimate == pytest.approx(300)


def test_local_slopes_and_regimes():
    """Slopes of -1, log2(3 / 4) = -0.415 and 0, then a batch that misses the target; given out of order."""
    table = local_slopes([32, 8, 16, 64, 128], [300, 800, 400, 300, INF])
    np.testing.assert_allclose(table["slope"], [-1, math.log2(0.75), 0, math.nan])
    assert table["regime"].tolist() == ["perfect", "diminishing", "maximal", "not reached"]
    assert table[["batch_low", "batch_high"]].to_numpy().tolist() == [[8, 16], [16, 32], [32, 64], [64, 128]]


@pytest.mark.parametrize(
    ("slope", "name"), [(-0.9, "perfect"), (-0.89, "diminishing"), (-0.1, "maximal"), (0.5, "maximal")]
)
def test_bounds_of_the_regimes(slope, name):
    assert regime(slope) == name


@pytest.mark.slow
def test_coverage_of_the_critical_batch_over_seeds():
    generator = np.random.default_rng(0)
    hits = []
    for simulation in range(60):
        data = {b: s * np.exp(0.2 * generator.standard_normal(9)) for b, s in zip(BATCHES, steps(BATCHES), strict=True)}
        found = critical_batch(data, repetitions=60, seed=simulation)
        hits.append((found.batch.low <= 300 <= found.batch.high, found.steps_min.low <= 200 <= found.steps_min.high))
    assert (np.mean(hits, axis=0) > 0.85).all()
