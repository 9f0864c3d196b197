"""Curvature regressed from gradients: the statistics, the symmetric fit and its noise, against explicit sums and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from optbench.optimizers import gradient_regression as regression
from optbench.optimizers.gradient_regression import Moments


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(size, seed):
    matrix = drawn(size, size, seed=seed)
    return (matrix + matrix.T) / 2


def positive(size, seed):
    matrix = drawn(size, size, seed=seed)
    return matrix @ matrix.T + 0.1 * torch.eye(size).double()


def regressed(beta, points, gradients):
    """The moments and both means after all of ``points`` and ``gradients``, (steps, ..., d)."""
    shape = points.shape[1:]
    moments = Moments(*(torch.zeros(*shape, shape[-1]).double() for _ in range(3)))
    means = [torch.zeros(shape).double() for _ in range(2)]
    for step, values in enumerate(zip(points, gradients, strict=True), 1):
        weight = regression.newest_weight(beta, step)
        moved = [value - mean for value, mean in zip(values, means, strict=True)]
        moments.add(weight, *moved)
        means = [mean + weight * each for mean, each in zip(means, moved, strict=True)]
    return moments, means


def weighted(beta, points, gradients):
    """T, C, G and both means as explicit weighted sums, in NumPy."""
    weights = (1 - beta) ** np.arange(len(points))[::-1]
    weights /= weights.sum()
    p, g = (each - weights @ each for each in (points, gradients))
    return [left.T @ (weights[:, None] * right) for left, right in ((p, p), (g, p), (g, g))], weights


def test_three_points_in_one_dimension():
    """β = ½ and (0, -2), (1, 1), (3, 4): λ = C / T = 9/5, and the line crosses 0 at m_θ - m_g / λ = 46/63."""
    moments, (mean, slope) = regressed(0.5, numbers([[0], [1], [3]]), numbers([[-2], [1], [4]]))
    assert float(mean) == pytest.approx(2)
    assert float(slope) == pytest.approx(16 / 7)
    assert float(moments.weights) == pytest.approx(10 / 7)
    assert float(moments.cross) == pytest.approx(18 / 7)
    curvature = float(regression.symmetric_regression(moments))
    assert curvature == pytest.approx(1.8)
    assert 2 - 16 / 7 / curvature == pytest.approx(0.7301587, abs=5e-8)


@pytest.mark.parametrize("beta", [0.05, 0.3, 0.8])
def test_the_recursion_is_the_weighted_covariance(beta):
    points, gradients = drawn(12, 3), drawn(12, 3, seed=1) + 5
    moments, means = regressed(beta, points, gradients)
    (t, c, g), weights = weighted(beta, points.numpy(), gradients.numpy())
    for found, expected in ((moments.weights, t), (moments.cross, c), (moments.gradients, g)):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(means[0].numpy(), weights @ points.numpy(), atol=1e-14)
    np.testing.assert_allclose(means[1].numpy(), weights @ gradients.numpy(), atol=1e-14)
    assert regression.newest_weight(beta, 12) == pytest.approx(weights[-1])
    assert regression.effective_points(beta, 12) == pytest.approx(1 / (weights**2).sum())


def test_the_effective_number_of_points_comes_to_its_limit():
    assert regression.effective_points(0.1, 1) == pytest.approx(1)
    assert regression.effective_points(0.1, 500) == pytest.approx(19)
    assert regression.effective_points(0.01, 10000) == pytest.approx(199)


def test_a_quadratic_is_exact_after_one_more_point_than_dimensions():
    size, curvature = 4, symmetric(4, 3)
    best, points = drawn(4, seed=4), drawn(5, 4, seed=5)
    moments, (mean, slope) = regressed(0.3, points, (points - best) @ curvature)
    found = regression.symmetric_regression(moments)
    torch.testing.assert_close(found, curvature, rtol=0, atol=1e-11)
    torch.testing.assert_close(mean - torch.linalg.solve(found, slope), best, rtol=0, atol=1e-10)
    few, _ = regressed(0.3, points[: size - 1], (points[: size - 1] - best) @ curvature)
    assert (regression.symmetric_regression(few) - curvature).norm() > 0.1


def test_the_fit_is_that_of_least_squares_over_symmetric_matrices():
    """An independent solution: the coefficients of a basis of symmetric matrices, by lstsq on weighted rows."""
    beta, points, gradients = 0.2, drawn(9, 3, seed=1), drawn(9, 3, seed=2)
    moments, _ = regressed(beta, points, gradients)
    (t, c, _), weights = weighted(beta, points.numpy(), gradients.numpy())
    p, g = (each - weights @ each for each in (points.numpy(), gradients.numpy()))
    pairs = list(itertools.combinations_with_replacement(range(3), 2))
    columns = []
    for i, j in pairs:
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1
        columns.append((np.sqrt(weights)[:, None] * (p @ unit)).ravel())
    found = np.linalg.lstsq(np.stack(columns, 1), (np.sqrt(weights)[:, None] * g).ravel(), rcond=None)[0]
    expected = np.zeros((3, 3))
    for (i, j), value in zip(pairs, found, strict=True):
        expected[i, j] = expected[j, i] = value
    fit = regression.symmetric_regression(moments).numpy()
    np.testing.assert_allclose(fit, expected, rtol=0, atol=1e-12)
    short = c @ np.linalg.inv(t)
    assert abs(fit - (short + short.T) / 2).max() > 0.02


def test_the_fit_solves_the_equation_of_sylvester():
    linalg = pytest.importorskip("scipy.linalg")
    moments = Moments(positive(5, 1), drawn(5, 5, seed=2), positive(5, 3))
    sides = (moments.cross + moments.cross.T).numpy()
    expected = linalg.solve_sylvester(moments.weights.numpy(), moments.weights.numpy(), sides)
    np.testing.assert_allclose(regression.symmetric_regression(moments).numpy(), expected, rtol=0, atol=1e-9)


def test_a_ridge_is_added_to_the_spread_in_units_of_its_mean():
    moments = Moments(positive(3, 1), drawn(3, 3, seed=2), positive(3, 3))
    lifted = moments.weights + 0.5 * moments.weights.trace() / 3 * torch.eye(3).double()
    expected = regression.symmetric_regression(Moments(lifted, moments.cross, moments.gradients))
    torch.testing.assert_close(regression.symmetric_regression(moments, 0.5), expected, rtol=0, atol=1e-12)


def test_blocks_are_fitted_alone():
    each = [Moments(positive(3, seed), drawn(3, 3, seed=seed + 10), positive(3, seed + 20)) for seed in range(4)]
    names = ("weights", "cross", "gradients")
    together = Moments(*(torch.stack([getattr(one, name) for one in each]) for name in names))
    for solve in (regression.symmetric_regression, regression.correlated_curvature):
        expected = torch.stack([solve(one) for one in each])
        torch.testing.assert_close(solve(together), expected, rtol=0, atol=1e-10)
        axes = torch.linalg.eigh(expected).eigenvectors
        noise = regression.noise_deviations(together, expected, axes, 19.0)
        alone = [
            regression.noise_deviations(one, own, own_axes, 19.0)
            for one, own, own_axes in zip(each, expected, axes, strict=True)
        ]
        torch.testing.assert_close(noise, torch.stack(alone), rtol=1e-9, atol=1e-12)


def test_without_a_spread_there_is_no_curvature():
    moments = Moments(*(torch.zeros(2, 3, 3).double() for _ in range(3)))
    assert not regression.symmetric_regression(moments).any()
    assert not regression.correlated_curvature(moments).any()
    axes = torch.eye(3).double().expand(2, 3, 3)
    assert regression.noise_deviations(moments, moments.cross, axes, 19.0).isinf().all()
    alone = Moments(*(torch.zeros(3).double() for _ in range(3)))
    assert not regression.coordinate_curvature(alone).any()
    assert regression.coordinate_deviations(alone, alone.cross, 19.0).isinf().all()


def test_transported_moments_are_those_of_projected_points():
    """From the rows of one basis to those of another one of the same space, all points projected again."""
    points, gradients = drawn(10, 6), drawn(10, 6, seed=1)
    old = regression.orthonormal_rows(drawn(3, 6, seed=2))
    new = regression.orthonormal_rows(drawn(3, 3, seed=3)) @ old
    moments, _ = regressed(0.2, points @ old.T, gradients @ old.T)
    expected, _ = regressed(0.2, points @ new.T, gradients @ new.T)
    stale = moments.weights.clone()
    moments.turn(new @ old.T)
    for name in ("weights", "cross", "gradients"):
        torch.testing.assert_close(getattr(moments, name), getattr(expected, name), rtol=0, atol=1e-13)
    assert (stale - expected.weights).norm() > 0.1


def test_the_geometric_mean_is_the_curvature_between_two_covariances():
    curvature, spread = positive(4, 1), positive(4, 2)
    moments = Moments(spread, curvature @ spread, curvature @ spread @ curvature)
    torch.testing.assert_close(regression.correlated_curvature(moments), curvature, rtol=0, atol=1e-11)
    # The equation of the notebooks holds only for matrices that commute.
    values, axes = torch.linalg.eigh(moments.gradients)
    root = (axes * values.sqrt()) @ axes.T
    values, axes = torch.linalg.eigh(spread)
    half = (axes * values.sqrt()) @ axes.T
    other = regression.symmetric_regression(Moments(spread, half @ root, moments.gradients))
    assert (other - curvature).norm() > 0.1


def test_a_coordinate_is_a_block_of_one():
    points, gradients = drawn(9, 4), drawn(9, 4, seed=1)
    blocks, _ = regressed(0.2, points[..., None], gradients[..., None])
    moments = Moments(*(torch.zeros(4).double() for _ in range(3)))
    means = [torch.zeros(4).double() for _ in range(2)]
    for step, values in enumerate(zip(points, gradients, strict=True), 1):
        weight = regression.newest_weight(0.2, step)
        moved = [value - mean for value, mean in zip(values, means, strict=True)]
        moments.add(weight, *moved)
        means = [mean + weight * each for mean, each in zip(means, moved, strict=True)]
    expected = regression.symmetric_regression(blocks)
    found = regression.coordinate_curvature(moments)
    torch.testing.assert_close(found, expected.flatten(), rtol=0, atol=1e-12)
    axes = torch.ones(4, 1, 1).double()
    noise = regression.noise_deviations(blocks, expected, axes, 8.0)
    torch.testing.assert_close(regression.coordinate_deviations(moments, found, 8.0), noise.flatten())
    ratio = regression.coordinate_curvature(moments, correlated=True)
    torch.testing.assert_close(ratio, regression.correlated_curvature(blocks).flatten())


def test_the_qr_algorithm_comes_to_the_eigenvalues_from_large_to_small():
    curvature = numbers([[2, 1, 0.5], [1, -1, 0.2], [0.5, 0.2, 0.5]])
    start, total = curvature.clone(), torch.eye(3).double()
    for _ in range(60):
        turn = regression.qr_rotation(curvature)
        curvature, total = turn @ curvature @ turn.T, turn @ total
    torch.testing.assert_close(curvature, torch.diag(numbers([2.4504, -1.3040, 0.3536])), rtol=0, atol=5e-5)
    torch.testing.assert_close(total @ start @ total.T, curvature, rtol=0, atol=1e-12)


def test_rows_are_those_of_gram_and_schmidt():
    matrix = drawn(3, 5)
    rows = []
    for row in matrix.numpy():
        left = row - sum((row @ other) * other for other in rows)
        rows.append(left / np.linalg.norm(left))
    np.testing.assert_allclose(regression.orthonormal_rows(matrix).numpy(), np.stack(rows), rtol=0, atol=1e-14)
    assert regression.orthonormal_rows(matrix.bfloat16()).dtype == torch.bfloat16


def test_small_and_negative_curvatures_are_bounded():
    values = numbers([4.0, -4.0, 0.1, 0.0])
    expected = [1 / 6, 1 / 6, 1 / 2, 1 / 2]
    assert regression.inverse_sizes(values, 1.5, 2.0).tolist() == pytest.approx(expected)
    floors = numbers([1.0, 8.0, 1.0, 2.0])
    assert regression.inverse_sizes(values, 1.5, floors).tolist() == pytest.approx([1 / 6, 1 / 8, 1, 1 / 2])


def test_noise_in_one_dimension_is_the_standard_deviation_of_the_curvature():
    """σ_g / (σ_θ √n) with n = 2/β - 1 = 199: 0.7 / √199 = 0.0496."""
    beta, count, steps = 0.01, 2000, 700
    points = drawn(steps, count, 1, seed=1)
    gradients = 3 * points + 0.7 * drawn(steps, count, 1, seed=2)
    moments, _ = regressed(beta, points, gradients)
    found = regression.symmetric_regression(moments)
    assert float(found.std()) == pytest.approx(0.7 / math.sqrt(199), rel=0.05)
    told = regression.noise_deviations(moments, found, torch.ones(count, 1, 1).double(), 199.0)
    assert float(told.square().mean().sqrt()) == pytest.approx(0.7 / math.sqrt(199), rel=0.02)


def test_noise_in_three_dimensions_is_the_standard_deviation_along_a_fixed_direction():
    beta, count, steps = 0.05, 4000, 150
    curvature, spread = symmetric(3, 1), torch.linalg.cholesky(positive(3, 2))
    points = drawn(steps, count, 3, seed=3) @ spread.T
    gradients = points @ curvature + 0.4 * drawn(steps, count, 3, seed=4)
    moments, _ = regressed(beta, points, gradients)
    found = regression.symmetric_regression(moments)
    axes = torch.linalg.qr(drawn(3, 3, seed=5))[0]
    values = (axes * (found @ axes)).sum(-2)
    told = regression.noise_deviations(
        moments, found, axes.expand(count, 3, 3), regression.effective_points(beta, steps)
    )
    torch.testing.assert_close(told.square().mean(0).sqrt(), values.std(0), rtol=0.1, atol=0)
    torch.testing.assert_close(values.mean(0), (axes * (curvature @ axes)).sum(0), rtol=0, atol=0.02)


def test_too_few_points_tell_no_noise():
    moments, _ = regressed(0.5, drawn(9, 3), drawn(9, 3, seed=1))
    curvature = regression.symmetric_regression(moments)
    assert regression.noise_deviations(moments, curvature, torch.eye(3).double(), 3.0).isinf().all()
