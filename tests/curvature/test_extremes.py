"""Both ends of a spectrum against dense eigenvalues."""

import math

import pytest
import torch

from optbench.curvature import dense_operator, extreme_eigenpairs
from optbench.errors import UserError


def gaussian_ensemble(size, seed=0):
    entries = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (entries + entries.T) / math.sqrt(2 * size)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def with_spectrum(eigenvalues):
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian_ensemble(len(values), 7))[0]
    return basis @ torch.diag(values) @ basis.T


def test_forty_steps_on_the_gaussian_orthogonal_ensemble():
    errors, bounds = [], []
    for seed in range(6):
        matrix = gaussian_ensemble(1000, seed)
        pairs = extreme_eigenpairs(dense_operator(matrix), generator(seed + 100), steps=40)
        exact = torch.linalg.eigvalsh(matrix)
        errors += [float(exact[-1] - pairs.values[1]), float(pairs.values[0] - exact[0])]
        bounds += pairs.residuals.flip(0).tolist()
    assert min(errors) > -1e-12  # within the spectrum
    # How far apart the outermost eigenvalues lie differs from draw to draw, and the error with it.
    assert torch.tensor(errors).median() < 1e-3
    assert max(errors) < 0.01
    assert all(error < bound + 1e-12 for error, bound in zip(errors, bounds, strict=True))


def test_ends_of_very_different_size_are_both_accurate():
    """Where shifting by the top eigenvalue leaves the bottom one with an error of a fraction of the top."""
    matrix = with_spectrum([*torch.linspace(-0.001, 0.02, 400).tolist(), -0.05, 40.0, 100.0])
    pairs = extreme_eigenpairs(dense_operator(matrix), generator(), largest=2, smallest=1, steps=60)
    expected = torch.tensor([-0.05, 40.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(pairs.values, expected, rtol=1e-3, atol=0)
    assert (pairs.residuals / pairs.values.abs() < 1e-3).all()
    true = (pairs.vectors @ matrix - pairs.values.unsqueeze(1) * pairs.vectors).norm(dim=1)
    torch.testing.assert_close(pairs.residuals, true, rtol=1e-6, atol=1e-11)


def test_it_ends_when_the_residuals_are_small_enough():
    matrix = with_spectrum([*torch.linspace(0, 1, 300).tolist(), 50.0, -20.0])
    taken = []

    def counting(vector):
        taken.append(1)
        return matrix @ vector

    whole = dense_operator(matrix)
    counted = type(whole)(counting, 302, torch.float64)
    pairs = extreme_eigenpairs(counted, generator(), steps=100, tolerance=1e-3)
    assert len(taken) < 12
    assert (pairs.residuals <= 1e-3 * pairs.values.abs()).all()
    torch.testing.assert_close(pairs.values, torch.tensor([-20.0, 50.0], dtype=torch.float64), rtol=1e-5, atol=0)
    early = len(taken)
    extreme_eigenpairs(counted, generator(), steps=30)
    assert len(taken) - early == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"largest": 0, "smallest": 0}, "largest=0, smallest=0"),
        ({"largest": -1}, "largest=-1"),
        ({"largest": 3, "smallest": 3, "steps": 5}, "steps=5: finding 6"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        extreme_eigenpairs(dense_operator(gaussian_ensemble(10)), generator(), **options)
