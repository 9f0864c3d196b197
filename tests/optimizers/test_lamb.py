import numpy as np
import pytest
import torch
from torch import nn

from optbench.optimizers import LAMB


def formula(lr, beta1, beta2, eps, decay, bounds=(0.0, np.inf), corrected=True, always_adapt=False):
    def update(name, w, g, memory, t):
        memory["m"] = beta1 * memory.get("m", 0) + (1 - beta1) * g
        memory["v"] = beta2 * memory.get("v", 0) + (1 - beta2) * g**2
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if corrected else (1.0, 1.0)
        r = memory["m"] / c1 / (np.sqrt(memory["v"] / c2) + eps)
        if w.ndim <= 1 and not always_adapt:
            return lr * r
        u = r + decay * w
        return lr * np.clip(np.linalg.norm(w), *bounds) / np.linalg.norm(u) * u

    return update


@pytest.mark.parametrize("clamp", [None, (0.5, 1.0)])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("always_adapt", [False, True])
def test_follows_its_formula(problem, assert_close, clamp, corrected, always_adapt):
    model = problem.model()
    optimizer = LAMB(
        model.parameters(),
        lr=0.05,
        betas=(0.8, 0.95),
        eps=1e-3,
        weight_decay=0.1,
        clamp=clamp,
        bias_correction=corrected,
        always_adapt=always_adapt,
    )
    problem.train(model, optimizer, 10)
    bounds = clamp or (0.0, np.inf)
    assert_close(model, problem.solve(formula(0.05, 0.8, 0.95, 1e-3, 0.1, bounds, corrected, always_adapt), 10))


def test_agrees_with_pytorch_optimizer(problem):
    """That code corrects no bias, adapts vectors too, clips the norm to [0, 10], and adds epsilon to ‖u‖: tiny here.

    Its ``adam_debias=True`` turns off a division of the whole step by 1 - β₁ᵗ, after the ratio.
    """
    theirs = pytest.importorskip("pytorch_optimizer").Lamb
    common = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-14}
    models = [problem.model(), problem.model()]
    mine = LAMB(models[0].parameters(), clamp=(0, 10), bias_correction=False, always_adapt=True, **common)
    other = theirs(models[1].parameters(), weight_decouple=False, adam_debias=True, **common)
    problem.train(models[0], mine, 10)
    problem.train(models[1], other, 10)
    for ours, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 7.0, 1e4])
def test_the_first_step_does_not_depend_on_the_scale_of_a_layers_gradient(scale):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    gradient = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    # m̂ = g and v̂ = g² in the first step, so that r is the sign of the gradient.
    u = gradient.sign() + 0.1 * weight
    parameter = nn.Parameter(weight.clone())
    parameter.grad = scale * gradient
    LAMB([parameter], lr=0.02, eps=0.0, weight_decay=0.1).step()
    torch.testing.assert_close(parameter.detach(), weight - 0.02 * weight.norm() / u.norm() * u)


@pytest.mark.parametrize(("clamp", "length"), [(None, 5.0), ((0.0, 2.0), 2.0), ((10.0, 20.0), 10.0)])
def test_the_length_of_a_step_is_lr_times_phi(clamp, length):
    parameter = nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64))
    before = parameter.detach().clone()
    optimizer = LAMB([parameter], lr=0.01, weight_decay=0.3, clamp=clamp)
    parameter.grad = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    optimizer.step()
    assert (parameter - before).norm().item() == pytest.approx(0.01 * length, rel=1e-12)


def test_a_zero_norm_gives_the_plain_adam_step():
    parameter = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    parameter.grad = torch.tensor([[1.0, -2.0], [3.0, -4.0]], dtype=torch.float64)
    LAMB([parameter], lr=0.1, eps=0.0).step()
    torch.testing.assert_close(parameter.detach(), -0.1 * parameter.grad.sign())


def test_without_weight_decay_the_ratio_still_holds():
    parameter = nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64))
    parameter.grad = torch.ones_like(parameter)
    LAMB([parameter], lr=0.1, eps=0.0, weight_decay=0.0).step()
    # ‖w‖ = 6, r = 1 everywhere, ‖r‖ = 2: the ratio is 3.
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 2.7, dtype=torch.float64))


@pytest.mark.parametrize("options", [{"lr": -1}, {"betas": (0.9, 1.0)}, {"clamp": (2, 1)}, {"eps": -1.0}])
def test_refuses_what_makes_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LAMB([nn.Parameter(torch.ones(1))], **options)
