import math

import pytest
import torch

from optbench.curvature.lanczos import lanczos, on_flat_vectors, orthonormal_extension
from optbench.objective.vectors import flatten, unflatten


def symmetric(size, seed=0):
    """A matrix of the Gaussian orthogonal ensemble with eigenvalues in about [-2, 2], and a start."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randn(size, size, dtype=torch.float64, generator=generator)
    start = torch.randn(size, dtype=torch.float64, generator=generator)
    return (entries + entries.T) / math.sqrt(2 * size), start


def with_spectrum(eigenvalues, seed=0):
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    basis = torch.linalg.qr(symmetric(len(values), seed)[0])[0]
    return basis @ torch.diag(values) @ basis.T


def test_as_many_steps_as_dimensions_give_the_whole_spectrum():
    matrix, start = symmetric(30)
    found = lanczos(matrix.mv, start, 100)
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(found.basis @ matrix @ found.basis.T, found.matrix, rtol=0, atol=1e-13)
    pairs = found.ritz()
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(matrix), rtol=0, atol=1e-13)
    assert not pairs.residuals.any()


def test_the_residuals_are_those_of_the_matrix():
    matrix, start = symmetric(60)
    pairs = lanczos(matrix.mv, start, 15).ritz()
    true = (pairs.vectors @ matrix - pairs.values.unsqueeze(1) * pairs.vectors).norm(dim=1)
    assert true.max() > 0.05  # there is something to compare
    torch.testing.assert_close(pairs.residuals, true, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(pairs.vectors.norm(dim=1), torch.ones(15, dtype=torch.float64), rtol=0, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    distances = (pairs.values.unsqueeze(1) - eigenvalues).abs().min(1).values
    assert (distances <= pairs.residuals + 1e-12).all()


def test_both_ends_converge_first():
    matrix, start = symmetric(1000)
    pairs = lanczos(matrix.mv, start, 40).ritz(largest=1, smallest=1)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    ends = torch.stack([eigenvalues[0], eigenvalues[-1]])
    torch.testing.assert_close(pairs.values, ends, rtol=0, atol=2e-3)
    assert pairs.vectors.shape == (2, 1000)


@pytest.mark.parametrize(
    ("largest", "smallest", "expected"),
    [
        (None, None, range(6)),
        (2, None, [4, 5]),
        (None, 2, [0, 1]),
        (1, 2, [0, 1, 5]),
        (5, 5, range(6)),
        (9, 0, range(6)),
    ],
)
def test_pairs_are_chosen_from_the_ends_once(largest, smallest, expected):
    matrix, start = symmetric(6)
    chosen = lanczos(matrix.mv, start, 6).ritz(largest, smallest).values
    torch.testing.assert_close(chosen, torch.linalg.eigvalsh(matrix)[list(expected)], rtol=0, atol=1e-13)


def test_the_weights_make_a_gaussian_quadrature():
    """Σ w tʲ = vᵀ Aʲ v for polynomials up to degree 2k - 1 (Golub & Meurant 1994)."""
    matrix, start = symmetric(80)
    pairs = lanczos(matrix.mv, start, 5).ritz()
    unit, power = start / start.norm(), start / start.norm()
    errors = []
    for degree in range(11):
        errors.append(float((pairs.weights * pairs.values**degree).sum() - unit @ power))
        power = matrix @ power
    assert max(map(abs, errors[:10])) < 1e-12
    assert abs(errors[10]) > 1e-3


def test_no_ghosts_in_float32():
    """Without reorthogonalization the outlier comes back as a second copy after some dozens of steps."""
    matrix = with_spectrum([*torch.linspace(0, 1, 199).tolist(), 50.0]).float()
    found = lanczos(matrix.mv, torch.ones(200), 120)
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(len(found.basis)), rtol=0, atol=1e-5)
    assert (found.ritz().values > 2).sum() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_ends_in_an_invariant_space(dtype):
    matrix = with_spectrum([3.0] * 5 + [-1.0] * 10 + [0.5] * 10).to(dtype)
    found = lanczos(matrix.mv, symmetric(25)[1].to(dtype), 20)
    assert found.residual == 0
    assert len(found.basis) == 3
    expected = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(found.ritz().values, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)


def test_the_zero_matrix_has_a_space_of_one_dimension():
    found = lanczos(torch.zeros_like, torch.ones(4), 3)
    assert found.basis.tolist() == [[0.5] * 4]
    assert found.ritz().values.tolist() == [0]


@pytest.mark.parametrize("start", [torch.zeros(3), torch.tensor([1.0, math.nan, 0.0]), torch.tensor([math.inf, 0.0])])
def test_a_start_without_a_direction_is_refused(start):
    with pytest.raises(ValueError, match="finite and not zero"):
        lanczos(lambda vector: vector, start, 2)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps=0"):
        lanczos(lambda vector: vector, torch.ones(3), 0)


def test_products_on_lists_are_products_on_flat_vectors():
    like = [torch.zeros(2, 3), torch.zeros(()), torch.zeros(4)]
    vector = torch.arange(11.0)
    assert [part.shape for part in unflatten(vector, like)] == [part.shape for part in like]
    assert torch.equal(flatten(unflatten(vector, like)), vector)
    product = on_flat_vectors(lambda parts: [parts[0] * 2, parts[1] * 3, parts[2].flip(0)], like)
    assert product(vector).tolist() == [0, 2, 4, 6, 8, 10, 18, 10, 9, 8, 7]


def test_an_extension_is_what_the_basis_lacks():
    basis = torch.eye(4, dtype=torch.float64)[:2]
    direction = orthonormal_extension(basis, torch.tensor([5.0, -7.0, 3.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(direction, torch.tensor([0.0, 0.0, 0.6, 0.8], dtype=torch.float64))
    for inside in ([1.0, 2.0, 0.0, 0.0], [0.0] * 4, [1.0, 2.0, 1e-15, 0.0]):
        assert orthonormal_extension(basis, torch.tensor(inside, dtype=torch.float64)) is None
