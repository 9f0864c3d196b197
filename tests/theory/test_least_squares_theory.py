"""Least squares with noise that grows with the error, against golden values, linear algebra and a simulation."""

import numpy as np
import pytest

from optbench.theory import (
    LinearMethod,
    largest_learning_rate,
    largest_least_squares_learning_rate,
    least_squares_moments,
    stationary_least_squares_moments,
    stationary_second_moment,
)

CURVATURES = np.array([1.0, 0.5, 0.2, 0.1])


def test_sgd_after_30_steps():
    """Catches 1/B in place of 1 + 1/B, and noise of the residual alone."""
    found = least_squares_moments(CURVATURES, 0.4, 2, 0.3, 30)
    assert found == pytest.approx([0.019527, 0.016427, 0.024745, 0.109169], abs=1e-6)


def test_sgd_follows_the_recursion_written_out():
    alpha, batch, h = 0.3, 3, CURVATURES
    expected = np.array([1.0, 2.0, 0.5, 4.0])
    start = expected
    for _ in range(7):
        expected = (
            expected * (1 - 2 * alpha * h + alpha**2 * (1 + 1 / batch) * h**2)
            + alpha**2 / batch * h * (h @ expected)
            + alpha**2 * 0.25 * h / batch
        )
    assert least_squares_moments(h, alpha, batch, 0.5, 7, start=start) == pytest.approx(expected, rel=1e-12)


def test_momentum_in_the_long_run():
    """Catches noise that does not grow with the error: it would give what ``additive`` is."""
    found = stationary_least_squares_moments(CURVATURES, 0.1, 4, 0.3, momentum=0.9)
    assert found == pytest.approx([0.017754, 0.016301, 0.015538, 0.015299], abs=1e-6)
    assert found == pytest.approx(least_squares_moments(CURVATURES, 0.1, 4, 0.3, 3000, momentum=0.9), rel=1e-10)
    additive = [stationary_second_moment(LinearMethod.momentum(0.1, 0.9, h), h * 0.09 / 4) for h in CURVATURES]
    assert additive == pytest.approx([0.011554, 0.011400, 0.011310, 0.011280], abs=1e-6)


@pytest.mark.parametrize(("learning_rate", "batch", "momentum"), [(0.4, 2, 0.0), (0.1, 4, 0.9)])
def test_the_long_run_solves_the_linear_system(learning_rate, batch, momentum):
    """s = κ c(s), with κ from the Lyapunov equation of one direction."""
    h = CURVATURES
    kappa = np.array([stationary_second_moment(LinearMethod.momentum(learning_rate, momentum, x), 1.0) for x in h])
    system = np.eye(4) - np.diag(kappa * h**2 / batch) - np.outer(kappa * h, h) / batch
    expected = np.linalg.solve(system, kappa * h * 0.09 / batch)
    found = stationary_least_squares_moments(h, learning_rate, batch, 0.3, momentum)
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("momentum", "limits"),
    [
        (0.0, {1: 0.58252, 2: 0.92148, 8: 1.57778, 64: 1.93878, 1000: 1.99601}),
        (0.9, {1: 0.07636, 2: 0.15021, 8: 0.54625, 64: 2.27409}),
    ],
)
def test_the_largest_stable_rates(momentum, limits):
    """Catches 1/B in place of 1 + 1/B, and the limit 2 (1 + β)/h without noise."""
    for batch, limit in limits.items():
        assert largest_least_squares_learning_rate(CURVATURES, batch, momentum) == pytest.approx(limit, abs=5e-6)
    huge = largest_least_squares_learning_rate(CURVATURES, 1e9, momentum)
    assert huge == pytest.approx(largest_learning_rate(1.0, momentum), rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_at_the_largest_rate_the_matrix_of_all_moments_has_the_eigenvalue_1(momentum, batch):
    """The moments E θ², E θv and E v² of the four directions, 12 in all, and the expected variance that joins them."""
    limit = largest_least_squares_learning_rate(CURVATURES, batch, momentum)

    def radius(rate):
        matrix = np.zeros((12, 12))
        for i, h in enumerate(CURVATURES):
            a, b = 1 - rate * h, -rate * momentum
            rows = slice(3 * i, 3 * i + 3)
            matrix[rows, rows] = [
                [a * a, 2 * a * b, b * b],
                [a * h, a * momentum + b * h, b * momentum],
                [h * h, 2 * h * momentum, momentum**2],
            ]
            variance = np.zeros(12)
            variance[::3] = h * CURVATURES / batch
            variance[3 * i] += h**2 / batch
            matrix[rows] += np.outer([rate**2, -rate, 1.0], variance)
        return np.abs(np.linalg.eigvals(matrix)).max()

    assert radius(limit) == pytest.approx(1.0, abs=1e-9)
    assert radius(0.98 * limit) < 1 < radius(1.02 * limit)


@pytest.mark.parametrize(("learning_rate", "batch", "momentum"), [(0.4, 2, 0.0), (0.1, 4, 0.9)])
def test_least_squares_in_a_simulation(learning_rate, batch, momentum):
    """The gradients of fresh Gaussian examples, for 20,000 replicas at once: also where the formula of c comes from."""
    random = np.random.default_rng(0)
    error, buffer = np.ones((20_000, 4)), np.zeros((20_000, 4))
    for _ in range(12):
        examples = random.standard_normal((20_000, batch, 4)) * np.sqrt(CURVATURES)
        residuals = np.einsum("rbi,ri->rb", examples, error) - 0.3 * random.standard_normal((20_000, batch))
        buffer = momentum * buffer + np.einsum("rbi,rb->ri", examples, residuals) / batch
        error = error - learning_rate * buffer
    squares = error**2
    expected = least_squares_moments(CURVATURES, learning_rate, batch, 0.3, 12, momentum=momentum)
    assert (np.abs(squares.mean(0) - expected) < 4 * squares.std(0) / np.sqrt(20_000)).all()


@pytest.mark.parametrize("learning_rate", [0.0, 0.08])
def test_what_is_not_stable_has_no_long_run(learning_rate):
    with pytest.raises(ValueError, match=rf"learning_rate={learning_rate}: must be positive and below 0\.07635"):
        stationary_least_squares_moments(CURVATURES, learning_rate, 1, 0.3, momentum=0.9)


@pytest.mark.parametrize(("batch", "momentum"), [(0, 0.9), (1, 1.0), (1, -0.1)])
def test_what_is_no_batch_or_momentum_is_refused(batch, momentum):
    with pytest.raises(ValueError, match=f"batch={batch}, momentum={momentum}"):
        largest_least_squares_learning_rate(CURVATURES, batch, momentum)
