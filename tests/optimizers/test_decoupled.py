import pytest
import torch
from torch import nn

from optbench.optimizers import with_decoupled_weight_decay


def test_decoupled_adam_is_torchs_adamw(problem):
    models = [problem.model(), problem.model()]
    decayed = with_decoupled_weight_decay(torch.optim.Adam)
    ours = decayed([{"params": models[0].parameters(), "decoupled_decay": 0.3}], lr=0.05)
    problem.train(models[0], ours, 10)
    problem.train(models[1], torch.optim.AdamW(models[1].parameters(), lr=0.05, weight_decay=0.3), 10)
    for mine, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_taken_before_the_decay_and_the_loss_returned():
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = with_decoupled_weight_decay(torch.optim.SGD)([{"params": [weight], "decoupled_decay": 0.5}], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    # (1 - 0.1 · 0.5) · 2 - 0.1 · 4: with the gradient at the decayed weight it would be 1.9 - 0.38.
    assert weight.item() == pytest.approx(1.5, rel=1e-12)


def test_without_a_closure_and_without_a_gradient():
    moved, still = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = with_decoupled_weight_decay(torch.optim.SGD)(
        [{"params": [moved, still], "decoupled_decay": 0.5}], lr=0.1
    )
    moved.grad = torch.zeros(1)
    assert optimizer.step() is None
    assert moved.item() == pytest.approx(0.95)
    assert still.item() == 1.0


def test_hooks_run_once_a_step():
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.zeros(1)
    # An instance of the base class makes torch wrap the base's step in hooks.
    torch.optim.RMSprop([weight])
    optimizer = with_decoupled_weight_decay(torch.optim.RMSprop)([weight])
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.step()
    assert calls == ["before", "after"]


def test_one_class_for_each_base():
    assert with_decoupled_weight_decay(torch.optim.SGD) is with_decoupled_weight_decay(torch.optim.SGD)
