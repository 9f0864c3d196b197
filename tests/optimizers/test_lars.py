import numpy as np
import pytest
import torch
from torch import nn

from optbench.optimizers import LARS


def formula(lr, mu, beta, eta, eps=0.0, in_momentum=False, nesterov=False, clip=False, always_adapt=False):
    """LARS in NumPy; ``lr`` is a function of t."""

    def update(name, w, g, memory, t):
        ratio, decay, rate = 1.0, 0.0, lr(t)
        if w.ndim > 1 or always_adapt:
            decay = beta
            if np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
                ratio = eta * np.linalg.norm(w) / (np.linalg.norm(g) + beta * np.linalg.norm(w) + eps)
                ratio = min(ratio / rate, 1.0) if clip else ratio
        u = ratio * (g + decay * w) * (rate if in_momentum else 1.0)
        memory["v"] = mu * memory.get("v", 0) + u
        step = u + mu * memory["v"] if nesterov else memory["v"]
        return step if in_momentum else rate * step

    return update


def constant(t):
    return 0.5


def dropping(t):
    return 0.5 if t < 4 else 0.05


def train(problem, schedule, steps=10, **options):
    model = problem.model()
    optimizer = LARS(model.parameters(), lr=schedule(1), weight_decay=0.1, trust_coefficient=0.02, **options)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule(step + 1)
        problem.train(model, optimizer, 1, first=step)
    return model


@pytest.mark.parametrize("schedule", [constant, dropping])
@pytest.mark.parametrize("in_momentum", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("always_adapt", [False, True])
def test_follows_its_formula(problem, assert_close, schedule, in_momentum, nesterov, always_adapt):
    model = train(problem, schedule, lr_in_momentum=in_momentum, nesterov=nesterov, always_adapt=always_adapt, eps=1e-3)
    reference = formula(schedule, 0.9, 0.1, 0.02, 1e-3, in_momentum, nesterov, always_adapt=always_adapt)
    assert_close(model, problem.solve(reference, 10))


def test_clip_bounds_the_rate_by_plain_momentum(problem, assert_close):
    # lr 1e-3 is below most of the local rates, 0.5 above all of them: both branches of the minimum are taken.
    for rate in (1e-3, 0.5):
        model = train(problem, lambda t, rate=rate: rate, clip=True)
        assert_close(model, problem.solve(formula(lambda t, rate=rate: rate, 0.9, 0.1, 0.02, 1e-8, clip=True), 10))


def test_the_two_forms_agree_until_the_learning_rate_changes(problem):
    for schedule, same in ((constant, True), (dropping, False)):
        port, paper = (train(problem, schedule, lr_in_momentum=flag) for flag in (False, True))
        assert torch.allclose(port.weight, paper.weight, rtol=1e-12, atol=0) == same


def test_agrees_with_pytorch_optimizer(problem):
    """That code has no epsilon, and the same exclusions."""
    theirs = pytest.importorskip("pytorch_optimizer").LARS
    options = {"lr": 0.3, "weight_decay": 0.1, "momentum": 0.8, "trust_coefficient": 0.05, "nesterov": True}
    models = [problem.model(), problem.model()]
    problem.train(models[0], LARS(models[0].parameters(), eps=0.0, **options), 10)
    problem.train(models[1], theirs(models[1].parameters(), **options), 10)
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_zero_norm_gives_the_plain_step(weight, gradient):
    parameter = nn.Parameter(torch.full((2, 2), weight, dtype=torch.float64))
    parameter.grad = torch.full_like(parameter, gradient)
    LARS([parameter], lr=0.1, weight_decay=0.5).step()
    expected = weight - 0.1 * (gradient + 0.5 * weight)
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), expected, dtype=torch.float64))


def test_gradients_are_left_as_they_are():
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.3)
    optimizer = LARS(parameters, lr=0.1, weight_decay=0.5, nesterov=True)
    optimizer.step()
    optimizer.step()
    assert all((parameter.grad == 0.3).all() for parameter in parameters)


@pytest.mark.parametrize(
    "options", [{"lr": -1}, {"momentum": 1.0}, {"trust_coefficient": 0.0}, {"eps": -1.0}, {"weight_decay": -0.1}]
)
def test_refuses_what_makes_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LARS([nn.Parameter(torch.ones(1))], **options)
