"""The best single step of SGD and the information bound, against a minimization and an estimate by least squares."""

import numpy as np
import pytest

from optbench.theory import greedy_step, information_bound, risk, second_moment
from optbench.theory.noisy_quadratic import LinearMethod

CURVATURES = np.array([1.0, 0.3, 0.05])


def test_the_best_step():
    """Catches a noise scale that is divided by the batch, and tr Σ/‖G‖² for tr(HΣ)/(GᵀHG)."""
    found = greedy_step(CURVATURES, np.ones(3), CURVATURES, batch=4)
    assert found.learning_rate == pytest.approx(0.8402230, abs=5e-8)
    assert found.risk == pytest.approx(0.2160282, abs=5e-8)
    assert found.noise_scale == pytest.approx(1.0636485, abs=5e-8)
    # α_max = ‖G‖²/GᵀHG, and the fall of the risk is reduced by the same factor.
    rate = 1.0925 / 1.027125
    assert found.learning_rate == pytest.approx(rate / (1 + found.noise_scale / 4))
    assert 0.675 - found.risk == pytest.approx(0.5 * rate * 1.0925 / (1 + found.noise_scale / 4))


def test_no_other_rate_has_a_smaller_risk():
    moments, multiplicities = np.array([2.0, 1.0, 5.0]), np.array([1.0, 4.0, 9.0])
    best = greedy_step(CURVATURES, moments, CURVATURES, 4, multiplicities)

    def after(rate):
        after_step = [
            second_moment(LinearMethod.sgd(rate, h), h / 4, 1, start=s)
            for h, s in zip(CURVATURES, moments, strict=True)
        ]
        return risk(after_step, multiplicities * CURVATURES)

    assert after(best.learning_rate) == pytest.approx(best.risk)
    assert min(after(0.999 * best.learning_rate), after(1.001 * best.learning_rate)) > best.risk


def test_greedy_steps_in_one_direction_reach_the_information_bound():
    """1/s = 1 + 10 · 0.09/0.075 = 13; with h for h² it would be 1/41."""
    moment = 1.0
    for _ in range(10):
        moment = 2 * greedy_step(np.array([0.3]), np.array([moment]), np.array([0.3]), 4).risk / 0.3
    assert moment == pytest.approx(1 / 13, rel=1e-12)
    assert information_bound(0.3, 0.075, 10) == pytest.approx(1 / 13, rel=1e-12)


def test_the_bound_is_the_error_of_the_best_linear_estimate():
    """The observations h θ₀ + ξ of a start of variance s₀: the posterior variance from their joint covariance."""
    h, variance, steps, start = 0.7, 0.4, 6, 2.5
    covariance = start * h**2 * np.ones((steps, steps)) + variance * np.eye(steps)
    cross = start * h * np.ones(steps)
    expected = start - cross @ np.linalg.solve(covariance, cross)
    assert information_bound(h, variance, steps, start) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
def test_no_constant_rate_beats_the_bound(rate):
    steps = np.arange(1, 40)
    bound = information_bound(0.3, 0.075, steps)
    for method in (
        LinearMethod.sgd(rate, 0.3),
        LinearMethod.momentum(rate, 0.5, 0.3),
        LinearMethod.averaged(rate, 0.5, 0.3),
    ):
        assert (np.array([second_moment(method, 0.075, int(t)) for t in steps]) >= bound * (1 - 1e-12)).all()
