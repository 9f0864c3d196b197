"""Power iteration against spectra that are known."""

import pytest
import torch

from optbench.curvature import dense_operator, power_iteration
from optbench.errors import UserError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rotated(values):
    values = torch.tensor(values, dtype=torch.float64)
    entries = torch.randn(len(values), len(values), dtype=torch.float64, generator=generator(5))
    basis = torch.linalg.qr(entries)[0]
    return basis @ torch.diag(values) @ basis.T, basis


def test_eigenvalues_come_by_falling_magnitude_with_their_sign():
    matrix, basis = rotated([10.0, -7.0, 4.0, 1.0, 0.5, -0.1])
    found = power_iteration(dense_operator(matrix), generator(), count=3, tolerance=1e-12, iterations=500)
    torch.testing.assert_close(found.values, torch.tensor([10.0, -7.0, 4.0], dtype=torch.float64), rtol=1e-9, atol=0)
    assert found.converged.all()
    overlaps = (found.vectors @ basis[:, :3]).abs()
    torch.testing.assert_close(overlaps, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-4)
    true = (found.vectors @ matrix - found.values.unsqueeze(1) * found.vectors).norm(dim=1)
    torch.testing.assert_close(found.residuals, true)


def test_the_default_rule_stops_by_relative_change():
    matrix, _ = rotated([10.0, 5.0, 1.0, 0.5])
    found = power_iteration(dense_operator(matrix), generator())
    assert found.products < 20
    assert float(found.values) == pytest.approx(10, rel=2e-3)
    short = power_iteration(dense_operator(matrix), generator(), iterations=2)
    assert short.products == 2
    assert not short.converged.any()


def test_the_error_falls_by_the_ratio_of_the_eigenvalues():
    """That of the vector by l2 / l1 a product, so that of the quotient by its square."""
    matrix, _ = rotated([1.0, 0.9])
    errors = [
        1 - float(power_iteration(dense_operator(matrix), generator(), iterations=count, tolerance=0).values)
        for count in (41, 42)
    ]
    assert errors[1] / errors[0] == pytest.approx(0.81, rel=1e-2)


def test_opposite_eigenvalues_show_in_the_residual():
    matrix, _ = rotated([3.0, -3.0, 1.0])
    found = power_iteration(dense_operator(matrix), generator())
    assert found.converged.all()
    assert abs(float(found.values)) < 2.9
    assert float(found.residuals) > 0.5


def test_the_zero_matrix():
    found = power_iteration(dense_operator(torch.zeros(4, 4, dtype=torch.float64)), generator(), count=2)
    assert found.values.tolist() == [0, 0]
    assert found.converged.all()
    assert found.products == 2


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 5}, {"iterations": 0}])
def test_mistakes_are_named(options):
    with pytest.raises(UserError, match="accepted are counts from 1 to the dimension, 4"):
        power_iteration(dense_operator(torch.eye(4)), generator(), **options)
