"""Cycles of gradient descent on losses that are not quadratic, against the steps themselves, and growth at several scales."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from optbench.theory import (
    power_cycle,
    pseudo_huber,
    pseudo_huber_cycle,
    quartic_cycle,
    saturating_loss,
    saturating_loss_of_pareto_data,
)

TWO_SCALES = [(1.0, 1.0), (0.01, 0.001)]


def stepped(slope, start, rate, steps):
    """Gradient descent by hand: x after ``steps`` steps from ``start``."""
    x = start
    for _ in range(steps):
        x -= rate * slope(x)
        if abs(x) > 1e6:
            return math.inf
    return x


def pseudo_huber_slope(terms):
    return lambda x: sum(a / r**2 * x / math.sqrt(1 + x**2 / r**2) for a, r in terms)


@pytest.mark.parametrize(("exponent", "amplitude"), [(1.2, 0.0296954), (1.5, 0.005625), (1.8, 5.9049e-6)])
def test_steps_on_a_power_below_2_end_on_its_cycle(exponent, amplitude):
    """Catches η for η/2 in the amplitude."""
    cycle = power_cycle(exponent, 0.1)
    assert cycle.amplitude == pytest.approx(amplitude, rel=1e-5)
    assert cycle.loss == pytest.approx(cycle.amplitude**exponent, rel=1e-12)
    assert cycle.attracts

    def slope(x):
        return math.copysign(exponent * abs(x) ** (exponent - 1), x)

    # p = 1.5 has the multiplier 0, the others ±0.6.
    assert abs(stepped(slope, 3 * amplitude, 0.1, 200)) == pytest.approx(cycle.amplitude, rel=1e-9)
    distance = 1e-6 * amplitude
    after = stepped(slope, cycle.amplitude + distance, 0.1, 1)
    assert -(after + cycle.amplitude) / distance == pytest.approx(-cycle.multiplier, abs=1e-3)


def test_the_cycle_of_a_power_above_2_repels():
    cycle = power_cycle(3.0, 0.1)
    assert not cycle.attracts

    def slope(x):
        return 3 * x * abs(x)

    assert stepped(slope, cycle.amplitude * 1.001, 0.1, 100) == math.inf
    assert abs(stepped(slope, cycle.amplitude * 0.999, 0.1, 1000)) < 0.1 * cycle.amplitude


@pytest.mark.parametrize("arguments", [(1.0, 0.1), (2.0, 0.1), (1.5, 0.0)])
def test_a_power_without_a_cycle_is_refused(arguments):
    with pytest.raises(ValueError, match="must be p > 1, not 2"):
        power_cycle(*arguments)


@pytest.mark.parametrize(
    ("rate", "amplitude", "plateau"), [(0.05, 0.229129, 1.5), (0.1, 0.489898, 4.0), (0.5, 2.497999, 24.0)]
)
def test_the_plateau_of_a_pseudo_huber_loss_rises_with_the_rate(rate, amplitude, plateau):
    cycle = pseudo_huber_cycle([(1.0, 0.1)], rate)
    assert cycle.amplitude == pytest.approx(amplitude, abs=1e-6)
    assert cycle.amplitude == pytest.approx(0.1 * math.sqrt((rate / 0.02) ** 2 - 1), rel=1e-12)
    assert cycle.loss == pytest.approx(plateau, rel=1e-12)
    assert cycle.loss == pytest.approx(math.sqrt(1 + (amplitude / 0.1) ** 2) - 1, rel=1e-5)
    assert cycle.attracts
    assert abs(stepped(pseudo_huber_slope([(1.0, 0.1)]), 0.3, rate, 20_000)) == pytest.approx(cycle.amplitude, rel=1e-9)


def test_a_stable_rate_has_no_cycle():
    cycle = pseudo_huber_cycle([(1.0, 0.1)], 0.0199)
    assert (cycle.amplitude, cycle.loss) == (0.0, 0.0)
    assert cycle.multiplier == pytest.approx(1 - 1.99)


@pytest.mark.parametrize(
    ("rate", "loss"),
    [(1.0, 59.49), (0.3, 17.18), (0.1, 5.350), (0.03, 1.524), (0.01, 0.4938), (0.003, 0.1403), (1e-3, 0.0400),
     (3e-4, 0.0050), (1.5e-4, 0.0)],
)  # fmt: skip
def test_the_loss_on_two_scales_is_a_staircase_in_the_rate(rate, loss):
    cycle = pseudo_huber_cycle(TWO_SCALES, rate)
    assert cycle.loss == pytest.approx(loss, rel=5e-4, abs=5e-5 if loss < 0.1 else 0)
    x = stepped(pseudo_huber_slope(TWO_SCALES), 0.7, rate, 30_000)
    found = sum(a * (math.sqrt(1 + x**2 / r**2) - 1) for a, r in TWO_SCALES)
    assert found == pytest.approx(cycle.loss, rel=1e-4, abs=1e-10)


def test_the_curvatures_of_two_scales_are_four_decades_apart():
    def curvature(x, h):
        values = [sum(pseudo_huber(x + move, a, r) for a, r in TWO_SCALES) for move in (-h, 0.0, h)]
        return (values[0] - 2 * values[1] + values[2]) / h**2

    assert curvature(0.0, 1e-6) == pytest.approx(1e4, rel=1e-3)
    assert curvature(0.1, 1e-4) == pytest.approx(1.01**-1.5 + 0.01, abs=1e-4)


def test_a_pseudo_huber_loss_has_no_cancellation_near_0():
    assert pseudo_huber(1e-12, 2.0, 0.5) == pytest.approx(2.0 * (1e-12 / 0.5) ** 2 / 2, rel=1e-12)
    assert pseudo_huber(np.array([0.5, 3.0]), 2.0, 0.5) == pytest.approx(
        [2 * (math.sqrt(2) - 1), 2 * (math.sqrt(37) - 1)]
    )


@pytest.mark.parametrize("arguments", [([], 0.1), ([(1.0, 0.0)], 0.1), ([(1.0, 1.0)], 0.0)])
def test_a_staircase_of_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match="must be positive numbers"):
        pseudo_huber_cycle(*arguments)


def test_faster_growth_than_a_quadratic_has_no_cycle_that_attracts():
    def slope(x):
        return x + x**3

    cycle = quartic_cycle(1.0, 1.0, 1.9)
    assert cycle.amplitude == pytest.approx(0.229416, abs=1e-6)
    assert cycle.loss == pytest.approx(cycle.amplitude**2 / 2 + cycle.amplitude**4 / 4)
    assert not cycle.attracts
    assert stepped(slope, cycle.amplitude, 1.9, 1) == pytest.approx(-cycle.amplitude, rel=1e-12)
    assert stepped(slope, cycle.amplitude * 1.001, 1.9, 500) == math.inf
    assert abs(stepped(slope, cycle.amplitude * 0.999, 1.9, 500)) < 1e-12
    assert quartic_cycle(1.0, 1.0, 2.1) is None
    assert stepped(slope, 0.01, 2.1, 500) == math.inf


@pytest.mark.parametrize("rate", [2.2, 2.9])
def test_slower_growth_than_a_quadratic_has_a_cycle_beyond_the_edge(rate):
    cycle = quartic_cycle(1.0, -1.0, rate)
    assert cycle.attracts
    assert abs(stepped(lambda x: x - x**3, 0.5, rate, 2000)) == pytest.approx(cycle.amplitude, rel=1e-9)
    assert cycle.multiplier == pytest.approx(1 - rate * (1 - 3 * cycle.amplitude**2))
    assert not quartic_cycle(1.0, -1.0, 3.1).attracts
    assert quartic_cycle(1.0, -1.0, 1.9) is None


@pytest.mark.parametrize("arguments", [(1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0)])
def test_a_quartic_without_its_numbers_is_refused(arguments):
    with pytest.raises(ValueError, match="q ≠ 0"):
        quartic_cycle(*arguments)


@pytest.mark.parametrize(
    ("tail", "slope", "ratio"), [(0.5, 0.50000, 1.0), (1.0, 0.99991, 0.99994), (1.5, 1.49456, 0.9910)]
)
def test_the_loss_of_pareto_data_grows_with_their_tail(tail, slope, ratio):
    """Catches a natural logarithm against decades, and x^-α taken for the density."""

    def exact(w):
        # E h = α w^α ∫ u^(1 - α)/(1 + u²) from w to infinity, u = e^t.
        inner = quad(lambda t: math.exp((2 - tail) * t) / (1 + math.exp(2 * t)), math.log(w), 60, limit=500)[0]
        return tail * w**tail * inner

    found = math.log(exact(2e-4) / exact(1e-4)) / math.log(2)
    assert found == pytest.approx(slope, abs=2e-5)
    assert exact(1e-4) / saturating_loss_of_pareto_data(1e-4, tail) == pytest.approx(ratio, abs=1e-4)
    draws = np.random.default_rng(0).pareto(tail, 200_000) + 1
    assert saturating_loss(0.01, draws) == pytest.approx(exact(0.01), rel=0.03)


@pytest.mark.parametrize("tail", [0.0, 2.0])
def test_a_tail_with_another_law_is_refused(tail):
    with pytest.raises(ValueError, match="between 0 and 2"):
        saturating_loss_of_pareto_data(0.1, tail)


def test_two_magnitudes_make_two_steps():
    magnitudes = [1.0, 1000.0]
    assert saturating_loss(np.array([1e-5, 2e-5]), magnitudes) == pytest.approx([5e-5, 2e-4], rel=1e-3)
    assert saturating_loss(0.03, magnitudes) == pytest.approx(0.5, abs=2e-3)
    assert saturating_loss(1000.0, magnitudes) == pytest.approx(1.0, abs=1e-5)
    # Between the steps it is nearly flat: the growth exponent falls from 2 to near 0, and rises again before the second.
    w = np.array([1e-5, 1e-2, 1.0, 100.0])
    exponents = np.log(saturating_loss(1.01 * w, magnitudes) / saturating_loss(w, magnitudes)) / math.log(1.01)
    assert exponents == pytest.approx([2.0, 0.02, 1 / 3, 0.0], abs=5e-3)
