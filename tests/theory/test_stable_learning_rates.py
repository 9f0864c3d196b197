"""Largest learning rates and Polyak's parameters, against iterations that grow or shrink."""

import numpy as np
import pytest

from optbench.theory import (
    adaptive_crossover,
    additive_outlier,
    heavy_ball_modulus,
    largest_adaptive_learning_rate,
    largest_learning_rate,
    largest_learning_rate_at_batch,
    least_damping,
    mean_square_threshold,
    noise_radius,
    polyak,
)


def distances(curvatures, learning_rate, momentum, steps):
    """‖θ‖ after each step of heavy ball from ones."""
    position, buffer = np.ones(len(curvatures)), np.zeros(len(curvatures))
    found = []
    for _ in range(steps):
        buffer = momentum * buffer + curvatures * position
        position = position - learning_rate * buffer
        found.append(np.linalg.norm(position))
    return np.array(found)


def test_polyak_contracts_by_the_square_root_of_its_momentum():
    best = polyak(100.0, 1.0)
    assert (best.learning_rate, best.momentum, best.contraction) == pytest.approx((4 / 121, 81 / 121, 9 / 11))
    path = distances(np.arange(1.0, 101.0), best.learning_rate, best.momentum, 400)
    slope = np.polyfit(np.arange(200, 400), np.log(path[200:]), 1)[0]
    assert np.exp(slope) == pytest.approx(best.contraction, rel=0.01)


def test_no_other_parameters_contract_faster_than_polyaks():
    best = polyak(100.0, 1.0)
    for rate in best.learning_rate * np.array([0.8, 0.95, 1.05, 1.2]):
        for momentum in best.momentum + np.array([-0.1, 0.0, 0.1]):
            assert max(heavy_ball_modulus(rate, momentum, h) for h in (1.0, 100.0)) > best.contraction


@pytest.mark.parametrize(("largest", "smallest"), [(1.0, 0.0), (1.0, 2.0), (float("inf"), 1.0), (float("nan"), 1.0)])
def test_polyak_refuses_what_is_no_range(largest, smallest):
    with pytest.raises(ValueError, match="positive, finite and in ascending order"):
        polyak(largest, smallest)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_heavy_ball_leaves_stability_at_its_largest_rate(momentum):
    threshold = largest_learning_rate(3.0, momentum)
    below, above = (distances(np.array([3.0]), factor * threshold, momentum, 2000) for factor in (0.99, 1.01))
    assert below[-1] < 1e-3 < 1e3 < above[-1]
    assert heavy_ball_modulus(threshold, momentum, 3.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rate", "momentum", "curvature"), [(0.1, 0.9, 2.0), (0.1, 0.3, 2.0), (1.5, 0.4, 1.8), (0.2, 0.0, 3.0)]
)
def test_the_modulus_is_that_of_the_iteration_matrix(rate, momentum, curvature):
    matrix = np.array([[1 - rate * curvature, -rate * momentum], [curvature, momentum]])
    expected = np.abs(np.linalg.eigvals(matrix)).max()
    assert heavy_ball_modulus(rate, momentum, curvature) == pytest.approx(expected)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_the_mean_square_threshold_is_exact(batch):
    """E θ² with the curvature h ± √(v/b), each sign with probability ½: the expectation is taken exactly."""
    curvature, variance = 2.0, 12.0
    threshold = mean_square_threshold(curvature, variance, batch)
    signs = np.array([-1.0, 1.0]) * np.sqrt(variance / batch)

    def growth(rate):
        return np.mean((1 - rate * (curvature + signs)) ** 2)

    assert growth(0.97 * threshold) < 1 < growth(1.03 * threshold)
    assert growth(threshold) == pytest.approx(1.0)


@pytest.mark.parametrize(("factor", "grows"), [(0.97, False), (1.03, True)])
def test_the_mean_square_threshold_in_a_simulation(factor, grows):
    random = np.random.default_rng(3)
    curvature, variance, batch = 1.0, 4.0, 8
    rate = factor * mean_square_threshold(curvature, variance, batch)
    squares = np.ones(200_000)
    for _ in range(4):
        noisy = curvature + np.sqrt(variance / batch) * random.standard_normal(len(squares))
        squares *= (1 - rate * noisy) ** 2
    # 1 + (4 h²/(h² + v/b)) c (c - 1) a step, for c = 0.97 and 1.03: 0.92 and 1.08.
    expected = (1 + 4 / 1.5 * factor * (factor - 1)) ** 4
    assert squares.mean() == pytest.approx(expected, rel=0.05)
    assert (squares.mean() > 1) == grows


def test_the_largest_rate_is_proportional_to_a_small_batch_and_flat_for_a_large_one():
    def rate(batch):
        return largest_learning_rate_at_batch(4.0, batch, critical_batch=50.0)

    assert rate(50.0) == 0.25
    assert rate(1e9) == pytest.approx(0.5)
    assert rate(np.inf) == 0.5
    assert rate(2e-3) / rate(1e-3) == pytest.approx(2.0, rel=1e-4)
    assert largest_learning_rate_at_batch(4.0, 50.0, 50.0, momentum=0.9) == pytest.approx(1.9 * 0.25)


def test_in_isotropic_symmetric_noise_the_rate_never_grows_faster_than_the_square_root():
    noise, top = 100.0, 2.0  # the outlier dissolves below 25
    batches = np.geomspace(1, 1e5, 200)
    rates = largest_learning_rate(additive_outlier(top, noise_radius(noise, batches)))
    slopes = np.diff(np.log(rates)) / np.diff(np.log(batches))
    assert slopes.max() == pytest.approx(0.5, abs=1e-9)
    assert slopes[batches[1:] < 25] == pytest.approx(0.5)
    assert (slopes[batches[:-1] > 25] < 0.5).all()


def test_a_damped_method_sees_the_noise_through_its_damping():
    """The eigenvalues of D^(-1/2) (H + E) D^(-1/2) with D = H + d: the bulk ends at 2s/d, the outlier is flattened."""
    random = np.random.default_rng(4)
    size, top, damping, radius = 400, 30.0, 2.0, 0.6
    entries = random.standard_normal((size, size)) * radius / np.sqrt(size)
    matrix = (entries + entries.T) / np.sqrt(2)
    matrix[0, 0] += top
    scale = np.full(size, damping**-0.5)
    scale[0] = (top + damping) ** -0.5
    eigenvalues = np.linalg.eigvalsh(matrix * np.outer(scale, scale))
    assert eigenvalues[-2] == pytest.approx(2 * radius / damping, rel=0.05)
    assert eigenvalues[-1] == pytest.approx(top / (top + damping), rel=0.05)
    noise = radius**2  # of one batch: P σ² at b̃ = 1
    # Here the flattened outlier limits the rate; at a quarter of the batch the bulk does, at ±2s/d.
    assert largest_adaptive_learning_rate(top, noise, 1.0, damping) == pytest.approx(2 * (top + damping) / top)
    assert largest_adaptive_learning_rate(top, noise, 0.0625, damping) == pytest.approx(damping / (4 * radius))


def test_the_rate_of_a_damped_method_turns_at_the_crossover():
    top, noise, damping = 3.0, 50.0, 0.5
    crossover = adaptive_crossover(top, noise, damping)
    assert crossover == pytest.approx(50 * (7 / 1.5) ** 2)
    batches = crossover * np.array([1 / 16, 1 / 4, 1, 4])
    rates = largest_adaptive_learning_rate(top, noise, batches, damping)
    np.testing.assert_allclose(rates, np.array([1 / 4, 1 / 2, 1, 1]) * 2 * 3.5 / 3)


def test_the_least_damping():
    assert least_damping(0.5, top=4.0, noise=32.0, batch=2.0) == 1.0
    np.testing.assert_allclose(least_damping(1.0, 4.0, 32.0, np.array([1.0, 2.0, 4.0])), [4.0, 2.0, 1.0])
    # At the rate 2 it is where η λ₁' = 2 (λ₁ + d).
    top, noise, batch = 4.0, 32.0, 5.0
    damping = least_damping(2.0, top, noise, batch)
    assert 2 * additive_outlier(top, noise_radius(noise, batch)) == pytest.approx(2 * (top + damping))
    with pytest.raises(ValueError, match=r"learning_rate=2\.5"):
        least_damping(2.5, top, noise, batch)
