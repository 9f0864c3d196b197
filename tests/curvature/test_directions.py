import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.curvature.directions import cosine, hessian_directions, principal_curvatures, random_direction
from optbench.curvature.lanczos import on_flat_vectors
from optbench.curvature.surfaces import evaluation, grid
from optbench.objective import Network, Objective
from optbench.objective.vectors import flatten


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_random_directions_are_standard_normal_and_the_same_in_every_type():
    parameters = [torch.zeros(200, 100), torch.zeros(5000)]
    d = flatten(random_direction(parameters, generator()))
    assert abs(float(d.mean())) < 0.03
    assert abs(float(d.var()) - 1) < 0.03
    double = random_direction([parameter.double() for parameter in parameters], generator())
    assert torch.equal(flatten(double).float(), d)
    assert not torch.equal(flatten(random_direction(parameters, generator(1))), d)


def test_the_cosine_by_hand():
    first = [torch.tensor([[3.0, 0.0]]), torch.tensor([0.0])]
    assert cosine(first, [torch.tensor([[1.0, 0.0]]), torch.tensor([1.0])]) == pytest.approx(2**-0.5, abs=1e-15)
    assert cosine(first, [torch.tensor([[0.0, 2.0]]), torch.tensor([5.0])]) == 0
    assert cosine(first, [-2 * part for part in first]) == pytest.approx(-1, abs=1e-15)
    assert math.isnan(cosine(first, [0 * part for part in first]))


# ---- eigenvectors of the Hessian ------------------------------------------------------------------------------------


def small_network():
    """A classifier with 45 parameters and its dense Hessian from torch.func."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def loss(vector):
        parts = {
            name: part.view(shape) for (name, shape), part in zip(shapes.items(), vector.split(sizes), strict=True)
        }
        return F.cross_entropy(torch.func.functional_call(model, parts, (inputs,)), targets)

    parameters = list(model.parameters())
    dense = torch.func.hessian(loss)(flatten(parameters).detach())
    objective = Objective(Network(model), F.cross_entropy, inputs, targets)
    return model, objective, dense, inputs, targets


def test_hessian_directions_are_the_eigenvectors_of_both_ends():
    model, objective, dense, *_ = small_network()
    parameters = list(model.parameters())
    top, bottom = hessian_directions(on_flat_vectors(objective.hvp, parameters), parameters, 40, generator())
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert eigenvalues[0] < -1e-3  # there is a saddle to be seen
    for found, expected in ((top, eigenvalues[-1]), (bottom, eigenvalues[0])):
        assert found.value == pytest.approx(float(expected), rel=1e-6)
        u = flatten(found.direction)
        assert float(u.norm()) == pytest.approx(1, abs=1e-10)
        assert float((dense @ u - found.value * u).norm()) < 1e-3 * abs(found.value)
        assert not found.is_degenerate
    assert [part.shape for part in top.direction] == [parameter.shape for parameter in parameters]


def test_the_slice_along_hessian_directions_has_the_extreme_curvatures():
    """Second differences of the loss on the slice: the ends of the spectrum, and no mixed derivative."""
    model, objective, dense, inputs, targets = small_network()
    parameters = list(model.parameters())
    product = on_flat_vectors(objective.hvp, parameters)
    top, bottom = (found.direction for found in hessian_directions(product, parameters, 45, generator()))
    h = 1e-3
    found = grid(
        evaluation(model, lambda: {"loss": F.cross_entropy(model(inputs), targets).item()}),
        parameters,
        top,
        bottom,
        [-h, 0, h],
        [-h, 0, h],
    ).values["loss"]
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert float(found[1, 0] - 2 * found[1, 1] + found[1, 2]) / h**2 == pytest.approx(float(eigenvalues[-1]), rel=1e-4)
    assert float(found[0, 1] - 2 * found[1, 1] + found[2, 1]) / h**2 == pytest.approx(float(eigenvalues[0]), rel=1e-4)
    mixed = float(found[2, 2] - found[2, 0] - found[0, 2] + found[0, 0]) / (4 * h**2)
    assert abs(mixed) < 1e-4 * float(eigenvalues[-1])
    low, high = principal_curvatures(product, top, bottom)
    assert (low, high) == pytest.approx((float(eigenvalues[0]), float(eigenvalues[-1])), rel=1e-6)


def test_directions_of_the_weights_alone_leave_the_other_parameters():
    parameters = [torch.zeros(2, 2, dtype=torch.float64), torch.zeros(3), torch.zeros(1, 2, dtype=torch.float64)]
    diagonal = torch.tensor([1.0, 5.0, 2.0, 3.0, -4.0, 0.5], dtype=torch.float64)
    top, bottom = hessian_directions(lambda v: diagonal * v, parameters, 6, generator(), weights_only=True)
    assert (top.value, bottom.value) == pytest.approx((5, -4), abs=1e-12)
    assert top.direction[0].abs().flatten().tolist() == pytest.approx([0, 1, 0, 0], abs=1e-12)
    assert bottom.direction[2].abs().flatten().tolist() == pytest.approx([1, 0], abs=1e-12)
    assert [part.tolist() for part in (top.direction[1], bottom.direction[1])] == [[0] * 3] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_eigenvalue_of_zero_is_degenerate_and_a_small_negative_one_is_not(dtype):
    parameters = [torch.zeros(20, dtype=dtype)]
    for smallest, degenerate in ((0.0, True), (-0.01, False)):
        diagonal = torch.linspace(0.5, 10, 20, dtype=dtype)
        diagonal[7] = smallest
        top, bottom = hessian_directions(lambda v, diagonal=diagonal: diagonal * v, parameters, 20, generator())
        assert bottom.is_degenerate == degenerate
        assert bottom.value == pytest.approx(smallest, abs=1e-5)
        assert not top.is_degenerate


def test_an_end_that_has_not_converged_is_degenerate():
    """Three steps on a spectrum in [1, 10] give a positive smallest Ritz value whose error is larger than itself / 3."""
    diagonal = torch.linspace(1, 10, 500, dtype=torch.float64)
    parameters = [torch.zeros(500, dtype=torch.float64)]
    bottom = hessian_directions(lambda v: diagonal * v, parameters, 3, generator())[1]
    true = float((diagonal * bottom.direction[0] - bottom.value * bottom.direction[0]).norm())
    assert bottom.residual == pytest.approx(true, rel=1e-9)
    assert bottom.is_degenerate == (bottom.value <= 3 * true)
    assert bottom.is_degenerate


# ---- random slices --------------------------------------------------------------------------------------------------


def test_principal_curvatures_of_a_slice_by_hand():
    """The matrix [[1, 2], [2, -2]] has the eigenvalues -3 and 2."""
    matrix = torch.tensor([[1.0, 2.0, 9.0], [2.0, -2.0, 9.0], [9.0, 9.0, 9.0]], dtype=torch.float64)
    first, second = torch.eye(3, dtype=torch.float64)[:2]
    assert principal_curvatures(matrix.mv, [first[:1], first[1:]], [second]) == pytest.approx((-3, 2), abs=1e-12)


@pytest.mark.parametrize(("positive", "expected"), [(200, 0.707), (210, 0.551), (225, 0.148), (260, 0.0001)])
def test_how_many_random_slices_show_the_saddle(positive, expected):
    """diag(+1 x n, -1 x (400 - n)): exp(-(tr H)^2 / (4 ||H||_F^2)) / sqrt(2); and the mean curvature is tr H on average."""
    draws, size = 4000, 400
    diagonal = torch.ones(size, dtype=torch.float64)
    diagonal[positive:] = -1
    source = generator(7)
    pairs = torch.randn(draws, 2, size, dtype=torch.float64, generator=source)
    curvatures = torch.tensor([principal_curvatures(lambda v: diagonal * v, [u], [v]) for u, v in pairs])
    saddles = float((curvatures.prod(1) < 0).double().mean())
    # Three standard errors of 4000 draws, where the stated 0.015 is less than that.
    assert abs(saddles - expected) < max(0.015, 3 * math.sqrt(expected * (1 - expected) / draws))
    trace, frobenius = 2 * positive - size, math.sqrt(size)
    assert abs(float(curvatures.mean()) - trace) < 4 * frobenius / math.sqrt(draws)
