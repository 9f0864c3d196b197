import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.curvature.convexity import convexity_map
from optbench.curvature.lanczos import on_flat_vectors
from optbench.objective import Network, Objective


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("diagonal", "ends", "ratio"),
    [((3.0, -1.0), (-1, 3), 1 / 3), ((0.5, 2.0), (0.5, 2), 0.25), ((-4.0, -1.0), (-4, -1), 4)],
)
def test_the_map_of_a_quadratic_is_constant(diagonal, ends, ratio):
    """Of both signs, and where the method of shifting the matrix would lose an end."""
    curvature = torch.tensor(diagonal, dtype=torch.float64)
    parameters = [torch.tensor([0.3, -0.2], dtype=torch.float64)]
    first, second = [torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])]
    found = convexity_map(lambda v: curvature * v, 2, parameters, first, second, [-1, 0, 1], [0, 1], 10, generator())
    assert found.ratio.shape == (2, 3)
    for values, expected in ((found.smallest, ends[0]), (found.largest, ends[1]), (found.ratio, ratio)):
        torch.testing.assert_close(values, torch.full((2, 3), float(expected), dtype=torch.float64), rtol=1e-10, atol=0)
    assert found.largest_residual.max() < 1e-10
    assert found.x.tolist() == [-1, 0, 1]
    assert found.y.tolist() == [0, 1]


def test_every_point_has_the_hessian_of_its_own_parameters_and_the_origin_is_restored():
    """L = a^4 + a b^2: the Hessian is [[12 a^2, 2 b], [2 b, 2 a]]."""
    parameters = [torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)]

    def hessian():
        a, b = (float(parameter) for parameter in parameters)
        return torch.tensor([[12 * a * a, 2 * b], [2 * b, 2 * a]], dtype=torch.float64)

    x, y = [-1.0, 0.0, 2.0], [-0.5, 1.0]
    first, second = [torch.ones(1), torch.zeros(1)], [torch.zeros(1), torch.ones(1)]
    found = convexity_map(lambda v: hessian() @ v, 2, parameters, first, second, x, y, 2, generator())
    assert [float(parameter) for parameter in parameters] == [0.5, 0.25]
    for row, up in enumerate(y):
        for column, across in enumerate(x):
            a, b = 0.5 + across, 0.25 + up
            low, high = torch.linalg.eigvalsh(torch.tensor([[12 * a * a, 2 * b], [2 * b, 2 * a]], dtype=torch.float64))
            assert float(found.smallest[row, column]) == pytest.approx(float(low), abs=1e-10)
            assert float(found.largest[row, column]) == pytest.approx(float(high), abs=1e-10)


def test_an_objective_at_every_point_against_dense_hessians_of_the_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 2, (20,))
    objective = Objective(Network(model), F.cross_entropy, inputs, targets)
    parameters = list(model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    weights = [number for number, parameter in enumerate(parameters) if parameter.ndim > 1]

    def of_weights(vectors):
        whole = [torch.zeros_like(parameter) for parameter in parameters]
        for number, vector in zip(weights, vectors, strict=True):
            whole[number] = vector
        image = objective.hvp(whole)
        return [image[number] for number in weights]

    product = on_flat_vectors(of_weights, [parameters[number] for number in weights])
    first, second = ([torch.randn_like(parameter) for parameter in parameters] for _ in range(2))
    found = convexity_map(product, 20, parameters, first, second, [-1.0, 0.5], [0.0, 1.0], 20, generator())
    for row, up in enumerate([0.0, 1.0]):
        for column, across in enumerate([-1.0, 0.5]):
            point = [p + across * u + up * v for p, u, v in zip(before, first, second, strict=True)]

            def loss(a, c, point=point):
                hidden = torch.tanh(F.linear(inputs, a.view(4, 3), point[1]))
                return F.cross_entropy(F.linear(hidden, c.view(2, 4), point[3]), targets)

            blocks = torch.func.hessian(loss, (0, 1))(point[0].flatten(), point[2].flatten())
            dense = torch.cat([torch.cat(list(blocks[0]), 1), torch.cat(list(blocks[1]), 1)])
            eigenvalues = torch.linalg.eigvalsh(dense)
            assert float(found.smallest[row, column]) == pytest.approx(float(eigenvalues[0]), abs=1e-9)
            assert float(found.largest[row, column]) == pytest.approx(float(eigenvalues[-1]), abs=1e-9)
    for parameter, own in zip(parameters, before, strict=True):
        assert torch.equal(parameter, own)


def test_a_point_whose_hessian_is_not_finite_is_not_a_number_and_the_others_are():
    parameters = [torch.zeros(3, dtype=torch.float64)]

    curvature = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)

    def product(v):
        return v * (
            math.nan if float(parameters[0][0]) > 1.5 else math.inf if float(parameters[0][0]) > 0.5 else curvature
        )

    direction = [torch.ones(3)]
    found = convexity_map(product, 3, parameters, direction, direction, [0, 1, 2], [0], 3, generator())
    assert float(found.ratio[0, 0]) == pytest.approx(0.25, abs=1e-12)
    assert found.ratio[0, 1:].isnan().all()
    assert parameters[0].tolist() == [0, 0, 0]
