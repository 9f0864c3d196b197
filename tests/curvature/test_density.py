"""Spectral densities against exact eigenvalues, exact moments and the laws of large random matrices."""

import math

import pytest
import torch

from optbench.curvature import dense_operator, lanczos_quadrature
from optbench.errors import UserError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def gaussian_ensemble(size, seed=0):
    entries = normal(size, size, seed=seed)
    return (entries + entries.T) / math.sqrt(2 * size)


def integral(values, grid):
    return float(torch.trapezoid(values, grid))


def test_moments_of_the_gaussian_orthogonal_ensemble():
    found = lanczos_quadrature(dense_operator(gaussian_ensemble(1000)), generator(1), vectors=40, steps=10)
    assert found.values.shape == found.weights.shape == (40, 10)
    moments, errors = found.moments(4)
    for moment, expected, tolerance in zip(moments, (1, 0, 1, 0, 2), (1e-12, 0.05, 0.02, 0.1, 0.08), strict=True):
        assert float(moment) == pytest.approx(expected, abs=tolerance)
    assert (errors[1:] > 0).all()
    assert errors.max() < 0.05


def test_moments_of_one_vector_are_those_of_the_matrix_to_degree_2m_minus_1():
    matrix = gaussian_ensemble(300)
    found, _ = lanczos_quadrature(dense_operator(matrix), generator(3), vectors=1, steps=4).moments(8)
    start = dense_operator(matrix).random_vectors(1, generator(3))[0] / math.sqrt(300)
    power, differences = start, []
    for moment in found:
        differences.append(abs(float(moment) - float(start @ power)))
        power = matrix @ power
    assert max(differences[:8]) < 1e-10  # to degree 7, so to degree 6 as well
    assert differences[8] > 1e-4


def marchenko_pastur(grid, ratio):
    """The density of X X^T / n for X of P x n standard normal entries and ratio = P / n < 1."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    return ((grid - low) * (high - grid)).clamp(min=0).sqrt() / (2 * math.pi * ratio * grid.clamp(min=1e-9))


def test_the_marchenko_pastur_law():
    # With 10 vectors the distance is .024 to .034, most of it their own noise.
    samples = normal(1000, 4000)
    found = lanczos_quadrature(dense_operator(samples @ samples.T / 4000), generator(1), vectors=30, steps=60)
    width = 0.05 * (found.largest - found.smallest)
    density = found.density(points=1000, kernel_variance=width**2)
    assert density.kernel_variance == pytest.approx(width**2)
    law = marchenko_pastur(density.grid, 0.25)
    assert integral(law, density.grid) == pytest.approx(1, abs=1e-3)
    kernel = torch.exp(-0.5 * ((density.grid.unsqueeze(1) - density.grid) / width) ** 2) / (
        width * math.sqrt(2 * math.pi)
    )
    smoothed = torch.trapezoid(kernel * law, density.grid)
    assert integral((density.density - smoothed).abs(), density.grid) < 0.03
    # What is left is the width of the kernel: the sharp law is several times as far away.
    assert 0.05 < integral((density.density - law).abs(), density.grid) < 0.1


def test_all_steps_give_the_density_of_the_eigenvalues():
    matrix = gaussian_ensemble(40)
    quadrature = lanczos_quadrature(dense_operator(matrix), generator(1), vectors=150, steps=40)
    found = quadrature.density(points=500, kernel_variance=0.01)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    kernels = torch.exp(-0.5 * ((found.grid.unsqueeze(1) - eigenvalues) / 0.1) ** 2)
    expected = kernels.sum(1) / 40 / math.sqrt(2 * math.pi * 0.01)
    assert (found.error > 0).all()
    # The standard errors hold: of 500 correlated points nearly all are within 4 of theirs.
    assert (((found.density - expected).abs() <= 4 * found.error + 1e-4).double().mean()) > 0.98
    assert float((found.density - expected).abs().max()) < 0.1
    assert integral(found.density, found.grid) == pytest.approx(1)


def test_a_kernel_is_never_narrower_than_two_spacings():
    found = lanczos_quadrature(dense_operator(torch.diag(torch.tensor([0.0, 1000.0]).double())), generator(), 2, 2)
    density = found.density(points=200, factor=1e-12)
    spacing = float(density.grid[1] - density.grid[0])
    assert density.kernel_variance == pytest.approx((2 * spacing) ** 2)
    assert integral(density.density, density.grid) == pytest.approx(1)
    half = density.grid < 500
    assert integral(density.density[half], density.grid[half]) == pytest.approx(0.5, abs=1e-6)
    default = found.density(points=10_000)
    assert default.kernel_variance == pytest.approx(max(1e-5 * 1000, default.kernel_variance))


def test_the_variance_is_the_factor_times_the_range_but_at_least_1():
    for scale, expected in ((0.5, 1e-3), (4.0, 4e-3)):
        matrix = torch.diag(torch.tensor([0.0, scale], dtype=torch.float64))
        density = lanczos_quadrature(dense_operator(matrix), generator(), 1, 2).density(factor=1e-3)
        assert density.kernel_variance == pytest.approx(expected)


def test_processes_that_end_early_leave_no_weight():
    matrix = torch.diag(torch.tensor([2.0] * 5 + [-1.0] * 15, dtype=torch.float64))
    found = lanczos_quadrature(dense_operator(matrix), generator(), vectors=3, steps=10)
    assert found.values.shape == (3, 10)
    assert ((found.weights > 0).sum(1) == 2).all()
    assert (found.smallest, found.largest) == pytest.approx((-1, 2))
    moments, _ = found.moments(3)
    torch.testing.assert_close(moments, torch.tensor([1, -0.25, 1.75, 1.25], dtype=torch.float64))


def test_a_spectrum_of_one_value():
    found = lanczos_quadrature(dense_operator(3 * torch.eye(4, dtype=torch.float64)), generator(), 2, 5)
    density = found.density(points=1000)
    assert integral(density.density * density.grid, density.grid) == pytest.approx(3)
    assert float(density.grid[density.density.argmax()]) == pytest.approx(3, abs=0.01)


def test_one_vector_has_no_standard_error():
    found = lanczos_quadrature(dense_operator(gaussian_ensemble(20)), generator(), vectors=1, steps=5)
    assert found.moments(2)[1].isnan().all()
    assert found.density().error.isnan().all()


def test_mistakes_are_named():
    matrix = dense_operator(gaussian_ensemble(5))
    with pytest.raises(UserError, match="vectors=0, steps=3"):
        lanczos_quadrature(matrix, generator(), 0, 3)
    found = lanczos_quadrature(matrix, generator(), 1, 3)
    with pytest.raises(UserError, match=r"points=10: .* at least 100"):
        found.density(points=10)
    with pytest.raises(UserError, match="variance=-1"):
        found.density(kernel_variance=-1)
