"""Optima of noisy curves: parabolas in the logarithms, numpy's weighted fits, bounds at the ends of a grid, and seeds."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.noisy_optima import Curve, Vertices, curves_of, quadratic_optima, vertices
from optbench.analysis.laws.optima import BORDERS, optima

INF, NAN = math.inf, math.nan
GRID = 2.0 ** np.arange(-8, 3)


def parabola(rates, best, least=0.3, curvature=0.2):
    return least * np.exp(curvature * np.log(np.asarray(rates) / best) ** 2)


@pytest.mark.parametrize("rates", [GRID, np.array([0.01, 0.07, 0.1, 0.35, 2.0]), np.array([0.05, 0.1, 0.2])])
@pytest.mark.parametrize("best", [0.075, 0.1, 0.13])
def test_the_vertex_of_an_exact_parabola(rates, best):
    rate, loss, border = quadratic_optima(rates, parabola(rates, best))
    assert (float(rate), float(loss)) == (pytest.approx(best, rel=1e-10), pytest.approx(0.3, rel=1e-10))
    assert border == 0


def test_a_noisy_curve_is_numpys_weighted_fit_of_the_rates_near_the_optimum():
    """Log losses in excess of the best: the fit extends left to 0.14 and right to 0.05, and not to 0.2."""
    excess = np.array([0.6, 0.2, 0.14, 0.03, 0.0, 0.05, 0.3, 0.9])
    rates = 0.01 * 2.0 ** np.arange(8)
    near = slice(2, 6)
    weights = 1 / (1 + (excess[near] / 0.1) ** 2)
    a, b, c = np.polyfit(np.log(rates[near]), excess[near], 2, w=np.sqrt(weights))
    rate, loss, _ = quadratic_optima(rates, 0.5 * np.exp(excess))
    assert math.log(rate) == pytest.approx(-b / (2 * a), rel=1e-9)
    assert loss == pytest.approx(0.5 * math.exp(c - b**2 / (4 * a)), rel=1e-9)


def test_a_steep_valley_takes_four_rates_and_never_crosses_a_divergence():
    excess = np.array([2.0, 1.5, 0.9, 0.4, 0.0, 0.5, INF, 0.1])
    rates = 2.0 ** np.arange(8)
    near = slice(2, 6)
    a, b, _ = np.polyfit(np.log(rates[near]), excess[near], 2, w=1 / np.sqrt(1 + (excess[near] / 0.1) ** 2))
    assert math.log(quadratic_optima(rates, np.exp(excess))[0]) == pytest.approx(-b / (2 * a), rel=1e-9)


def test_where_the_quadratic_has_no_minimum_it_is_the_vertex_through_three_rates():
    """Two rates to the left are better than a parabola allows: the fit over all of them is concave."""
    rates = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    losses = np.exp([0.02, 0.14, 0.01, 0.0, 0.5])
    a = np.polyfit(np.log(rates[:4]), np.log(losses[:4]), 2, w=1 / np.sqrt(1 + (np.log(losses[:4]) / 0.1) ** 2))[0]
    assert a < 0
    assert quadratic_optima(rates, losses)[0] == pytest.approx(float(optima(rates, losses)[0]))


def test_a_vertex_stays_between_the_neighbours_of_the_best_rate():
    """From the left alone the fit would be beyond the next rate, which is much worse."""
    rates = 2.0 ** np.arange(6)
    found = quadratic_optima(rates, np.exp([0.145, 0.105, 0.068, 0.033, 0.0, 3.0]))[0]
    assert found == pytest.approx(32)


@pytest.mark.parametrize(
    ("losses", "rate", "border"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0.1, "lowest"),
        ([4.0, 3.0, 2.0, 1.0], 0.8, "highest"),
        ([3.0, 2.0, 1.0, INF], 0.4, "unstable"),
        ([INF, INF, INF, INF], NAN, ""),
        ([1.0, INF, INF, INF], 0.1, "lowest"),
    ],
)
def test_borders_are_those_of_three_points(losses, rate, border):
    found = quadratic_optima(0.1 * 2.0 ** np.arange(4), losses)
    np.testing.assert_equal((float(found[0]), BORDERS[int(found[2])]), (rate, border))


def test_many_curves_at_once_are_the_same_curves_one_by_one():
    generator = np.random.default_rng(0)
    losses = np.exp(generator.standard_normal((50, 8)))
    losses[generator.random((50, 8)) < 0.2] = INF
    for row, *together in zip(losses, *quadratic_optima(GRID[:8], losses), strict=True):
        np.testing.assert_allclose(together, quadratic_optima(GRID[:8], row), rtol=1e-9)


# ---- seeds --------------------------------------------------------------------------------------------------------------


def noisy(best, seeds=5, sd=0.1, generator=None):
    generator = generator or np.random.default_rng(1)
    return Curve(GRID, parabola(GRID, best)[:, None] * np.exp(sd * generator.standard_normal((len(GRID), seeds))))


def test_seeds_are_resampled_jointly_over_rates_and_batch_sizes():
    """A seed moves the optima of both batch sizes by the same factor, so that their ratio is the same in every resample."""
    own = 0.1 * np.exp([-0.5, -0.1, 0.0, 0.2, 0.4])
    losses = np.stack([parabola(GRID, best) for best in own], axis=1)
    found = vertices({16: Curve(GRID, losses), 32: Curve(2 * GRID, losses)}, repetitions=200)
    assert found.draws.shape == (200, 2)
    np.testing.assert_allclose(found.draws[:, 1] / found.draws[:, 0], 2, rtol=1e-9)
    assert np.log(found.draws[:, 0]).std() > 0.05


def test_identical_seeds_have_no_spread():
    curve = Curve(GRID, np.repeat(parabola(GRID, 0.1)[:, None], 4, axis=1))
    found = vertices({16: curve}, repetitions=20)
    np.testing.assert_allclose(found.draws, 0.1, rtol=1e-10)
    np.testing.assert_allclose(found.rates, 0.1, rtol=1e-10)


def test_the_first_estimate_is_that_of_the_means_and_one_divergence_excludes_a_rate():
    curve = noisy(0.1)
    losses = curve.losses.copy()
    losses[7, 2] = INF
    losses[3, 1] = NAN  # the mean of the four others
    means = np.array([np.inf if np.isinf(row).any() else np.nanmean(row) for row in losses])
    found = vertices({16: Curve(GRID, losses)}, repetitions=5)
    assert found.rates[0] == pytest.approx(float(quadratic_optima(GRID, means)[0]))


def test_a_rate_without_a_run_among_the_drawn_seeds_keeps_its_mean():
    losses = np.repeat(parabola(GRID, 0.1)[:, None], 3, axis=1)
    losses[4, 1:] = NAN
    np.testing.assert_allclose(vertices({16: Curve(GRID, losses)}, repetitions=50).draws, 0.1, rtol=1e-9)


def test_an_end_of_the_grid_bounds_the_vertex_by_half_a_step():
    """A parabola is best at the lowest rate exactly if its vertex lies below the middle of the lowest two."""
    for best, border in ((0.0999 * math.sqrt(2), "lowest"), (0.1001 * math.sqrt(2), "")):
        rates = 0.1 * 2.0 ** np.arange(5)
        curve = Curve(rates, parabola(rates, best)[:, None])
        found = vertices({16: curve}, repetitions=3)
        assert BORDERS[found.borders[0]] == border
        assert found.rates[0] >= best * (1 - 1e-9)
        assert found.rates[0] == pytest.approx(0.1 * math.sqrt(2), rel=2e-3)
        high = vertices({16: Curve(1 / rates[::-1], curve.losses[::-1])}, repetitions=3)
        assert high.rates[0] == pytest.approx(1 / found.rates[0])


def test_beside_a_divergence_the_optimum_is_drawn_from_a_step():
    rates = 0.1 * 2.0 ** np.arange(5)
    curve = Curve(rates, np.array([3.0, 2.0, 1.0, INF, INF])[:, None])
    found = vertices({16: curve}, repetitions=2000)
    assert found.rates[0] == pytest.approx(0.4)
    steps = np.log2(found.draws[:, 0] / 0.4)
    assert (np.abs(steps) <= 0.5).all()
    assert np.quantile(steps, [0.25, 0.5, 0.75]) == pytest.approx([-0.25, 0, 0.25], abs=0.05)


def test_curves_of_runs_have_one_column_for_each_seed():
    rows = [(b, r, s, b * r + s) for b in (16, 32) for r in (0.2, 0.1) for s in (3, 1)]
    runs = pd.DataFrame(rows, columns=["batch", "learning_rate", "seed", "validation_loss"])
    runs = runs.assign(status="done", run_id=[str(i) for i in range(len(runs))])
    runs.loc[0, "status"] = "diverged"  # batch 16, rate 0.2, seed 3
    runs.loc[7, "status"] = "failed"  # batch 32, rate 0.1, seed 1
    runs.loc[8, :] = {
        "batch": 64,
        "learning_rate": 0.1,
        "seed": 1,
        "validation_loss": 5.0,
        "status": "done",
        "run_id": "8",
    }
    found = curves_of(runs)
    np.testing.assert_equal(found[64].losses, [[5.0, NAN]])
    assert found[16].rates.tolist() == [0.1, 0.2]
    np.testing.assert_allclose(found[16].losses, [[2.6, 4.6], [4.2, INF]])
    np.testing.assert_allclose(found[32].losses, [[NAN, 6.2], [7.4, 9.4]])


def test_curves_of_different_seeds_are_refused():
    with pytest.raises(ValueError, match=r"curves of \[3, 5\] seeds"):
        vertices({16: noisy(0.1), 32: noisy(0.1, seeds=3)})


def test_draws_of_a_surrogate_stand_in_for_seeds():
    draws = np.array([[0.1, 0.4], [0.2, 0.2], [0.4, NAN]])
    found = Vertices.of_draws([16, 32], [1.0, 1.1], draws)
    assert found.rates.tolist() == pytest.approx([0.2, math.sqrt(0.08)])
    assert (found.borders == 0).all()
