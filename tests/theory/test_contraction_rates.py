"""Rates and stability of gradient descent and Nesterov's method, against the matrices of their iterations."""

import numpy as np
import pytest

from optbench.theory import (
    LinearMethod,
    gradient_descent,
    gradient_descent_modulus,
    largest_nesterov_learning_rate,
    nesterov,
    nesterov_modulus,
    nesterov_on_quadratics,
    polyak,
)


def radius(matrix):
    return np.abs(np.linalg.eigvals(matrix)).max()


def extrapolated(rate, momentum, curvature):
    """The original form, for (θ, θ before): y = θ + β (θ - θ before), θ ← y - α h y."""
    kept = 1 - rate * curvature
    return np.array([[(1 + momentum) * kept, -momentum * kept], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("parameters", "contraction"),
    [(gradient_descent, 0.980198), (polyak, 0.818182), (nesterov, 0.9), (nesterov_on_quadratics, 0.884722)],
)
def test_the_contraction_at_a_condition_number_of_100(parameters, contraction):
    """Catches κ for √κ, and the rate of one of Nesterov's parameters with the momentum of the other."""
    assert parameters(100.0, 1.0).contraction == pytest.approx(contraction, abs=5e-7)
    # It depends on the condition number alone, and the rate on the scale.
    assert parameters(3.0, 0.03).contraction == pytest.approx(contraction, abs=5e-7)
    assert parameters(3.0, 0.03).learning_rate == pytest.approx(parameters(100.0, 1.0).learning_rate * 100 / 3)


@pytest.mark.parametrize("parameters", [nesterov, nesterov_on_quadratics])
def test_the_contraction_of_nesterov_is_that_of_the_slowest_direction(parameters):
    best = parameters(100.0, 1.0)
    slowest = max(radius(extrapolated(best.learning_rate, best.momentum, h)) for h in np.linspace(1, 100, 991))
    # A double root: an error of 1e-16 in the matrix is one of 1e-8 in its eigenvalues.
    assert slowest == pytest.approx(best.contraction, abs=1e-6)


def test_gradient_descent_contracts_both_ends_alike():
    best = gradient_descent(100.0, 1.0)
    assert best.momentum == 0
    for h in (1.0, 100.0):
        assert gradient_descent_modulus(best.learning_rate, h) == pytest.approx(best.contraction)
    assert gradient_descent_modulus(2 / 3.0, 3.0) == pytest.approx(1.0)


def test_no_other_parameters_of_nesterov_contract_faster_on_quadratics():
    """Catches 4/(3L + m) with another momentum, which contracts more slowly though it is stable."""
    best = nesterov_on_quadratics(100.0, 1.0)
    for factor in (0.9, 0.98, 1.02, 1.1):
        for momentum in best.momentum + np.array([-0.05, 0.0, 0.05]):
            rate = factor * best.learning_rate
            assert max(radius(extrapolated(rate, momentum, h)) for h in (1.0, 100.0)) > best.contraction


@pytest.mark.parametrize(
    ("rate", "momentum", "curvature"), [(0.1, 0.9, 2.0), (0.6, 0.4, 2.0), (0.1, 0.05, 2.0), (0.5, 0.9, 2.0)]
)
def test_the_modulus_of_nesterov_is_that_of_both_forms(rate, momentum, curvature):
    found = nesterov_modulus(rate, momentum, curvature)
    assert found == pytest.approx(radius(extrapolated(rate, momentum, curvature)), abs=1e-7)
    assert found == pytest.approx(radius(LinearMethod.nesterov(rate, momentum, curvature).matrix), abs=1e-7)


@pytest.mark.parametrize(("parameters", "limit"), [(nesterov, 40 / 29), (nesterov_on_quadratics, 1.386615)])
def test_nesterov_leaves_stability_at_its_largest_rate(parameters, limit):
    """Catches the limit 2 (1 + β) of heavy ball, and 2 of gradient descent."""
    momentum = parameters(100.0, 1.0).momentum
    largest = largest_nesterov_learning_rate(100.0, momentum)
    assert 100 * largest == pytest.approx(limit, abs=5e-7)
    below, at, above = (radius(extrapolated(factor * largest, momentum, 100.0)) for factor in (0.99, 1.0, 1.01))
    assert below < 1 < above
    assert at == pytest.approx(1.0)


@pytest.mark.parametrize("parameters", [gradient_descent, nesterov, nesterov_on_quadratics])
def test_what_is_no_range_is_refused(parameters):
    with pytest.raises(ValueError, match="positive, finite and in ascending order"):
        parameters(1.0, 2.0)
