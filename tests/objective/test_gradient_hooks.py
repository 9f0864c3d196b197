"""Hooks are called at every gradient of a step, and the history has the norm of the first."""

import torch
from torch import nn

from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import SquaredError
from optbench.optimizers import SAM


def objective(clip_norm=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    inputs, targets = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    return Objective(Network(model), SquaredError(), inputs, targets, Execution(clip_norm=clip_norm))


def flat(found):
    return torch.cat([each.grad.flatten() for each in found.network.parameters])


def test_the_norm_is_that_of_the_first_gradient_of_a_step_before_it_was_clipped():
    found, other = objective(clip_norm=0.01), objective()
    other()
    SAM(found.network.parameters, lr=0.1, radius=0.5).step(found)
    assert found.evaluations == 2
    torch.testing.assert_close(found.gradient_norm, flat(other).norm())


def test_hooks_hear_of_every_evaluation_with_the_clipped_gradient_there_and_may_change_it():
    found, heard = objective(clip_norm=0.01), []

    def double(told):
        assert told is found
        heard.append((told.evaluations, float(flat(told).norm())))
        for each in told.network.parameters:
            each.grad.mul_(2)

    found.on_gradient.append(double)
    found()
    found()
    assert [number for number, _ in heard] == [1, 2]
    torch.testing.assert_close(torch.tensor([norm for _, norm in heard]), torch.tensor([0.01, 0.01]))
    torch.testing.assert_close(float(flat(found).norm()), 0.02)


def test_an_optimizer_need_not_switch_gradients_on_to_evaluate():
    found = objective()
    with torch.no_grad():
        found()
    assert float(flat(found).norm()) > 0
