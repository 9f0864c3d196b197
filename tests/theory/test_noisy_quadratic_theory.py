"""The recursions of the noisy quadratic model, against golden values, closed forms and a simulation."""

import numpy as np
import pytest

from optbench.theory import LinearMethod, risk, second_moment, stationary_covariance, stationary_second_moment

CURVATURES = (1.0, 0.3, 0.05)

METHODS = {
    "sgd": lambda h: LinearMethod.sgd(0.5, h),
    "momentum": lambda h: LinearMethod.momentum(0.3, 0.9, h),
    "nesterov": lambda h: LinearMethod.nesterov(0.3, 0.8, h),
    "averaged": lambda h: LinearMethod.averaged(0.5, 0.9, h),
    "preconditioned": lambda h: LinearMethod.sgd(0.4, h, power=0.5),
}
# E θ² after 40 steps from 1, with σ² = h/4.
GOLDEN = {
    "sgd": (0.083333, 0.067570, 0.186878),
    "momentum": (0.406778, 0.391675, 0.372742),
    "nesterov": (0.146518, 0.162787, 0.181964),
    "averaged": (0.011836, 0.028045, 0.256171),
    "preconditioned": (0.062500, 0.102517, 0.234500),
}


@pytest.mark.parametrize("name", METHODS)
def test_golden_values(name):
    found = [second_moment(METHODS[name](h), h / 4, 40) for h in CURVATURES]
    assert found == pytest.approx(GOLDEN[name], abs=1e-6)


def test_sgd_in_closed_form():
    rate, h, variance = 0.5, 0.3, 0.2
    limit = rate * variance / (h * (2 - rate * h))
    method = LinearMethod.sgd(rate, h)
    assert stationary_second_moment(method, variance) == pytest.approx(limit, rel=1e-12)
    expected = limit + (1 - rate * h) ** 14 * (3.0 - limit)
    assert second_moment(method, variance, 7, start=3.0) == pytest.approx(expected, rel=1e-12)


def test_momentum_in_the_long_run():
    rate, mu, h, variance = 0.3, 0.9, 0.4, 0.2
    expected = rate * variance * (1 + mu) / (h * (1 - mu) * (2 * (1 + mu) - rate * h))
    assert stationary_second_moment(LinearMethod.momentum(rate, mu, h), variance) == pytest.approx(expected, rel=1e-10)


def test_an_average_in_the_long_run():
    rate, gamma, h, variance = 0.5, 0.9, 0.4, 0.2
    a = 1 - rate * h
    floor = rate * variance / (h * (2 - rate * h))
    expected = floor * (1 - gamma) / (1 + gamma) * (1 + gamma * a) / (1 - gamma * a)
    found = stationary_second_moment(LinearMethod.averaged(rate, gamma, h), variance)
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (LinearMethod.momentum(0.05, 0.9, 1.3), 0.3913088),
        (LinearMethod.nesterov(0.05, 0.9, 1.3), 0.2768385),
        (LinearMethod.averaged(0.05, 0.9, 1.3), 0.0243089),
    ],
    ids=["momentum", "nesterov", "averaged"],
)
def test_golden_values_in_the_long_run(method, expected):
    """Catches heavy ball in place of Nesterov, and θ in place of the average."""
    assert stationary_second_moment(method, 2.0) == pytest.approx(expected, abs=5e-8)


def test_nesterov_in_the_long_run_is_an_arma_process():
    """θ' = φ₁ θ + φ₂ θ₋₁ - α (1 + μ) ξ + α μ ξ₋₁ with φ₁ = (1 + μ) q and φ₂ = -μ q: the sum of its squared responses."""
    rate, mu, h = 0.05, 0.9, 1.3
    q = 1 - rate * h
    responses = [0.0, -rate * (1 + mu)]
    responses.append((1 + mu) * q * responses[-1] + rate * mu)
    for _ in range(2000):
        responses.append((1 + mu) * q * responses[-1] - mu * q * responses[-2])
    found = stationary_second_moment(LinearMethod.nesterov(rate, mu, h), 2.0)
    assert found == pytest.approx(2.0 * np.sum(np.square(responses)), rel=1e-12)


def test_the_covariance_of_position_and_buffer():
    """cov(θ, v) = -(α/2) Var v, exactly; catches a buffer with the other sign, and the v of the step before."""
    covariance = stationary_covariance(LinearMethod.momentum(0.05, 0.9, 1.3), 2.0)
    assert covariance[0, 1] == pytest.approx(-0.2677376, abs=5e-8)
    assert covariance[0, 1] == pytest.approx(-0.05 / 2 * covariance[1, 1], rel=1e-12)
    assert covariance[1, 0] == pytest.approx(covariance[0, 1], rel=1e-12)


def test_nesterov_in_a_simulation():
    """The update written out, for 100,000 replicas at once."""
    random = np.random.default_rng(0)
    rate, mu, h, variance = 0.3, 0.8, 0.3, 0.5
    position, buffer = np.ones(100_000), np.zeros(100_000)
    for _ in range(15):
        gradient = h * position + np.sqrt(variance) * random.standard_normal(len(position))
        buffer = mu * buffer + gradient
        position = position - rate * (gradient + mu * buffer)
    expected = second_moment(LinearMethod.nesterov(rate, mu, h), variance, 15)
    assert np.mean(position**2) == pytest.approx(expected, rel=0.02)


def test_what_is_not_stable_has_no_long_run():
    with pytest.raises(ValueError, match=r"not stable here: .* 1\.1"):
        stationary_second_moment(LinearMethod.sgd(2.1, 1.0), 0.1)


def test_the_risk_is_the_expected_loss():
    assert risk([2.0, 4.0], [1.0, 0.5]) == 2.0
