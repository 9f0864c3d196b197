"""The steady state of SGD and the terms of curvature, beside closed forms, SciPy's solvers and simulations."""

import math

import numpy as np
import pytest
from scipy import integrate, linalg

from optbench.theory import (
    balancing_temperature,
    curvature_terms,
    effective_potential,
    least_squares_shift,
    mass_below,
    sgd_covariance,
    steady_density,
    well_weights,
)

POSITIONS = np.linspace(-4, 4, 40_001)


def gradient_of_double_well(x):
    """L' of L = (x² - 1)²/4, with minima at -1 and 1 of curvature 2."""
    return x**3 - x


def noise_of_double_well(x):
    return 1 + 0.6 * np.tanh(2 * x)


def left_mass(temperature, noise=noise_of_double_well):
    density = steady_density(POSITIONS, gradient_of_double_well(POSITIONS), noise(POSITIONS), temperature)
    return mass_below(POSITIONS, density, 0.0)


def test_the_golden_terms():
    hessian = np.array([[2.0, 0.5], [0.5, 1.0]])
    covariance = np.array([[0.5, 0.1], [0.1, 0.2]])
    # Two deviations with 1/2 Σ e eᵀ = S.
    deviations = math.sqrt(2) * np.linalg.cholesky(covariance).T
    terms = curvature_terms(lambda v: hessian @ v, np.array([1.0, -2.0]), np.array([0.3, 0.1]), deviations)
    found = (terms.shift, terms.bias, terms.cross, terms.covariance, terms.sum)
    assert found == pytest.approx((2.0, 0.11, -0.15, 0.65, 2.61), rel=1e-12)


def test_the_sum_is_the_mean_rise_of_a_quadratic_loss_exactly():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(5, 5))
    hessian, minimum, test_minimum = root @ root.T, generator.normal(size=5), generator.normal(size=5)
    iterates = minimum + generator.normal(size=(7, 5)) + 0.4
    mean = iterates.mean(axis=0)
    terms = curvature_terms(lambda v: hessian @ v, test_minimum - minimum, mean - minimum, iterates - mean)
    rises = [0.5 * (theta - test_minimum) @ hessian @ (theta - test_minimum) for theta in iterates]
    assert terms.sum == pytest.approx(np.mean(rises), rel=1e-12)


def test_the_terms_do_not_depend_on_the_parametrization():
    """θ → Dθ carries H to D⁻ᵀ H D⁻¹."""
    generator = np.random.default_rng(1)
    root = generator.normal(size=(4, 4))
    hessian, change = root @ root.T, generator.normal(size=(4, 4))
    shift, bias, deviations = generator.normal(size=4), generator.normal(size=4), generator.normal(size=(3, 4))
    inverse = np.linalg.inv(change)
    changed = inverse.T @ hessian @ inverse
    before = curvature_terms(lambda v: hessian @ v, shift, bias, deviations)
    after = curvature_terms(lambda v: changed @ v, change @ shift, change @ bias, deviations @ change.T)
    for name in ("shift", "bias", "cross", "covariance"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-10), name


def test_the_covariance_of_sgd_solves_its_equation():
    generator = np.random.default_rng(2)
    one, other = generator.normal(size=(2, 6, 6))
    hessian, noise = one @ one.T / 6 + 0.1 * np.eye(6), other @ other.T
    rate, batch = 0.3, 4
    map_ = np.eye(6) - rate * hessian
    expected = linalg.solve_discrete_lyapunov(map_, rate**2 / batch * noise)
    assert sgd_covariance(hessian, noise, rate, batch) == pytest.approx(expected, rel=1e-9)
    # In continuous time the term of second order is missing.
    small = 1e-5
    continuous = linalg.solve_continuous_lyapunov(hessian, small / batch * noise)
    assert sgd_covariance(hessian, noise, small, batch) == pytest.approx(continuous, rel=1e-4)


def test_the_golden_covariance_of_one_direction():
    """S at η = 0.1, h = 1 and d/b = 1/8; .00625 in continuous time."""
    found = sgd_covariance(np.eye(1), np.eye(1), 0.1, 8)[0, 0]
    assert found == pytest.approx(0.0125 / 1.9, rel=1e-12)
    assert found == pytest.approx(0.006579, abs=5e-7)


@pytest.mark.parametrize(("rate", "hessian"), [(2.1, np.eye(2)), (0.0, np.eye(2)), (0.1, np.diag([1.0, -0.1]))])
def test_without_a_steady_state_there_is_no_covariance(rate, hessian):
    with pytest.raises(ValueError, match="learning_rate="):
        sgd_covariance(hessian, np.eye(2), rate, 1)


def test_the_golden_shift_of_least_squares():
    assert least_squares_shift(20, 400, 300, 0.7) == pytest.approx(0.029262, abs=5e-7)
    large = least_squares_shift(20, 400_000, 300_000, 0.7)
    assert large == pytest.approx(0.5 * 0.49 * 20 * (1 / 400_000 + 1 / 300_000), rel=1e-4)
    with pytest.raises(ValueError, match="must be above 21 and at least 20"):
        least_squares_shift(20, 21, 300, 0.7)


def test_the_shift_of_least_squares_is_that_of_drawn_data():
    """Within four standard errors of 400 draws by NumPy's least squares."""
    generator, found = np.random.default_rng(3), []
    for _ in range(400):
        minima = []
        for count in (40, 30):
            rows, targets = generator.normal(size=(count, 5)), 0.7 * generator.normal(size=count)
            minima.append(np.linalg.lstsq(rows, targets, rcond=None)[0])
        shift = minima[1] - minima[0]
        found.append(0.5 * shift @ (rows.T @ rows / 30) @ shift)
    error = np.std(found, ddof=1) / 20
    assert abs(np.mean(found) - least_squares_shift(5, 40, 30, 0.7)) < 4 * error
    # The limit of many examples is outside of this.
    assert np.mean(found) - 0.245 * 5 * (1 / 40 + 1 / 30) > 2 * error


def test_the_double_well_separates_three_readings():
    """Ito .8170174, by adaptive quadrature; without the factor 1/d .5874; with a constant d one half."""
    assert left_mass(0.35) == pytest.approx(0.8170174, abs=1e-7)
    assert left_mass(0.35, lambda x: np.full_like(x, 0.4)) == pytest.approx(0.5, abs=1e-9)
    weighted = steady_density(
        POSITIONS, gradient_of_double_well(POSITIONS), noise_of_double_well(POSITIONS), 0.35
    ) * noise_of_double_well(POSITIONS)
    assert mass_below(POSITIONS, weighted, 0.0) / mass_below(POSITIONS, weighted, 4.0) == pytest.approx(
        0.5873877, abs=1e-6
    )
    # T is η/(2b), and not η/b.
    assert left_mass(0.70) == pytest.approx(0.7631526, abs=1e-6)
    assert left_mass(0.08) == pytest.approx(0.9844926, abs=1e-6)


def test_the_effective_potential_is_deeper_where_there_is_less_noise():
    x = np.linspace(-1, 1, 20_001)
    found = effective_potential(x, gradient_of_double_well(x), noise_of_double_well(x))
    expected, _ = integrate.quad(lambda x: gradient_of_double_well(x) / noise_of_double_well(x), -1, 1)
    assert found[-1] == pytest.approx(expected, abs=1e-8)
    assert found[-1] == pytest.approx(0.2879257, abs=1e-7)


@pytest.mark.parametrize(("temperature", "mass"), [(0.35, 0.815), (0.08, 0.98606)])
def test_the_masses_of_wells_by_laplace(temperature, mass):
    potentials, noises = np.array([0.0, 0.2879257]), noise_of_double_well(np.array([-1.0, 1.0]))
    found = well_weights(potentials, noises, np.array([2.0, 2.0]), temperature)
    assert found[0] == pytest.approx(mass, abs=5e-4 if temperature > 0.1 else 5e-6)
    assert found.sum() == pytest.approx(1)


def test_two_wells_balance_where_depth_and_width_weigh_alike():
    golden = balancing_temperature((0.0, 0.1), (9.0, 1.0))
    assert golden == pytest.approx(0.0910239, abs=5e-8)
    for noises in ((1.0, 1.0), (0.5, 2.0)):
        temperature = balancing_temperature((0.0, 0.1), (9.0, 1.0), noises)
        weights = well_weights(np.array([0.0, 0.1]), np.array(noises), np.array([9.0, 1.0]), temperature)
        assert weights == pytest.approx([0.5, 0.5])
    with pytest.raises(ValueError, match="the deeper well must have"):
        balancing_temperature((0.0, 0.1), (1.0, 9.0))


def test_sgd_itself_has_the_mass_of_the_ito_reading():
    """20,000 copies of SGD with steps of 0.02 and normal noise of the variance d/b, T = η/(2b), from both wells."""
    generator, rate, temperature = np.random.default_rng(4), 0.02, 0.35
    batch = rate / (2 * temperature)
    x = np.where(generator.random(20_000) < 0.8, -1.0, 1.0)
    for _ in range(600):
        noise = generator.normal(size=len(x)) * np.sqrt(noise_of_double_well(x) / batch)
        x = x - rate * (gradient_of_double_well(x) + noise)
    assert np.mean(x < 0) == pytest.approx(0.817, abs=0.012)
