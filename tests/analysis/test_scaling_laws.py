"""Power laws and their crossovers on data that are exactly those laws, and scipy's fits on data that are not."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from optbench.analysis.laws.scaling_laws import crossover, exponents, power_law, references

BATCHES = 2.0 ** np.arange(4, 13)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0, -0.7])
def test_an_exact_power_law_is_found(exponent):
    law = power_law(BATCHES, 0.03 * BATCHES**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-12)
    assert law.coefficient == pytest.approx(0.03)
    assert law.residual == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(law(np.array([16.0, 100.0])), 0.03 * np.array([16.0, 100.0]) ** exponent)


def test_the_slope_is_scipys_regression_of_the_logarithms():
    rates = np.exp(np.random.default_rng(0).standard_normal(9)) * BATCHES**0.6
    line = stats.linregress(np.log(BATCHES), np.log(rates))
    law = power_law(BATCHES, rates)
    assert (law.exponent, math.log(law.coefficient)) == pytest.approx((line.slope, line.intercept))
    expected = np.sqrt(np.mean(np.log2(rates / law(BATCHES)) ** 2))
    assert law.residual == pytest.approx(expected)


def test_many_slopes_at_once_are_scipys_regressions_of_what_is_finite():
    rates = np.exp(np.random.default_rng(1).standard_normal((6, 9)))
    rates[0, [0, 3]] = np.nan, np.inf
    rates[1, 1:] = np.nan
    for row, slope in zip(rates, exponents(BATCHES, rates), strict=True):
        used = np.isfinite(row)
        if used.sum() < 2:
            assert math.isnan(slope)
        else:
            assert slope == pytest.approx(stats.linregress(np.log(BATCHES[used]), np.log(row[used])).slope, rel=1e-12)


def test_what_is_not_finite_is_left_out_and_one_batch_has_no_slope():
    rates = 0.1 * BATCHES
    rates[[0, 3]] = np.nan, np.inf
    assert power_law(BATCHES, rates).exponent == pytest.approx(1)
    assert math.isnan(power_law([64, 64], [0.1, 0.2]).exponent)
    assert power_law([64], [0.1], exponent=1.0)(128) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="positive"):
        power_law([1, 2], [0.0, 1.0])


def test_references_have_their_slopes_and_the_least_residual():
    """Data of slope 1: the square-root line through their middle is off by 2^(x / 2) at x octaves from it."""
    laws = references(BATCHES, 0.1 * BATCHES)
    assert laws["linear"].residual == pytest.approx(0, abs=1e-12)
    assert laws["square root"].exponent == 0.5
    octaves = np.arange(-4, 5)
    assert laws["square root"].residual == pytest.approx(np.sqrt(np.mean((octaves / 2) ** 2)))


@pytest.mark.parametrize("exponents", [(1.0, 0.0), None])
@pytest.mark.parametrize("place", [100.0, 300.0])
def test_an_exact_crossover_is_found(exponents, place):
    law = crossover(BATCHES, 0.02 * np.minimum(BATCHES, place), exponents)
    assert law.batch == pytest.approx(place, rel=1e-4)
    assert (law.low, law.high) == pytest.approx((1, 0), abs=1e-4)
    assert law.inside
    assert law.residual < 1e-4
    np.testing.assert_allclose(law(np.array([16.0, 4096.0])), [0.32, 0.02 * place], rtol=1e-3)


def test_weighted_exponents_are_those_of_weighted_least_squares():
    batches, weights = np.array([8.0, 32.0, 64.0, 512.0]), np.array([1.0, 0.3, 2.0, 0.05])
    rates = np.array([[0.1, 0.5, 0.7, 0.2], [0.1, np.nan, 0.3, 4.0]])
    expected = []
    for row in rates:
        used = np.isfinite(row)
        expected.append(np.polyfit(np.log(batches[used]), np.log(row[used]), 1, w=np.sqrt(weights[used]))[0])
    np.testing.assert_allclose(exponents(batches, rates, weights), expected, rtol=1e-12)


def test_free_exponents():
    rates = 0.5 * np.minimum(BATCHES, 200) ** 0.8 * np.maximum(BATCHES / 200, 1) ** -0.3
    law = crossover(BATCHES, rates, None)
    assert (law.batch, law.low, law.high, law.coefficient) == pytest.approx((200, 0.8, -0.3, 0.5), rel=1e-4)


def test_a_noisy_crossover_is_scipys_least_squares():
    generator = np.random.default_rng(3)
    rates = 0.02 * np.minimum(BATCHES, 250) * np.exp(0.2 * generator.standard_normal(9))
    law = crossover(BATCHES, rates)

    def residuals(parameters):
        return np.log(rates) - parameters[0] - np.minimum(np.log(BATCHES), parameters[1])

    best = min((optimize.least_squares(residuals, [-4, start]) for start in np.log(BATCHES)), key=lambda fit: fit.cost)
    assert math.log(law.batch) == pytest.approx(best.x[1], abs=1e-4)
    assert math.log(law.coefficient) == pytest.approx(best.x[0], abs=1e-4)


@pytest.mark.parametrize(("exponent", "end"), [(1.0, 4096), (0.0, 16)])
def test_one_piece_alone_has_no_crossover_inside(exponent, end):
    law = crossover(BATCHES, 0.1 * BATCHES**exponent)
    assert not law.inside
    assert law.batch == pytest.approx(end)


def test_too_few_batches_for_two_pieces():
    assert math.isnan(crossover([16, 32, 64], [1, 2, 2], None).batch)
    assert math.isnan(crossover([16], [1]).batch)
