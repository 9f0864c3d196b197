"""The limiting dynamics of SGD with momentum, against golden values, Lyapunov equations, scipy's and simulations."""

import math

import numpy as np
import pytest
from scipy.linalg import expm, solve_continuous_lyapunov, solve_discrete_lyapunov

from optbench.theory import (
    LinearMethod,
    autocorrelation,
    continuous_moments,
    diffusion_exponent,
    displacements,
    initial_velocity,
    local_displacement,
    mean_position,
    modified_loss,
    oscillation_frequency,
    oscillation_threshold,
    stationary_covariance,
    stationary_moments,
)

RATE, MOMENTUM, CURVATURE, VARIANCE = 0.05, 0.9, 1.3, 2.0
CURVATURES = np.array([1.0, 0.3, 0.05])


def step_matrix(rate, momentum, curvature):
    """(x, v) after a step, from v' = β v + h x and x' = x - η v'."""
    return np.array([[1 - rate * curvature, -rate * momentum], [curvature, momentum]])


def covariance_of(moments):
    return np.array([[moments.position, moments.covariance], [moments.covariance, moments.velocity]])


# ---- stationary moments -------------------------------------------------------------------------------------------------


def test_golden_moments():
    found = stationary_moments(RATE, MOMENTUM, CURVATURE, VARIANCE)
    assert found.position == pytest.approx(0.3913088, abs=5e-8)
    assert found.velocity == pytest.approx(10.7095047, abs=5e-8)
    assert found.covariance == pytest.approx(-RATE / 2 * found.velocity, rel=1e-14)
    continuous = continuous_moments(RATE, MOMENTUM, CURVATURE, VARIANCE)
    assert continuous.position == pytest.approx(0.3846154, abs=5e-8)
    assert continuous.velocity == pytest.approx(10.5263158, abs=5e-8)
    assert continuous.covariance == 0


@pytest.mark.parametrize(("rate", "momentum", "curvature"), [(0.05, 0.9, 1.3), (0.7, 0.0, 2.0), (0.01, 0.97, 300.0)])
def test_the_moments_solve_the_lyapunov_equation(rate, momentum, curvature):
    """Catches a buffer of the other sign, and dampening. scipy's solver, and the bench's own."""
    matrix, noise = step_matrix(rate, momentum, curvature), np.array([-rate, 1.0])
    expected = solve_discrete_lyapunov(matrix, VARIANCE * np.outer(noise, noise))
    found = covariance_of(stationary_moments(rate, momentum, curvature, VARIANCE))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    own = stationary_covariance(LinearMethod.momentum(rate, momentum, curvature), VARIANCE)
    np.testing.assert_allclose(found, own, rtol=1e-9)


def test_the_continuous_moments_solve_theirs():
    """x' = -v and v' = ω² x - 2 γ v + noise, scaled so that the buffer has the variance of the model."""
    decay = 0.2
    total, scale = CURVATURE + decay, RATE * (1 + MOMENTUM)
    drift = np.array([[0.0, -1.0], [2 * total / scale, -2 * (1 - MOMENTUM) / scale]])
    # (η (1 + β)/2) v' = ... + ξ, where ξ has the variance c in each interval η of time.
    strength = RATE * VARIANCE * (2 / scale) ** 2
    expected = solve_continuous_lyapunov(drift, -np.diag([0.0, strength]))
    found = continuous_moments(RATE, MOMENTUM, CURVATURE, VARIANCE, decay)
    np.testing.assert_allclose(covariance_of(found), expected, rtol=1e-12, atol=1e-12)


def test_the_moments_of_a_simulation():
    random = np.random.default_rng(0)
    position, buffer = np.zeros(20_000), np.zeros(20_000)
    for _ in range(300):
        gradient = CURVATURE * position + math.sqrt(VARIANCE) * random.standard_normal(len(position))
        buffer = MOMENTUM * buffer + gradient
        position = position - RATE * buffer
    found = stationary_moments(RATE, MOMENTUM, CURVATURE, VARIANCE)
    assert np.mean(position**2) == pytest.approx(found.position, rel=0.03)
    assert np.mean(buffer**2) == pytest.approx(found.velocity, rel=0.03)
    assert np.mean(position * buffer) == pytest.approx(found.covariance, abs=0.06)


def test_weight_decay_is_in_the_dynamics_and_not_in_the_noise():
    decay = 0.4
    found = stationary_moments(RATE, MOMENTUM, CURVATURES, CURVATURES, decay)
    same = stationary_moments(RATE, MOMENTUM, CURVATURES + decay, CURVATURES)
    np.testing.assert_allclose(found.position, same.position, rtol=1e-14)
    continuous = continuous_moments(RATE, MOMENTUM, CURVATURES, CURVATURES, decay)
    shares = CURVATURES / (CURVATURES + decay)
    np.testing.assert_allclose(continuous.position, RATE / (2 * (1 - MOMENTUM)) * shares, rtol=1e-14)


def test_positions_are_isotropic_and_velocities_follow_the_curvature():
    found = continuous_moments(RATE, MOMENTUM, CURVATURES, CURVATURES / 16)
    np.testing.assert_allclose(found.position, RATE / (2 * 16 * (1 - MOMENTUM)), rtol=1e-14)
    np.testing.assert_allclose(found.velocity, CURVATURES / (16 * (1 - MOMENTUM**2)), rtol=1e-14)


def test_what_is_not_stable_is_refused():
    with pytest.raises(ValueError, match=r"not stable .* from 0\.05 to 1"):
        stationary_moments(4.0, MOMENTUM, CURVATURES, CURVATURES)
    with pytest.raises(ValueError, match="not stable"):
        stationary_moments(RATE, MOMENTUM, 0.0, 1.0)


# ---- the mean and the autocorrelation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [0.0, 1.0, -2.0])
def test_the_mean_follows_the_discrete_one_from_half_a_step_before(buffer):
    """With the velocity -v the mean would be off by 0.1 where v = 0."""
    steps, state, discrete = np.arange(200), np.array([1.0, buffer]), []
    for _ in steps:
        discrete.append(state[0])
        state = step_matrix(RATE, MOMENTUM, CURVATURE) @ state
    found = mean_position(steps, RATE, MOMENTUM, CURVATURE, 1.0, buffer)
    assert np.abs(found - discrete).max() < 0.0092
    if buffer == 0:
        assert np.abs(found - discrete).max() == pytest.approx(0.0085, abs=5e-5)


def test_a_buffer_of_zero_is_a_velocity():
    assert initial_velocity(RATE, MOMENTUM, CURVATURE, 1.0, 0.0) == pytest.approx(-0.65)
    assert initial_velocity(RATE, MOMENTUM, CURVATURE, 0.0, 1.0, 0.2) == pytest.approx(-0.95)
    assert initial_velocity(RATE, MOMENTUM, CURVATURE, 1.0, 0.0, 0.2) == pytest.approx(-0.75)


@pytest.mark.parametrize(
    "curvature", [1.3, 0.02, oscillation_threshold(0.9, continuous=True) / 0.05], ids=["under", "over", "critical"]
)
def test_the_mean_is_that_of_the_differential_equation(curvature):
    steps, scale = np.array([0, 1, 7, 60, 200]), RATE * (1 + MOMENTUM)
    matrix = np.array([[0.0, 1.0], [-2 * curvature / scale, -2 * (1 - MOMENTUM) / scale]])
    start = np.array([0.7, initial_velocity(RATE, MOMENTUM, curvature, 0.7, 0.4)])
    expected = [(expm(RATE * step * matrix) @ start)[0] for step in steps]
    found = mean_position(steps, RATE, MOMENTUM, curvature, 0.7, 0.4)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    still = [(expm(RATE * step * matrix) @ np.array([1.0, 0.0]))[0] for step in steps]
    np.testing.assert_allclose(autocorrelation(steps, RATE, MOMENTUM, curvature), still, rtol=1e-6, atol=1e-12)


def test_the_autocorrelation_follows_the_discrete_one():
    steps = np.arange(300)
    matrix, covariance = (
        step_matrix(RATE, MOMENTUM, CURVATURE),
        stationary_covariance(LinearMethod.momentum(RATE, MOMENTUM, CURVATURE), 1.0),
    )
    discrete = np.array([(np.linalg.matrix_power(matrix, step) @ covariance)[0, 0] for step in steps])
    found = autocorrelation(steps, RATE, MOMENTUM, CURVATURE)
    assert np.abs(found - discrete / covariance[0, 0]).max() == pytest.approx(0.0082, abs=5e-5)
    shifted = autocorrelation(steps, RATE, MOMENTUM, CURVATURE - 0.3, weight_decay=0.3)
    np.testing.assert_allclose(shifted, found, rtol=1e-12)


# ---- displacement -------------------------------------------------------------------------------------------------------


def test_golden_displacements():
    steps = np.array([0, 1, 10, 100, 1000, 100_000])
    found = displacements(steps, RATE, MOMENTUM, CURVATURES, CURVATURES).sum(axis=1)
    expected = [0, 0.0179547, 0.9398965, 1.4900249, 1.5089773, 1.5089773]
    assert found == pytest.approx(expected, abs=5e-8)
    moments = stationary_moments(RATE, MOMENTUM, CURVATURES, CURVATURES)
    assert found[1] == pytest.approx(RATE**2 * np.sum(moments.velocity), rel=1e-12)
    assert found[-1] == pytest.approx(2 * np.sum(moments.position), rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_displacements_are_those_of_the_covariances(decay):
    steps = np.array([3, 0, 40])
    found = displacements(steps, RATE, MOMENTUM, CURVATURES, 2.0, decay)
    for direction, curvature in enumerate(CURVATURES):
        matrix = step_matrix(RATE, MOMENTUM, curvature + decay)
        noise = np.array([-RATE, 1.0])
        stationary = solve_discrete_lyapunov(matrix, 2.0 * np.outer(noise, noise))
        expected = [2 * (stationary - np.linalg.matrix_power(matrix, step) @ stationary)[0, 0] for step in steps]
        np.testing.assert_allclose(found[:, direction], expected, rtol=1e-8, atol=1e-13)


def test_displacements_after_less_than_no_step_are_refused():
    with pytest.raises(ValueError, match="steps=-1: must be 0 or more"):
        displacements(np.array([-1, 3]), RATE, MOMENTUM, CURVATURES, 1.0)


def test_the_local_displacement_is_the_limit_of_small_rates():
    rate, curvatures = 1e-6, np.array([3.0, 0.5])
    found = local_displacement(rate, MOMENTUM, 1.2, 16)
    assert found == pytest.approx(rate**2 * 1.2 / (16 * 0.19), rel=1e-12)
    exact = displacements(np.array([1]), rate, MOMENTUM, curvatures, np.array([0.8, 0.4]) / 16).sum()
    assert found == pytest.approx(exact, rel=1e-5)


# ---- anomalous diffusion ------------------------------------------------------------------------------------------------


def curve(power, directions, steps):
    curvatures = np.arange(1.0, directions + 1) ** -power
    return displacements(steps, RATE, MOMENTUM, curvatures, curvatures).sum(axis=1)


STEPS = np.unique(np.round(np.logspace(0, 5, 101)).astype(int))


@pytest.mark.parametrize(("power", "low", "high"), [(2.0, 0.499, 0.508), (3.0, 0.345, 0.353)], ids=["p=2", "p=3"])
@pytest.mark.parametrize("window", [(100, 1e4), (100, 1e5), (300, 3e4)], ids=str)
def test_a_power_law_spectrum_gives_its_exponent(power, low, high, window):
    found = diffusion_exponent(STEPS, curve(power, 2000, STEPS), window)
    assert low - 5e-4 < found < high + 5e-4
    assert found == pytest.approx(1 / power, abs=0.02)


def test_a_flat_spectrum_has_no_exponent_of_its_own():
    """p = 1.5, of which 2/3 would be the limit: the window and the smallest curvature decide."""
    displacement = curve(1.5, 2000, STEPS)
    found = [diffusion_exponent(STEPS, displacement, window) for window in ((100, 1e4), (300, 3e4), (1000, 1e4))]
    assert found == pytest.approx([0.620, 0.584, 0.587], abs=5e-4)


def test_the_displacement_of_a_power_law_in_closed_form():
    """Σ (1 - exp(-τ i^-p)) → Γ(1 - 1/p) τ^(1/p) - ½ where momentum has died away, τ = η k/(1 - β)."""
    steps = np.array([2000, 20_000])
    found = curve(2.0, 20_000, steps) / (RATE / (1 - MOMENTUM))
    expected = math.gamma(0.5) * np.sqrt(RATE * steps / (1 - MOMENTUM)) - 0.5
    np.testing.assert_allclose(found, expected, rtol=4e-3)


def test_the_exponent_is_a_slope_in_its_window():
    steps = np.arange(0, 1001)
    squared = np.where(steps < 100, 3.0 * steps, 3e-2 * steps.astype(float) ** 2)
    assert diffusion_exponent(steps, squared, (1, 99)) == pytest.approx(1, abs=1e-12)
    assert diffusion_exponent(steps, squared, (100, 1000)) == pytest.approx(2, abs=1e-12)
    x, y = np.log(steps[1:]), np.log(squared[1:])
    assert diffusion_exponent(steps, squared, (1, 1000)) == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-12)
    # Points at equal distances in log k have a third of them above 100, not nine tenths.
    even, spread = diffusion_exponent(steps, squared, (1, 1000)), diffusion_exponent(steps, squared, (1, 1000), 31)
    assert spread < even - 0.2
    taken = np.unique([np.abs(x - each).argmin() for each in np.linspace(0, math.log(1000), 31)])
    assert spread == pytest.approx(np.polyfit(x[taken], y[taken], 1)[0], rel=1e-12)


def test_an_exponent_needs_two_steps():
    assert math.isnan(diffusion_exponent(np.arange(5), np.zeros(5), (0, 9)))
    assert math.isnan(diffusion_exponent(np.arange(5), np.arange(5.0), (2, 2), 10))


# ---- oscillation --------------------------------------------------------------------------------------------------------


def test_golden_frequencies():
    assert oscillation_frequency(RATE, MOMENTUM, CURVATURE) == pytest.approx(0.0409197, abs=5e-8)
    assert oscillation_frequency(RATE, MOMENTUM, CURVATURE, continuous=True) == pytest.approx(0.0407794, abs=5e-8)
    assert oscillation_threshold(MOMENTUM) == pytest.approx(2.63340e-3, abs=5e-9)
    assert oscillation_threshold(MOMENTUM, continuous=True) == pytest.approx(2.63158e-3, abs=5e-9)


@pytest.mark.parametrize("curvature", [1.3, 30.0, 75.0])
def test_the_frequency_is_the_angle_of_the_modes(curvature):
    modes = np.linalg.eigvals(step_matrix(RATE, MOMENTUM, curvature))
    found = oscillation_frequency(RATE, MOMENTUM, curvature - 0.2, 0.2)
    assert found == pytest.approx(np.abs(np.angle(modes)).max() / (2 * np.pi), rel=1e-12)


@pytest.mark.parametrize("continuous", [False, True])
def test_oscillation_begins_at_its_threshold(continuous):
    threshold = oscillation_threshold(MOMENTUM, continuous) / RATE
    found = oscillation_frequency(RATE, MOMENTUM, np.array([0.999, 1.001]) * threshold, continuous=continuous)
    assert found[0] == 0
    assert found[1] > 0


def test_the_frequency_in_a_spectrum():
    """Within one bin of an FFT; ω in place of Δ would be off by more."""
    count, rate = 1024, 0.002  # damped slowly, and Δ well below ω
    frequency = oscillation_frequency(rate, 0.99, 0.02)
    state, found = np.array([1.0, 0.0]), []
    for _ in range(count):
        found.append(state[0])
        state = step_matrix(rate, 0.99, 0.02) @ state
    assert frequency > 0
    # The decay e^(-γ t) is taken out, so that the line has the width of a bin.
    undamped = np.array(found) * 0.99 ** (-np.arange(count) / 2)
    peak = np.abs(np.fft.rfft(undamped * np.hanning(count), 16 * count)).argmax() / (16 * count)
    assert peak == pytest.approx(frequency, abs=1 / count)
    omega = math.sqrt(2 * 0.02 / (rate * 1.99)) * rate / (2 * math.pi)
    assert peak != pytest.approx(omega, abs=0.1 / count)


# ---- the modified loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_modified_loss_gives_the_stationary_density(decay):
    """exp(-Ψ/κ) is normal with the continuous variances, so that E Ψ = κ for each direction."""
    noise, batch = 0.7, 16.0
    kappa = noise**2 / (batch * (1 - MOMENTUM**2))
    moments = continuous_moments(RATE, MOMENTUM, CURVATURES, noise**2 * CURVATURES / batch, decay)
    position, velocity = modified_loss(
        RATE, MOMENTUM, CURVATURES, np.sqrt(moments.position), np.sqrt(moments.velocity), decay
    )
    np.testing.assert_allclose(position, kappa / 2, rtol=1e-13)
    np.testing.assert_allclose(velocity, kappa / 2, rtol=1e-13)


def test_curvature_weights_the_velocity_alone():
    position, velocity = modified_loss(RATE, MOMENTUM, CURVATURES, 2.0, 3.0)
    np.testing.assert_allclose(position, 4 / (RATE * 1.9), rtol=1e-14)
    np.testing.assert_allclose(velocity, 9 / (2 * CURVATURES), rtol=1e-14)
