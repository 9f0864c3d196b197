"""Laws with a bend: exact laws, scipy's regressions, brute force over the bend, bounds, and the committed scaling_rules."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from optbench.analysis.laws import broken_power_law
from optbench.analysis.laws.broken_power_law import law, local_slope
from optbench.analysis.laws.noisy_optima import Curve, Vertices, curves_of, vertices
from optbench.analysis.laws.optima import BORDERS
from optbench.analysis.laws.scaling_laws import power_law

ROOT = Path(__file__).parents[2]
NAN = math.nan
BATCHES = 2.0 ** np.arange(4, 13)
LOWEST, HIGHEST = BORDERS.index("lowest"), BORDERS.index("highest")
X = np.log(BATCHES)


def curves(optima, losses, seeds=3, batches=BATCHES):
    """Exact parabolas, equal for all seeds, on a grid of factors of 2 whose rates are off the optima by 0.3 of a step."""
    found = {}
    for batch, best, loss in zip(batches, optima, losses, strict=True):
        rates = best * 2.0 ** (np.arange(-4, 5) + 0.3)
        values = loss * np.exp(0.1 * np.log(rates / best) ** 2)
        found[batch] = Curve(rates, np.repeat(values[:, None], seeds, axis=1))
    return found


def exact(rates, losses=None, borders=None, batches=BATCHES):
    """Vertices without noise, and draws equal to them."""
    rates = np.asarray(rates, dtype=float)
    borders = np.zeros(len(rates), dtype=int) if borders is None else np.array(borders)
    losses = np.ones(len(rates)) if losses is None else np.array(losses)
    draws, draw_borders = np.tile(rates, (50, 1)), np.tile(borders, (50, 1))
    return Vertices(np.asarray(batches), rates, losses, borders, draws, draw_borders)


def test_the_linear_law_of_exact_parabolas():
    found = law(vertices(curves(0.001 * BATCHES, np.ones(9)), repetitions=20), repetitions=200)
    for each in found.slopes:
        assert (each.slope.estimate, each.slope.low, each.slope.high) == pytest.approx((1, 1, 1), abs=1e-9)
        assert each.batches == tuple(BATCHES)
    assert found.p_bend > 0.5


def test_a_rise_and_a_plateau_are_not_averaged():
    """min(B, 256) / 2^14, with losses that rise beyond it. The one slope over 16 to 4096 is exactly 1/2, which is nobody's."""
    rates = np.minimum(BATCHES, 256) / 2**14
    assert power_law(BATCHES, rates).exponent == pytest.approx(0.5, abs=1e-12)
    losses = np.where(BATCHES <= 256, 1.0, 1.2)
    found = law(vertices(curves(rates, losses), repetitions=20), repetitions=200)
    assert found.slope.estimate == pytest.approx(1, abs=1e-9)
    assert found.slopes[0].batches == (16, 32, 64, 128, 256)
    assert found.bend.estimate == pytest.approx(256, rel=1e-6)
    assert (found.slope_before.estimate, found.slope_after.estimate) == pytest.approx((1, 0), abs=1e-6)
    assert found.plateau.estimate == pytest.approx(256 / 2**14, rel=1e-6)
    assert found.p_bend < 0.005
    assert found.batches_used == tuple(BATCHES)
    np.testing.assert_allclose(found(BATCHES), rates, rtol=1e-6)


def test_batches_beyond_the_quality_carry_no_weight():
    """Those at which training fails may have any optimum."""
    rates, losses = np.minimum(BATCHES, 256) / 2**14, np.where(BATCHES <= 256, 1.0, 1.2)
    for wild in (1e-6, 1e3):
        rates[-2:], losses[-2:] = wild, (1.51, 3.0)
        found = law(exact(rates, losses), repetitions=100)
        assert found.slope.estimate == pytest.approx(1, abs=1e-9)
        assert found.bend.estimate == pytest.approx(256, rel=1e-6)
        assert found.batches_used == tuple(BATCHES[:-2])


def test_the_qualities_of_the_slopes():
    losses = 1 + np.array([0.02, 0.0, 0.031, 0.049, 0.051, 0.1, 0.101, 0.4, 0.6])
    found = law(exact(BATCHES**0.7, losses), repetitions=50)
    assert [each.within for each in found.slopes] == [0.05, 0.03, 0.10]
    assert [len(each.batches) for each in found.slopes] == [4, 2, 6]
    assert len(found.batches_used) == 8


def noisy_optima(sd=0.2, n=9, seed=0):
    generator = np.random.default_rng(seed)
    return 0.01 * BATCHES[:n] ** 0.8 * np.exp(sd * generator.standard_normal(n))


def test_the_interval_over_batches_is_scipys_regression_and_that_of_identical_seeds_has_no_width():
    rates = noisy_optima()
    found = local_slope(vertices(curves(rates, np.ones(9)), repetitions=30))
    line = stats.linregress(X, np.log(rates))
    width = stats.t.ppf(0.975, 7) * line.stderr
    assert found.over_batches.estimate == pytest.approx(line.slope)
    assert (found.over_batches.low, found.over_batches.high) == pytest.approx((line.slope - width, line.slope + width))
    assert found.over_seeds.high - found.over_seeds.low == pytest.approx(0, abs=1e-9)
    assert (found.slope.low, found.slope.high) == (found.over_batches.low, found.over_batches.high)


def test_the_interval_is_the_union():
    """Draws that shift the slope by -0.5 to 0.1, around an exact law: below the regression's interval, which has no width."""
    shifts = np.linspace(-0.5, 0.1, 1001)
    found = local_slope(Vertices.of_draws(BATCHES, np.ones(9), BATCHES ** (1 + shifts[:, None])))
    # The vertex is the median of the draws.
    assert found.slope.estimate == pytest.approx(0.8)
    assert found.slope.low == found.over_seeds.low == pytest.approx(0.5 + 0.025 * 0.6, abs=1e-3)
    assert found.slope.high == found.over_seeds.high == pytest.approx(1.1 - 0.025 * 0.6, abs=1e-3)


def test_from_three_batches_the_scatter_is_not_known():
    found = local_slope(vertices(curves(noisy_optima(n=3), np.ones(3), batches=BATCHES[:3]), repetitions=10))
    assert math.isfinite(found.slope.estimate)
    assert math.isnan(found.slope.low)
    assert math.isnan(found.over_batches.high)
    assert math.isfinite(found.over_seeds.low)


def test_a_bend_needs_five_batches():
    found = law(exact(BATCHES[:4], batches=BATCHES[:4]))
    assert math.isnan(found.bend.estimate)
    assert math.isnan(found.p_bend)
    assert found.slope.estimate == pytest.approx(1)


def test_without_an_optimum_nothing_is_known():
    found = law(exact([NAN] * 3, [NAN] * 3, batches=BATCHES[:3]))
    assert math.isnan(found.slope.estimate)
    assert found.batches_used == ()


# ---- the fit with a bend ------------------------------------------------------------------------------------------------


def squares_of_a_bend(y, place):
    basis = np.column_stack([np.ones_like(X), np.minimum(X, place), np.maximum(X, place)])
    return float(((y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]) ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_bend_is_the_best_of_a_search_over_its_place(seed):
    rates = np.minimum(BATCHES, 300) * np.exp(0.3 * np.random.default_rng(seed).standard_normal(9))
    y = np.log(rates)
    places = np.linspace(X[1], X[-2], 2001)
    start = places[np.argmin([squares_of_a_bend(y, place) for place in places])]
    best = optimize.minimize_scalar(
        lambda place: squares_of_a_bend(y, place),
        bounds=(max(start - 0.01, X[1]), min(start + 0.01, X[-2])),
        method="bounded",
        options={"xatol": 1e-10},
    )
    found = law(exact(rates), repetitions=50)
    assert found.residual == pytest.approx(math.sqrt(best.fun / 9) / math.log(2), rel=1e-6)
    assert math.log(found.bend.estimate) == pytest.approx(best.x, abs=1e-4)
    assert found.slope_before.estimate == pytest.approx(
        (math.log(found(32)) - math.log(found(16))) / math.log(2), rel=1e-9
    )


@pytest.mark.parametrize(("n", "point"), [(8, 6.7), (9, 5.8), (12, 4.9)])
def test_the_95_percent_points_of_sup_f_under_a_line(n, point):
    lines = np.random.default_rng(0).standard_normal((20_000, n))
    found = np.quantile(broken_power_law._improvement(np.arange(n) * math.log(2), lines), 0.95)
    assert found == pytest.approx(point, abs=0.25)


def test_a_line_seldom_has_a_bend():
    """p of a bend is uniform under a line: a share of 0.2 is below 0.2."""
    low = [law(exact(noisy_optima(seed=seed)), repetitions=200).p_bend < 0.2 for seed in range(150)]
    assert np.mean(low) == pytest.approx(0.2, abs=0.1)


def test_a_smooth_curve_of_uncertain_optima_is_not_bent():
    """Optima on two lines without scatter, each known to a factor of e only: draws hold no bend, though p says so."""
    rates = 0.01 * np.minimum(BATCHES, 256)
    generator = np.random.default_rng(0)
    common = {"batches": BATCHES, "rates": rates, "losses": np.ones(9), "borders": np.zeros(9, dtype=int)}
    noise = generator.standard_normal((400, 9))
    wide, narrow = (
        law(Vertices(**common, draws=rates * np.exp(width * noise), draw_borders=np.zeros((400, 9), dtype=int)))
        for width in (1.0, 0.02)
    )
    assert wide.p_bend < 0.01
    assert (wide.is_bent, narrow.is_bent) == (False, True)
    assert wide.change.low < 0 < wide.change.high
    assert narrow.change.estimate == pytest.approx(1)
    assert narrow.change.low == pytest.approx(1, abs=0.05)


def test_the_interval_of_a_bend_holds_the_scatter_around_the_law():
    """Equal seeds say nothing of it."""
    rates = np.minimum(BATCHES, 256) * np.exp(0.2 * np.random.default_rng(1).standard_normal(9))
    found = law(exact(rates), repetitions=50)
    assert found.bend.high > 1.3 * found.bend.low
    assert found.slope_before.high - found.slope_before.low > 0.1


# ---- bounds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "border", "beside"), [(0, LOWEST, 1.5), (8, HIGHEST, 0.7), (4, LOWEST, 9.0)])
def test_a_bound_on_the_right_side_of_the_law_is_no_point(at, border, beside):
    rates, borders = noisy_optima(sd=0.1), np.zeros(9, dtype=int)
    others = np.arange(9) != at
    line = stats.linregress(X[others], np.log(rates[others]))
    rates[at], borders[at] = beside * math.exp(line.intercept + line.slope * X[at]), border
    found = local_slope(exact(rates, borders=borders))
    assert found.slope.estimate == pytest.approx(line.slope, rel=1e-9)
    assert found.bounds == (BATCHES[at],)
    width = stats.t.ppf(0.975, 6) * line.stderr
    assert found.over_batches.high == pytest.approx(line.slope + width)


@pytest.mark.parametrize(("at", "border", "beside"), [(0, LOWEST, 0.3), (8, HIGHEST, 3.0)])
def test_a_bound_on_the_wrong_side_of_the_law_pulls_it(at, border, beside):
    rates, borders = 0.01 * BATCHES**0.5, np.zeros(9, dtype=int)
    rates[at] *= beside
    borders[at] = border
    found = local_slope(exact(rates, borders=borders))
    assert found.slope.estimate == pytest.approx(stats.linregress(X, np.log(rates)).slope)


def test_bounds_of_the_other_side_of_a_bend_leave_it_as_it_is():
    rates, borders = np.minimum(BATCHES, 256) / 2**14, np.zeros(9, dtype=int)
    rates[-1], borders[-1] = rates[-1] / 4, HIGHEST
    found = law(exact(rates, borders=borders), repetitions=50)
    assert (found.bend.estimate, found.slope_after.estimate) == (pytest.approx(256), pytest.approx(0, abs=1e-6))
    assert found.batches_used == tuple(BATCHES[:-1])


# ---- the committed grid -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed():
    columns = ["run_id", "status", "optimizer", "batch", "seed", "base_learning_rate", "validation_loss"]
    runs = pd.read_parquet(ROOT / "benchmarks/grids/scaling_rules/runs.parquet", columns=columns)
    return {
        name: law(vertices(curves_of(own, rate="base_learning_rate"), repetitions=400), repetitions=500)
        for name, own in runs.groupby("optimizer")
    }


@pytest.mark.parametrize(
    ("optimizer", "batches", "slope", "low", "high"),
    [
        ("momentum", (16, 256), 1.03, 0.91, 1.16),
        ("sgd", (16, 128), 0.94, 0.68, 1.20),
        ("adam", (16, 512), 0.69, 0.59, 0.79),
        ("rmsprop", (16, 256), 0.49, 0.28, 0.70),
        ("kfac", (32, 512), 0.89, 0.78, 1.00),
    ],
)
def test_the_slopes_of_scaling_rules_where_training_is_at_its_best(committed, optimizer, batches, slope, low, high):
    found = committed[optimizer].slopes[0]
    assert (found.batches[0], found.batches[-1]) == batches
    interval = found.over_batches
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((slope, low, high), abs=0.006)


def test_the_bends_of_scaling_rules(committed):
    assert committed["momentum"].slope_before.estimate == pytest.approx(1.03, abs=0.005)
    assert committed["momentum"].bend.estimate == pytest.approx(371, rel=0.03)
    assert committed["momentum"].slope_after.estimate == pytest.approx(0.17, abs=0.03)
    assert committed["momentum"].p_bend < 0.05
    assert committed["kfac"].slopes[0].bounds == (16,)
    assert committed["kfac"].p_bend > 0.3


@pytest.mark.slow
def test_the_union_covers_a_slope_around_which_optima_scatter():
    """Five batches, five seeds of sd 0.1, and a scatter of 0.3 of the law: seeds alone cover less than two thirds."""
    generator, hits = np.random.default_rng(0), []
    rates = 0.01 * 2.0 ** np.arange(-6, 7)
    for _ in range(150):
        best = 0.01 * (BATCHES[:5] / 64) * np.exp(0.3 * generator.standard_normal(5))
        grid = {
            batch: Curve(rates, np.exp(0.1 * np.log(rates[:, None] / place) ** 2 + 0.01 * generator.standard_normal((13, 5))))
            for batch, place in zip(BATCHES, best, strict=False)
        }  # fmt: skip
        found = local_slope(vertices(grid, repetitions=200), within=10)
        hits.append([each.low <= 1 <= each.high for each in (found.slope, found.over_seeds)])
    union, seeds = np.mean(hits, axis=0)
    assert union > 0.9
    assert seeds < 0.66
