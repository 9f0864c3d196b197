import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import nn

from optbench.curvature.normalization import filter_norms
from optbench.curvature.sharpness import ball_sharpness, box_sharpness, loss_and_gradient, relative_scale
from optbench.errors import UserError
from optbench.objective import Network, Objective

CURVATURES = torch.tensor([4.0, 2.5, 1.0, 0.3, -0.5, -2.0], dtype=torch.float64)
POINT = torch.tensor([0.2, -1.0, 0.5, 2.0, -0.7, 0.0004], dtype=torch.float64)


def quadratic(parts):
    """L = 1 + Σ h p² / 2 of parameters (2, 2) and (2,)."""
    p = torch.cat([part.flatten() for part in parts])
    gradient = CURVATURES * p
    return float(1 + (CURVATURES * p * p).sum() / 2), [gradient[:4].view(2, 2), gradient[4:]]


def parts(vector):
    return [vector[:4].view(2, 2), vector[4:]]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def value(vector):
    return float(1 + (CURVATURES * vector * vector).sum() / 2)


# ---- balls ----------------------------------------------------------------------------------------------------------


def test_the_first_order_answer_of_a_quadratic():
    """With g the gradient, L(p + r g/|g|) - L(p) = r |g| + r² g'Hg / (2 |g|²)."""
    g, radius = CURVATURES * POINT, 0.05
    found = ball_sharpness(quadratic, parts(POINT), radius)
    expected = radius * g.norm() + radius**2 * (g @ (CURVATURES * g)) / (2 * g @ g)
    assert found.loss == value(POINT)
    assert found.increase == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(flat(found.perturbation), radius * g / g.norm(), rtol=1e-12, atol=0)


def largest_in_ball(curvatures, gradient, radius):
    """The maximum of g'd + d'Hd/2 in a ball, diagonal H: d = g / (m - h) with |d| = r and m above h_max (the trust region)."""
    h, g = curvatures.numpy(), gradient.numpy()

    def excess(m):
        return float(np.linalg.norm(g / (m - h)) - radius)

    m = brentq(excess, h.max() + 1e-12, h.max() + 1e6, xtol=1e-13)
    d = g / (m - h)
    return float(g @ d + (h * d * d).sum() / 2)


@pytest.mark.parametrize("radius", [0.05, 1.0, 10.0])
def test_ascent_finds_the_maximum_of_a_quadratic_in_a_ball(radius):
    found = ball_sharpness(quadratic, parts(POINT), radius, steps=100)
    expected = largest_in_ball(CURVATURES, CURVATURES * POINT, radius)
    assert found.increase == pytest.approx(expected, rel=1e-6)
    assert float(flat(found.perturbation).norm()) == pytest.approx(radius, rel=1e-12)
    first = ball_sharpness(quadratic, parts(POINT), radius).increase
    assert first < expected
    assert ball_sharpness(quadratic, parts(POINT), radius, steps=3).increase >= first


def test_ascent_from_a_minimum_finds_half_the_largest_eigenvalue():
    def bowl(tensors):
        h = CURVATURES.abs()
        return float((h * tensors[0].square()).sum() / 2), [h * tensors[0]]

    found = ball_sharpness(bowl, [torch.zeros(6, dtype=torch.float64)], 0.1, steps=50)
    assert found.increase == pytest.approx(0.1**2 * 4 / 2, rel=1e-6)
    other = ball_sharpness(bowl, [torch.zeros(6, dtype=torch.float64)], 0.1, generator=torch.Generator().manual_seed(1))
    assert other.perturbation[0].tolist() != found.perturbation[0].tolist()


@pytest.mark.parametrize(("steps", "increase"), [(1, -0.25), (2, 0.0), (3, 0.0)])
def test_the_best_of_the_steps_counts(steps, increase):
    """At a maximum the first step descends, the second one returns, and the third one descends again."""
    found = ball_sharpness(lambda p: (-float(p[0].square()), [-2 * p[0]]), [torch.zeros(1)], 0.5, steps)
    assert found.increase == increase


def test_the_scale_makes_the_ball_an_ellipsoid():
    """max over ||d / T|| <= r of g'd for a linear loss is r ||T g||."""
    g, scale = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([5.0, 0.0, 2.0])
    found = ball_sharpness(lambda p: (float(g @ p[0]), [g]), [torch.zeros(3)], 0.5, steps=3, scale=[scale])
    assert found.increase == pytest.approx(0.5 * (5**2 + 6**2) ** 0.5, rel=1e-6)
    assert found.perturbation[0][1] == 0


# ---- invariance under rescaling -------------------------------------------------------------------------------------


def rescaled_networks(per_neuron):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    inputs, targets = torch.randn(40, 5, dtype=torch.float64), torch.randint(0, 3, (40,))
    other = copy.deepcopy(model)
    factors = torch.logspace(-1, 1, 8, dtype=torch.float64) if per_neuron else torch.full((8,), 10.0).double()
    with torch.no_grad():
        other[0].weight *= factors.unsqueeze(1)
        other[0].bias *= factors
        other[2].weight /= factors
    return [
        (list(net.parameters()), Objective(Network(net), F.cross_entropy, inputs, targets)) for net in (model, other)
    ]


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(("per_neuron", "filters"), [(True, False), (False, False), (False, True)])
def test_relative_sharpness_is_invariant_under_rescaling_and_absolute_is_not(per_neuron, filters, steps):
    relative, absolute = [], []
    for parameters, objective in rescaled_networks(per_neuron):
        evaluate = loss_and_gradient(objective)
        scale = relative_scale(parameters, filters)
        relative.append(ball_sharpness(evaluate, parameters, 0.1, steps, scale).increase)
        absolute.append(ball_sharpness(evaluate, parameters, 0.1, steps).increase)
    assert relative[0] > 1e-3
    assert relative[1] == pytest.approx(relative[0], rel=1e-9)
    assert abs(absolute[1] / absolute[0] - 1) > 0.1


def test_a_weight_before_batch_norm_has_no_scale_for_the_relative_sharpness_and_one_for_curvature():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, eps=1e-12, momentum=1), nn.ReLU(), nn.Linear(5, 3)
    )
    inputs, targets = torch.randn(40, 6, dtype=torch.float64), torch.randint(0, 3, (40,))
    relative, absolute, tops = [], [], []
    for factor in (1.0, 4.0):
        net = copy.deepcopy(model).double()
        with torch.no_grad():
            net[0].weight *= factor
        net.train()(inputs)  # with momentum 1, one pass estimates the running statistics anew
        net.eval()
        net[1].requires_grad_(False)
        net[3].requires_grad_(False)
        objective = Objective(Network(net), F.cross_entropy, inputs, targets)
        evaluate, weight = loss_and_gradient(objective), [net[0].weight]
        relative.append(ball_sharpness(evaluate, weight, 0.3, 3, relative_scale(weight)).increase)
        absolute.append(ball_sharpness(evaluate, weight, 0.3, 3).increase)
        identity = torch.eye(30, dtype=torch.float64).reshape(30, 5, 6)
        hessian = torch.stack([objective.hvp([column])[0].flatten() for column in identity])
        tops.append(float(torch.linalg.eigvalsh(hessian)[-1]))
    assert relative[0] > 1e-3
    assert relative[1] == pytest.approx(relative[0], rel=1e-6)
    assert absolute[1] < 0.5 * absolute[0]
    assert tops[1] == pytest.approx(tops[0] / 16, rel=1e-6)


def test_the_scales_by_hand():
    parameters = [torch.tensor([[3.0, -4.0], [0.0, 2.0]]), torch.tensor([-1.5])]
    assert [part.tolist() for part in relative_scale(parameters)] == [[[3, 4], [0, 2]], [1.5]]
    assert [part.tolist() for part in relative_scale(parameters, filters=True)] == [[[5, 5], [2, 2]], [1.5]]
    transposed = nn.ConvTranspose2d(2, 3, 2).weight
    torch.testing.assert_close(relative_scale([transposed], True, [1])[0], filter_norms(transposed, 1))


def test_an_objective_as_a_function_of_its_parameters():
    (parameters, objective), _ = rescaled_networks(True)
    before = [parameter.detach().clone() for parameter in parameters]
    moved = [parameter.detach() * 1.1 for parameter in parameters]
    model = copy.deepcopy(objective.network.model)
    for parameter, there in zip(model.parameters(), moved, strict=True):
        parameter.data = there
    loss = F.cross_entropy(model(objective._parts[0].inputs), objective._parts[0].targets)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    found, slopes = loss_and_gradient(objective)(moved)
    assert found == pytest.approx(float(loss.detach()), abs=1e-14)
    torch.testing.assert_close(slopes, list(gradient), rtol=1e-12, atol=1e-14)
    assert all(torch.equal(parameter, own) for parameter, own in zip(parameters, before, strict=True))
    assert all(parameter.grad is None for parameter in parameters)


# ---- Keskar's box ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-3, 5e-4])
def test_the_maximum_of_a_diagonal_quadratic_in_a_box(epsilon):
    """Where h > 0 at the corner of the parameter's own sign, where h < 0 at 0 if that is inside and else as near as can be."""
    found = box_sharpness(quadratic, parts(POINT), epsilon)
    bound = epsilon * (POINT.abs() + 1)
    nearest = torch.where(POINT.abs() <= bound, -POINT, -POINT.sign() * bound)
    y = torch.where(CURVATURES > 0, POINT.sign() * bound, nearest)
    assert (POINT.abs() <= bound).sum() == 1  # both cases of h < 0
    assert found.loss == value(POINT)
    assert found.increase == pytest.approx(value(POINT + y) - value(POINT), rel=1e-6)
    assert found.percentage == pytest.approx(100 * found.increase / (1 + value(POINT)), rel=1e-12)
    assert (flat(found.perturbation).abs() <= bound).all()
    torch.testing.assert_close(flat(found.perturbation)[:5], y[:5], rtol=1e-9, atol=0)


@pytest.mark.parametrize("dimensions", [1, 4])
def test_the_maximum_of_a_linear_loss_in_a_random_box(dimensions):
    """max of g'Ay is Σ b_i |A'g|_i, with A redrawn here and its pseudo-inverse from the singular values."""
    g = torch.arange(1.0, 8.0, dtype=torch.float64)
    theta = torch.linspace(-2, 2, 7, dtype=torch.float64)
    found = box_sharpness(
        lambda p: (float(g @ p[0]), [g]), [theta], 1e-3, dimensions, generator=torch.Generator().manual_seed(3)
    )
    a = torch.randn(7, dimensions, generator=torch.Generator().manual_seed(3)).double()
    bound = 1e-3 * ((torch.linalg.pinv(a) @ theta).abs() + 1)
    assert found.increase == pytest.approx(float(bound @ (a.T @ g).abs()), rel=1e-9)


def test_a_flat_loss_is_not_taken_for_a_maximum():
    """With the tolerances that L-BFGS-B has by default, it would stop at y = 0."""
    slope = 1e-7 * torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = box_sharpness(lambda p: (float(slope @ p[0]), [slope]), [torch.zeros(2).double()], 0.5)
    assert found.increase == pytest.approx(1.5e-7, rel=1e-9)


def test_the_box_around_a_minimum_begins_at_a_random_corner():
    """At theta = 0 the gradient is 0 and every corner is as high as any other: Σ h eps² / 2."""
    h = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = box_sharpness(lambda p: (float((h * p[0] ** 2).sum() / 2), [h * p[0]]), [torch.zeros(3).double()])
    assert found.increase == pytest.approx(6 * 1e-6 / 2, rel=1e-9)


def test_the_box_of_a_network_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs, targets = torch.randn(40, 5), torch.randint(0, 3, (40,))
    objective = Objective(Network(model), F.cross_entropy, inputs, targets)
    parameters = list(model.parameters())
    g, theta = flat(objective.gradient()), flat(parameters).detach()
    found = box_sharpness(loss_and_gradient(objective), parameters)
    # In so small a box the loss is linear but for about 1 % of its increase.
    assert found.increase == pytest.approx(float(1e-3 * (theta.abs() + 1) @ g.abs()), rel=0.05)


@pytest.mark.parametrize("options", [{"epsilon": 0}, {"dimensions": 0}, {"dimensions": 7}, {"iterations": 0}])
def test_a_box_that_is_none_is_refused(options):
    with pytest.raises(UserError, match="accepted are"):
        box_sharpness(quadratic, parts(POINT), **options)


@pytest.mark.parametrize("options", [{"radius": 0}, {"radius": -1}, {"radius": 1, "steps": 0}])
def test_a_ball_that_is_none_is_refused(options):
    with pytest.raises(UserError, match="accepted are"):
        ball_sharpness(quadratic, parts(POINT), **options)
