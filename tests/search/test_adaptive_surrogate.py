"""The process against dense formulas with scikit-learn's kernels, and the answer of a grid that is known whole."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from families import exponent, optima, options, table
from scipy import stats
from sklearn.gaussian_process.kernels import Matern

from optbench.sweep.search.adaptive import surrogate
from optbench.sweep.search.adaptive.answers import Tables, answer
from optbench.sweep.search.adaptive.lattice import Outcomes, layout
from optbench.sweep.search.adaptive.surrogate import Scale, covariances, posterior


def outcomes_of(grid, known=None):
    """The results of a grid, of the cells ``known`` (B, U, S) or of all."""
    found = Outcomes(layout(grid, options()).searches[0])
    known = np.ones(grid.losses.shape, dtype=bool) if known is None else known
    found.losses[known] = grid.losses[known]
    found.first = grid.first
    return found


def oracle(u, v):
    def k(x, length):
        return Matern(length, nu=2.5)(np.asarray(x, dtype=float)[:, None])

    shared = 1 + 0.66 * k(u - v, 4.8) + 0.58 * k(u, 5.8) + 0.66 * k(v, 9.2) + 0.23 * k(u, 2.2) * k(v, 4.3)
    return shared, k(u - v, 1.7) * k(v, 1.7)


def test_the_kernel_is_the_one_of_the_formula():
    u, v = np.random.default_rng(0).uniform(-10, 10, (2, 12))
    for found, expected in zip(covariances(u, v), oracle(u, v), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_draws_have_the_mean_and_the_covariance_of_the_conditional_normal_distribution():
    grid = table(batches=range(4, 8), seeds=2, rates=5)
    known = np.random.default_rng(1).random(grid.losses.shape) < 0.3
    outcomes = outcomes_of(grid, known)
    drawn = posterior(outcomes, 0, draws=20_000)
    search = outcomes.search
    u, v = np.tile(search.u, 4), np.repeat(search.v, 5)
    shared, of_seed = oracle(u, v)
    noise = 0.023 * drawn.noise
    dense = drawn.signal * np.kron(np.ones((2, 2)), shared) + noise * drawn.part * np.kron(np.eye(2), of_seed)
    covariance = dense + noise * (1 - drawn.part) * np.eye(len(dense))
    seen = np.moveaxis(known, 2, 0).ravel()
    losses = np.moveaxis(grid.losses, 2, 0).ravel()
    y = drawn.scale.z(losses[seen]) - 1
    gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    mean = 1 + gain @ y
    left = covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]
    z = drawn.z.reshape(-1, drawn.z.shape[-1])
    np.testing.assert_allclose(z[seen], np.repeat(y[:, None] + 1, z.shape[1], 1), atol=1e-12)
    error = np.sqrt(np.diag(left) / z.shape[1])
    assert (np.abs(z[~seen].mean(1) - mean) < 5 * error).all()
    np.testing.assert_allclose(np.cov(z[~seen]), left, atol=0.05 * np.diag(left).max())


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("rates", [4, 6])
def test_the_factors_have_the_largest_penalised_likelihood(noise, rates):
    grid = table(batches=range(4, 8), seeds=2, rates=rates, noise=noise)
    outcomes = outcomes_of(grid)
    drawn = posterior(outcomes, 0, draws=4)
    search = outcomes.search
    shared, of_seed = oracle(np.tile(search.u, 4), np.repeat(search.v, rates))
    y = drawn.scale.z(np.moveaxis(grid.losses, 2, 0).ravel())
    found = {}
    for signal, factor, part in itertools.product((0.5, 1.0, 2.0), (0.35, 0.6, 1.0, 1.7, 3.0), (0.25, 0.5, 0.75)):
        each = signal * np.kron(np.ones((2, 2)), shared)
        each += 0.023 * factor * (part * np.kron(np.eye(2), of_seed) + (1 - part) * np.eye(len(each)))
        penalty = math.log(factor) ** 2 / 2 + math.log(signal) ** 2 / (2 * 0.7**2)
        found[signal, factor, part] = stats.multivariate_normal(np.ones(len(y)), each).logpdf(y) - penalty
    assert (drawn.signal, drawn.noise, drawn.part) == max(found, key=found.get)


def test_the_transformation_has_its_inverse_and_a_place_for_divergence():
    scale = Scale.of(np.array([0.5, 0.7, math.inf, math.nan]), 2.3)
    assert scale.width == pytest.approx(math.log(2.3 / 0.5) / 16)
    losses = np.array([0.49, 0.5, 0.8, 2.0])
    np.testing.assert_allclose(scale.losses(scale.z(losses)), losses, rtol=1e-12)
    assert scale.z(np.array([math.inf, 1e300]))[0] == 2.9
    assert scale.losses(np.array([2.81, 50.0])).tolist() == [math.inf, math.inf]
    assert scale.z(np.array([0.5]))[0] == 0


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_a_grid_that_is_known_whole_has_the_answer_of_the_analysis(seeds):
    grid = table(optimum=lambda v: v - 17, seeds=seeds)  # the smallest batches have their best rate at the end
    outcomes = outcomes_of(grid)
    tables = Tables(outcomes, posterior(outcomes, 0))
    found = answer(tables, outcomes)
    expected = optima(grid)
    assert found.exponent.estimate == pytest.approx(exponent(grid), abs=1e-12)
    np.testing.assert_allclose([row.optimum.estimate for row in found.conditions], expected["optimal"], rtol=1e-12)
    borders = [{"lowest": 1.0}.get(border, 0.0) for border in expected["border"]]
    assert [row.below for row in found.conditions] == borders
    assert 1.0 in borders
    np.testing.assert_allclose([row.chosen for row in found.conditions], grid.rates[np.argmin(grid.losses.mean(2), 1)])


def test_conditions_count_by_how_near_they_come_to_the_least_loss():
    grid = table(optimum=lambda v: 0.5 * v - 12 + 0.1 * (v - 8) ** 2, noise=0.01)
    outcomes = outcomes_of(grid)
    tables = Tables(outcomes, posterior(outcomes, 0), quality=0.05)
    loss = np.nanmin(grid.losses.mean(2), 1)
    excess = loss / loss.min() - 1
    assert excess.max() > 0.2
    expected = np.minimum(0.05 / np.maximum(excess, 1e-12), 1)
    np.testing.assert_allclose(tables.importance, expected, rtol=1e-12)
    rates = optima(grid)["optimal"]
    line = np.polyfit(np.log(grid.conditions), np.log(rates), 1, w=np.sqrt(expected))
    assert answer(tables, outcomes).exponent.estimate == pytest.approx(line[0], abs=1e-9)
    assert line[0] != pytest.approx(exponent(grid), abs=0.1)


def test_a_condition_at_which_nothing_trains_has_the_least_importance():
    grid = table(batches=range(4, 8))
    outcomes = outcomes_of(grid)
    outcomes.losses[2] = math.inf
    importance = Tables(outcomes, posterior(outcomes, 0), quality=0.5).importance
    assert importance[2] == 1e-3
    assert (np.delete(importance, 2) == 1).all()


def test_the_intervals_of_a_grid_that_is_known_whole_are_those_of_its_seeds():
    from families import sweep

    from optbench.analysis.laws.learning_rates import exponent_over_seeds

    grid = table(noise=2.0)
    outcomes = outcomes_of(grid)
    found = answer(Tables(outcomes, posterior(outcomes, 0, draws=4000)), outcomes).exponent
    expected = exponent_over_seeds(sweep(grid), repetitions=1500).exponent
    width = expected.high - expected.low
    assert (found.low, found.high) == (
        pytest.approx(expected.low, abs=0.08 * width),
        pytest.approx(expected.high, abs=0.08 * width),
    )


def test_a_loss_as_large_as_before_training_keeps_its_value():
    grid = table(batches=range(4, 6))
    outcomes = outcomes_of(grid)
    outcomes.losses[0, 0] = 2.29  # its z is beyond the place of divergence
    means = Tables(outcomes, posterior(outcomes, 0)).means
    np.testing.assert_allclose(means[:, 0, 0], 2.29, rtol=1e-12)


def test_a_cell_without_outcome_is_left_out_of_the_mean():
    grid = table(batches=range(4, 6))
    outcomes = outcomes_of(grid)
    outcomes.losses[0, 3, :2], outcomes.lost[0, 3, :2] = math.nan, True
    outcomes.search.exists[1, 4] = False
    outcomes.losses[1, 4] = math.nan
    means = Tables(outcomes, posterior(outcomes, 0)).means
    np.testing.assert_allclose(means[:, 0, 3], grid.losses[0, 3, 2:].mean(), rtol=1e-12)
    assert np.isnan(means[:, 1, 4]).all()


def test_the_draws_do_not_depend_on_what_was_drawn_before():
    grid = table(batches=range(4, 7))
    known = np.random.default_rng(0).random(grid.losses.shape) < 0.2
    first = posterior(outcomes_of(grid, known), 3).z
    surrogate._paths.cache_clear()
    posterior(outcomes_of(table(batches=range(5, 8))), 4)
    np.testing.assert_array_equal(posterior(outcomes_of(grid, known), 3).z, first)
    assert not np.array_equal(posterior(outcomes_of(grid, known), 4).z, first)


def test_a_column_of_seeds_keeps_its_draws_as_others_are_added():
    few, many = (surrogate.Paths(np.arange(4.0), np.arange(3.0), columns, 0, 5) for columns in (2, 4))
    np.testing.assert_array_equal(few.own, many.own[:2])
    np.testing.assert_array_equal(few.noise, many.noise[:2])


def test_two_optima_are_both_reported():
    grid = table(valley=lambda d: np.minimum(0.1 * d**2, 0.1 * (d - 5) ** 2), noise=0.3, seeds=3)
    known = np.zeros(grid.losses.shape, dtype=bool)
    known[:, ::4] = True
    outcomes = outcomes_of(dataclasses.replace(grid), known)
    rows = answer(Tables(outcomes, posterior(outcomes, 0)), outcomes).conditions
    assert any(row.second_share > 0.1 and abs(math.log2(row.second / row.chosen)) >= 2 for row in rows)
