"""Optimal and largest stable learning rates where they are known: parabolas in the logarithms, and edges of divergence."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.learning_rates import (
    by_batch,
    crossover_over_seeds,
    exponent_over_seeds,
    stable_limit,
    sweep_of,
)
from optbench.analysis.laws.optima import BORDERS, optima, optimum

INF = math.inf
GRID = 2.0 ** np.arange(-8, 3)


def parabola(rates, best, least=0.3, curvature=0.2):
    return least * np.exp(curvature * np.log(np.asarray(rates) / best) ** 2)


@pytest.mark.parametrize("rates", [GRID, GRID[::-1], np.array([0.01, 0.07, 0.1, 0.35, 2.0])])
@pytest.mark.parametrize("best", [0.06, 0.1, 0.13])
def test_the_vertex_of_a_parabola_is_found_on_any_grid(rates, best):
    found = optimum(rates, parabola(rates, best))
    assert (found.learning_rate, found.loss, found.border) == (pytest.approx(best), pytest.approx(0.3), "")


@pytest.mark.parametrize(
    ("losses", "rate", "border"),
    [
        ([1.0, 2.0, 3.0], 0.1, "lowest"),
        ([3.0, 2.0, 1.0], 0.4, "highest"),
        ([3.0, 2.0, INF], 0.2, "unstable"),
        ([INF, 2.0, 3.0], 0.2, "unstable"),
        ([2.0, INF, INF], 0.1, "lowest"),
        ([2.0, 2.0, 2.0], 0.1, "lowest"),
        ([np.nan, 2.0, 3.0], 0.2, "lowest"),
        ([INF, INF, np.nan], np.nan, ""),
    ],
)
def test_borders(losses, rate, border):
    found = optimum([0.1, 0.2, 0.4], losses)
    np.testing.assert_equal((found.learning_rate, found.border), (rate, border))


def test_a_plateau_and_losses_without_logarithm():
    assert optimum([0.1, 0.2, 0.4, 0.8], [2.0, 1.0, 1.0, 2.0]).learning_rate == pytest.approx(math.sqrt(0.08))
    with pytest.raises(ValueError, match="positive"):
        optimum([0.1, 0.2], [0.0, 1.0])


def test_many_curves_at_once_are_each_curve_by_itself():
    generator = np.random.default_rng(0)
    losses = np.exp(generator.normal(size=(40, 3, 5)))
    losses[generator.random(losses.shape) < 0.2] = INF
    losses[0, 0] = INF
    rates = GRID[:5]
    x = np.log(rates)
    for row, rate, loss, border in zip(losses.reshape(-1, 5), *map(np.ravel, optima(rates, losses)), strict=True):
        i = int(np.argmin(row))
        if np.isinf(row).all():
            assert np.isnan(rate)
            assert np.isnan(loss)
        elif i in (0, 4) or np.isinf(row[i - 1 : i + 2]).any():
            assert (rate, loss) == (rates[i], row[i])
            assert BORDERS[border] == {0: "lowest", 4: "highest"}.get(i, "unstable")
        else:
            a, b, c = np.polyfit(x[i - 1 : i + 2], np.log(row[i - 1 : i + 2]), 2)
            assert BORDERS[border] == ""
            assert math.log(rate) == pytest.approx(-b / (2 * a), rel=1e-8)
            assert math.log(loss) == pytest.approx(c - b**2 / (4 * a), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("diverged", "tolerance", "stable", "unstable"),
    [
        ([0, 0, 1], 0, 0.2, 0.4),
        ([0, 1, 0], 0, 0.1, 0.2),  # stable again above an unstable one is luck
        ([0, 0.3, 1], 0.5, 0.2, 0.4),
        ([0, 0, 0], 0, 0.4, INF),
        ([1, 1, 1], 0, 0, 0.1),
    ],
)
def test_the_limit_of_stability(diverged, tolerance, stable, unstable):
    limit = stable_limit([0.4, 0.2, 0.1], diverged[::-1], tolerance)
    assert (limit.stable, limit.unstable) == (stable, unstable)
    known = stable > 0 and unstable < INF
    np.testing.assert_allclose(limit.learning_rate, math.sqrt(stable * unstable) if known else np.nan)


def sweep(exponent=0.5, seeds=3, noise=0.0, edge=8.0, seed=0):
    """The optimum is 0.004 batch^exponent, and rates from ``edge`` times that on diverge."""
    generator = np.random.default_rng(seed)
    found = {}
    for batch in 2.0 ** np.arange(4, 10):
        best = 0.004 * batch**exponent
        shift = np.exp(noise * generator.standard_normal((len(GRID), seeds)))
        losses = parabola(GRID, best)[:, None] * shift
        losses[best * edge <= GRID] = INF
        found[batch] = dict(zip(GRID, losses, strict=True))
    return found


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_exponents_without_noise_are_exact(exponent):
    fit = exponent_over_seeds(sweep(exponent), repetitions=5)
    assert fit.exponent.estimate == pytest.approx(exponent)
    assert fit.exponent.low == pytest.approx(fit.exponent.high)
    assert fit.coefficient.estimate == pytest.approx(0.004)
    # The limit is known to the grid's factor of 2 at either end of 5 octaves.
    limit = exponent_over_seeds(sweep(exponent), "stable", repetitions=5)
    assert limit.exponent.estimate == pytest.approx(exponent, abs=0.2)


def test_the_interval_of_a_limit_is_no_narrower_than_its_grid():
    """All seeds diverge at the same rates, so that nothing but the position inside a factor of 2 is unknown.

    For positions that are uniform in [0, 1] and independent, the slope in log2 has the variance 1 / (12 Sxx).
    """
    found = exponent_over_seeds(sweep(0.5), "stable", repetitions=1000).exponent
    octaves = np.arange(6)
    width = 1.96 / math.sqrt(12 * ((octaves - octaves.mean()) ** 2).sum())
    assert found.high - found.low == pytest.approx(2 * width, rel=0.12)
    assert found.estimate == pytest.approx((found.low + found.high) / 2, abs=0.02)


def test_the_crossover_of_a_sweep_has_an_interval():
    """The optimum grows with the batch up to 100 and not beyond."""
    generator = np.random.default_rng(7)
    data = {}
    for batch in 2.0 ** np.arange(3, 11):
        losses = parabola(GRID, 0.004 * min(batch, 100))[:, None]
        data[batch] = dict(zip(GRID, losses * np.exp(0.01 * generator.standard_normal((len(GRID), 4))), strict=True))
    law, interval = crossover_over_seeds(data, repetitions=100)
    assert law.inside
    assert law.batch == pytest.approx(100, rel=0.2)
    assert interval.estimate == law.batch
    assert interval.low < 100 < interval.high
    assert interval.undefined == 0
    straight = sweep(1.0)
    assert crossover_over_seeds(straight, repetitions=10)[1].undefined == 1


def test_batches_at_the_border_of_their_grid_have_no_part():
    """Cut the grid so that batches from 128 on have their optimum, 0.004 * 128 = 0.5, at its end or beyond."""
    cut = {b: {r: losses for r, losses in grid.items() if r <= 0.5} for b, grid in sweep(1.0).items()}
    fit = exponent_over_seeds(cut, repetitions=5)
    assert fit.exponent.estimate == pytest.approx(1)
    assert fit.excluded == (128, 256, 512)
    assert fit.batches == (16, 32, 64)
    table = by_batch(cut).set_index("batch")
    assert table["border"].tolist() == ["", "", "", "highest", "highest", "highest"]
    assert table.loc[64, "optimal"] == pytest.approx(0.256)
    assert table.loc[16, ["stable", "unstable"]].tolist() == [0.5, INF]
    assert table.loc[16, ["rates", "runs", "diverged"]].tolist() == [8, 24, 0]
    # 0.004 * 16 * 8 = 0.512: on the whole grid 1, 2 and 4 diverge.
    assert by_batch(sweep(1.0)).loc[0, ["stable", "unstable", "runs", "diverged"]].tolist() == [0.5, 1, 33, 9]


def test_the_sweep_of_a_frame():
    runs = pd.DataFrame({
        "batch": [64, 64, 64, 64, 128], "learning_rate": [0.1, 0.1, 0.2, 0.2, 0.1],
        "status": ["done", "done", "diverged", "failed", "done"], "validation_accuracy": [0.9, 0.8, None, None, 0.7],
    })  # fmt: skip
    found = sweep_of(runs, "validation_accuracy")
    assert list(found) == [64, 128]
    np.testing.assert_allclose(found[64][0.1], [0.1, 0.2])
    np.testing.assert_allclose(found[64][0.2], [INF])
    np.testing.assert_allclose(found[128][0.1], [0.3])


@pytest.mark.slow
def test_coverage_of_the_exponent_over_seeds():
    hits = []
    for simulation in range(60):
        data = sweep(0.5, seeds=6, noise=0.03, edge=INF, seed=simulation)
        interval = exponent_over_seeds(data, repetitions=60, seed=simulation).exponent
        hits.append(interval.low <= 0.5 <= interval.high)
    assert 0.85 <= np.mean(hits) <= 1.0
