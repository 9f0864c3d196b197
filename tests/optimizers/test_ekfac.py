"""EKFAC: what it has beyond K-FAC (tests/optimizers/test_kfac.py holds both to the same promises)."""

import inspect

import pytest
import torch
from torch import nn

from optbench.objective import Objective
from optbench.objective.execution import Network
from optbench.objective.losses import CrossEntropy
from optbench.optimizers.ekfac import EKFAC
from optbench.optimizers.kfac import KFAC


def problem(step=0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(9, 3, dtype=torch.float64, generator=generator)
    return model, inputs, torch.randint(0, 3, (9,), generator=generator)


def test_the_step_is_by_the_second_moments_of_per_example_gradients_along_the_bases():
    """With empirical targets every per-example gradient is one of autograd's: the whole step by hand."""
    model, inputs, targets = problem()
    start = [parameter.detach().clone() for parameter in model.parameters()]
    each = []
    for one, label in zip(inputs, targets, strict=True):
        loss = nn.functional.cross_entropy(model(one.unsqueeze(0)), label.unsqueeze(0))
        each.append(torch.autograd.grad(loss, list(model.parameters())))
    optimizer = EKFAC(model, lr=0.1, damping=0.02, momentum=0.0, kl_clip=None, targets="empirical")
    optimizer.step(Objective(Network(model), CrossEntropy(), inputs, targets))
    before = inputs
    for number in range(2):
        weights, biases = (torch.stack([grads[2 * number + part] for grads in each]) for part in range(2))
        gradients = torch.cat([weights, biases.unsqueeze(2)], 2)  # g a^T, and g is the bias's
        rows = torch.cat([before, torch.ones(9, 1, dtype=torch.float64)], 1)
        input_basis = torch.linalg.eigh(rows.T @ rows / 9)[1]
        output_basis = torch.linalg.eigh(biases.T @ biases / 9)[1]
        moments = (output_basis.T @ gradients @ input_basis).square().mean(0)
        turned = output_basis.T @ gradients.mean(0) @ input_basis / (moments + 0.02)
        step = 0.1 * output_basis @ turned @ input_basis.T
        weight, bias = list(model.parameters())[2 * number : 2 * number + 2]
        torch.testing.assert_close(weight, start[2 * number] - step[:, :-1], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(bias, start[2 * number + 1] - step[:, -1], rtol=1e-8, atol=1e-10)
        before = torch.tanh(inputs @ start[0].T + start[1])


def test_between_new_bases_the_moments_are_averaged_as_the_factors_are():
    model, _, _ = problem()
    optimizer = EKFAC(model, lr=0.0, factor_period=1, inverse_period=4, factor_decay=0.6, targets="exact")
    found = []
    for step in range(8):
        _, inputs, targets = problem(step)
        optimizer.step(Objective(Network(model), CrossEntropy(), inputs, targets))
        found.append(([moments.clone() for moments in optimizer.moments], optimizer.bases))
    # After the updates 1, 2 and 4 of the factors, and at the end of each period.
    new = [step for step in range(8) if step == 0 or found[step][1] is not found[step - 1][1]]
    assert new == [0, 1, 3, 4]
    for step, newest in ((2, 0.5), (5, 0.5), (6, 0.4), (7, 0.4)):
        fresh, inputs, targets = problem(step)
        fresh.load_state_dict(model.state_dict())
        alone = EKFAC(fresh, lr=0.0, targets="exact")
        alone.steps, alone.bases, alone.moments = 20, found[step][1], [m * 0 for m in found[step][0]]
        alone.called = [True] * 2
        alone.factors.current = optimizer.factors.current
        alone.step(Objective(Network(fresh), CrossEntropy(), inputs, targets))
        for after, before, batch in zip(found[step][0], found[step - 1][0], alone.moments, strict=True):
            torch.testing.assert_close(after, (1 - newest) * before + newest * batch, rtol=1e-9, atol=1e-12)


def test_the_arguments_are_those_of_kfac_but_for_its_inverses():
    theirs = dict(inspect.signature(KFAC).parameters)
    del theirs["inverse"], theirs["placement"]
    assert list(inspect.signature(EKFAC).parameters.items()) == list(theirs.items())
    optimizer = EKFAC(nn.Linear(2, 2), 0.3, 0.5, damping=0.7, max_factor_size=11, seed=5)
    assert [optimizer.param_groups[0][name] for name in ("lr", "momentum")] == [0.3, 0.5]
    assert (optimizer.damping, optimizer.factors.seed) == (0.7, 5)
    assert EKFAC(nn.Linear(2, 2)).damping == KFAC(nn.Linear(2, 2)).damping


@pytest.mark.parametrize("option", ["inverse", "placement", "nonsense"])
@pytest.mark.parametrize("make", [EKFAC, EKFAC.from_model])
def test_options_that_it_has_not_are_refused(make, option):
    with pytest.raises(TypeError, match=f"EKFAC: got an unexpected keyword argument '{option}'"):
        make(nn.Linear(2, 2), **{option: 1})
