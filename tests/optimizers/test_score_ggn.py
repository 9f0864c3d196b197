import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from optbench.errors import UserError
from optbench.objective import Network, Objective
from optbench.objective.losses import Bernoulli, CrossEntropy, SquaredError
from optbench.optimizers.score_ggn import REGULARIZERS, SCoReGGN, self_concordance

WEIGHTS = torch.cat([torch.linspace(-30, 30, 600), torch.tensor([1e-8, 1e-3])]).double()


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- the regularizers ---------------------------------------------------------------------------------------------------


def pseudo_huber(w, scale):
    return (scale**2 + w**2).sqrt() - scale


def logarithmic(w, scale):
    root = (1 + 4 * (w / scale) ** 2).sqrt()
    return scale / 2 * (root - 1 + ((root - 1) / (2 * (w / scale) ** 2)).log())


def squared(w, scale):
    return w**2 / 2


FORMULAS = {"pseudo_huber": pseudo_huber, "logarithmic": logarithmic, "l2": squared}


def derivatives_by_autograd(name, weights, scale):
    leaf = weights.clone().requires_grad_()
    found, value = [], FORMULAS[name](leaf, scale)
    for _ in range(3):
        value = torch.autograd.grad(value.sum(), leaf, create_graph=True)[0] if value.requires_grad else 0 * leaf
        found.append(value.detach())
    return found


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_values_and_derivatives_are_those_of_the_formula(name, scale):
    weights = WEIGHTS[:600]  # nearer to 0 the formula of the logarithm cancels
    first, second, _ = derivatives_by_autograd(name, weights, scale)
    torch.testing.assert_close(REGULARIZERS[name].value(weights, scale), FORMULAS[name](weights, scale))
    slopes = REGULARIZERS[name].derivatives(weights, scale)
    torch.testing.assert_close(slopes[0], first, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(slopes[1], second, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_at_zero(name):
    zero = torch.zeros(1).double()
    regularizer = REGULARIZERS[name]
    assert regularizer.value(zero, 2.0) == 0
    slope, hessian = regularizer.derivatives(zero, 2.0)
    assert slope == 0
    assert hessian == (1 if name == "l2" else 0.5)  # φ_μ''(0) = φ''(0) / μ


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_the_constant_of_self_concordance_is_the_least_that_holds(name, scale):
    regularizer = REGULARIZERS[name]
    weights = torch.linspace(0.05, 30, 20000).double() * scale
    _, second, third = derivatives_by_autograd(name, weights, scale)
    least = float((third.abs() / second ** (regularizer.order / 2)).max())
    bound = regularizer.constant * scale ** (regularizer.order / 2 - 2)
    assert least <= bound * (1 + 1e-9)
    assert least >= 0.99 * bound


def test_the_published_constant_of_the_pseudo_huber_function_is_too_small():
    _, second, third = derivatives_by_autograd("pseudo_huber", torch.tensor([math.sqrt(10)]).double(), 1.0)
    assert float(third.abs() / second**1.3) == pytest.approx(2.5372, abs=1e-4)
    assert REGULARIZERS["pseudo_huber"].constant > 2.5372


@pytest.mark.parametrize(
    ("name", "scale", "constant", "expected"),
    [
        ("pseudo_huber", 1.0, None, 16**0.2 * 2.54),
        ("pseudo_huber", 4.0, 2.0, 16**0.2 * 4**-0.7 * 2),
        ("logarithmic", 4.0, None, math.sqrt(2)),
        ("l2", 4.0, None, 0.0),
    ],
)
def test_the_constant_of_the_whole_regularizer(name, scale, constant, expected):
    optimizer = SCoReGGN([nn.Parameter(torch.zeros(1))], regularizer=name, scale=scale, constant=constant)
    assert self_concordance(optimizer.param_groups[0], 16) == pytest.approx(expected)


# ---- the step -----------------------------------------------------------------------------------------------------------


def network_problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, draw(5, 3), torch.tensor([0, 2, 1, 1, 0])


def system(model, inputs, targets):
    """All outputs' Jacobian (outputs, P), gradient r and curvature Q in them, of the mean cross entropy."""
    values = {name: tensor.detach() for name, tensor in model.named_parameters()}
    rows = jacrev(lambda values: functional_call(model, values, (inputs,)).flatten())(values)
    jacobian = torch.cat([row.flatten(1) for row in rows.values()], 1).numpy()
    probabilities = model(inputs).detach().softmax(1).numpy()
    count, classes = probabilities.shape
    residual = (probabilities - np.eye(classes)[targets]).ravel() / count
    curvature = np.zeros((count * classes, count * classes))
    for n, p in enumerate(probabilities):
        own = slice(n * classes, (n + 1) * classes)
        curvature[own, own] = (np.diag(p) - np.outer(p, p)) / count
    return jacobian, residual, curvature


@pytest.mark.parametrize("solver", ["parameters", "outputs"])
@pytest.mark.parametrize("damping", ["scaled", "published"])
@pytest.mark.parametrize("decrement", ["own_metric", "published"])
def test_the_step_is_that_of_the_authors_system(solver, damping, decrement):
    model, inputs, targets = network_problem()
    weight, scale = 0.03, 0.7
    jacobian, residual, curvature = system(model, inputs, targets)
    start = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy()
    root = np.sqrt(scale**2 + start**2)
    slope, hessian = start / root, scale**2 / root**3

    # -H_h⁻¹ J̃ (λ I + Q̃ J̃ᵀ H_h⁻¹ J̃)⁻¹ e with J̃ = [Jᵀ, λ h'], e = [r; 1], Q̃ = diag(Q, 0); with I for λ I as published.
    outputs = len(residual)
    wide = np.column_stack([jacobian.T, weight * slope])
    larger = np.zeros((outputs + 1, outputs + 1))
    larger[:outputs, :outputs] = curvature
    inner = (weight if damping == "scaled" else 1.0) * np.eye(outputs + 1) + larger @ wide.T @ (wide / hessian[:, None])
    step = -(wide / hessian[:, None]) @ np.linalg.solve(inner, np.append(residual, 1.0))
    eta = np.sqrt(slope @ (slope / hessian)) * (weight if decrement == "published" else np.sqrt(weight))
    factor = 0.8 / (1 + len(start) ** 0.2 * scale**-0.7 * 2.54 * eta)

    optimizer = SCoReGGN.from_model(
        model, lr=0.8, weight=weight, scale=scale, halvings=0, solver=solver, damping=damping, decrement=decrement
    )
    optimizer.step(Objective(Network(model), CrossEntropy(), inputs, targets))
    moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy() - start
    assert optimizer.diagnostics["factor"] == pytest.approx(factor, rel=1e-12)
    np.testing.assert_allclose(moved, factor * step, rtol=1e-7, atol=1e-11)


def test_one_step_to_ridge_regression():
    model = nn.Linear(4, 1, bias=False).double()
    inputs, targets = draw(20, 4), draw(20, 1, seed=1)
    optimizer = SCoReGGN.from_model(model, lr=1.0, regularizer="l2", weight=0.1)
    optimizer.step(Objective(Network(model), SquaredError(), inputs, targets))
    ridge = torch.linalg.solve(inputs.T @ inputs / 20 + 0.1 * torch.eye(4).double(), inputs.T @ targets / 20)
    torch.testing.assert_close(model.weight.detach().T, ridge, rtol=1e-10, atol=1e-12)
    assert optimizer.diagnostics["factor"] == 1


@pytest.mark.parametrize("name", ["pseudo_huber", "logarithmic"])
def test_ill_conditioned_logistic_regression_converges_monotonically(name):
    inputs = draw(200, 50) * torch.logspace(0, -2, 50, dtype=torch.float64)
    targets = (draw(200, 1, seed=1) < inputs @ (3 * draw(50, 1, seed=2))).double()
    model = nn.Linear(50, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    optimizer = SCoReGGN.from_model(model, lr=1.0, regularizer=name, weight=1e-3, halvings=0)
    values, factors = [], []
    for _ in range(60):
        objective = Objective(Network(model), Bernoulli(), inputs, targets)
        optimizer.step(objective)
        values.append(optimizer.diagnostics["objective"])
        factors.append(optimizer.diagnostics["factor"])
    gradient = objective.gradient()[0] + 1e-3 * REGULARIZERS[name].derivatives(model.weight.detach(), 1.0)[0]
    assert gradient.norm() < 1e-12
    assert all(after <= before + 1e-14 for before, after in itertools.pairwise(values))
    assert factors[0] == 1  # at w = 0 the decrement is 0
    assert 0.5 < factors[-1] < 1


# ---- in training --------------------------------------------------------------------------------------------------------


def objectives_of_a_network(halvings, steps=20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    inputs = 3 * draw(40, 3)
    targets = inputs.prod(1, keepdim=True).sin()
    optimizer = SCoReGGN.from_model(model, lr=1.0, regularizer="l2", weight=1e-5, halvings=halvings)
    values, factors = [], []
    for _ in range(steps):
        optimizer.step(Objective(Network(model), SquaredError(), inputs, targets))
        values.append(optimizer.diagnostics["objective"])
        factors.append(optimizer.diagnostics["factor"])
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    expected = SquaredError()(model(inputs), targets) + 1e-5 * weights.square().sum() / 2
    optimizer.step(Objective(Network(model), SquaredError(), inputs, targets))
    assert optimizer.diagnostics["objective"] == pytest.approx(float(expected.detach()), rel=1e-10)
    return values, factors


def test_halving_keeps_the_objective_of_a_network_from_rising():
    def rises(values):
        return sum(after > before for before, after in itertools.pairwise(values))

    values, factors = objectives_of_a_network(halvings=0)
    assert rises(values) > 0
    assert set(factors) == {1.0}
    values, factors = objectives_of_a_network(halvings=20)
    assert rises(values) == 0
    assert all(math.log2(factor).is_integer() for factor in factors)
    assert min(factors) < 1


def test_a_step_that_no_halving_makes_good_is_left_out():
    model, inputs, targets = network_problem()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
        model[2].weight[0, 0] = 7.0
    optimizer = SCoReGGN.from_model(model, halvings=3)
    optimizer.step(Objective(Network(model), CrossEntropy(), inputs, targets))
    assert optimizer.diagnostics["factor"] == 0
    assert model[2].weight.detach()[0, 0] == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resuming_is_bit_exact(dtype, through_a_file):
    model, inputs, targets = network_problem()
    model, inputs = model.to(dtype), inputs.to(dtype)
    optimizer = SCoReGGN.from_model(model)
    for step in range(6):
        if step == 3:
            saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        optimizer.step(Objective(Network(model), CrossEntropy(), inputs, targets))
    resumed = network_problem()[0].to(dtype)
    optimizer = SCoReGGN.from_model(resumed)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for _ in range(3):
        optimizer.step(Objective(Network(resumed), CrossEntropy(), inputs, targets))
    for one, other in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_refuses_what_it_cannot_minimize():
    model, inputs, targets = network_problem()
    optimizer = SCoReGGN.from_model(model, memory_limit=1000)
    with pytest.raises(UserError, match=r"optimizer\.memory_limit=1000"):
        optimizer.check(Objective(Network(model), CrossEntropy(), inputs, targets))
    with pytest.raises(UserError, match=r"accepted: an optbench\.objective\.Objective"):
        optimizer.step(lambda: 1.0)
    for options in ({"lr": 1.5}, {"weight": 0.0}, {"regularizer": "l1"}, {"damping": "none"}, {"floor": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            SCoReGGN.from_model(model, **options)
