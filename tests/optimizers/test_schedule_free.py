"""Schedule-free SGD and AdamW: points computed apart, and a momentum that changes on the way."""

import pytest
import torch
from golden import assert_is, numbers, valley
from torch import nn

from optbench.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD


def trained(make, steps, rate, warmup, momentum=lambda step: None):
    """x, y and z after ``steps`` updates with a linear warm-up."""
    point = nn.Parameter(numbers([-0.5, 0.8]))
    optimizer = make([point])
    (group,) = optimizer.param_groups
    for step in range(steps):
        group["lr"] = rate * min((step + 1) / warmup, 1.0)
        if momentum(step) is not None:
            group["betas"] = (momentum(step), group["betas"][1])
        optimizer.zero_grad()
        valley(point).backward()
        optimizer.step()
    return optimizer.evaluation_parameters()[point], point.detach(), optimizer.state[point]["iterate"]


def test_five_steps_of_sgd():
    x, _, _ = trained(lambda p: ScheduleFreeSGD(p, weight_decay=0.1), 5, 0.02, 2)
    assert_is(x, -0.656705853151, 0.493478820458)


def test_five_steps_of_adamw():
    x, y, z = trained(lambda p: ScheduleFreeAdamW(p, weight_decay=0.1), 5, 0.1, 2)
    assert_is(x, -0.678115561764, 0.567555429341)
    assert_is(y, -0.681605645506, 0.558512439884)
    assert_is(z, -0.713016399186, 0.477125534771)


def test_y_lies_between_x_and_z_whatever_the_momentum_was():
    x, y, z = trained(lambda p: ScheduleFreeAdamW(p), 7, 0.1, 1, lambda step: 0.9 if step < 5 else 0.5)
    torch.testing.assert_close(y, 0.5 * x + 0.5 * z, rtol=1e-14, atol=0)


def test_without_warmup_x_is_the_mean_of_the_iterates():
    point = nn.Parameter(numbers([-0.5, 0.8]))
    optimizer = ScheduleFreeSGD([point], lr=0.01, momentum=0.5)
    iterates = []
    for _ in range(6):
        optimizer.zero_grad()
        valley(point).backward()
        optimizer.step()
        iterates.append(optimizer.state[point]["iterate"].clone())
    torch.testing.assert_close(
        optimizer.evaluation_parameters()[point], torch.stack(iterates).mean(0), rtol=1e-13, atol=0
    )


def test_a_rate_of_zero_moves_nothing():
    x, y, z = trained(lambda p: ScheduleFreeAdamW(p, weight_decay=0.1), 3, 0.0, 1)
    for point in (x, y, z):
        assert_is(point, -0.5, 0.8, tolerance=1e-15)


@pytest.mark.parametrize("kind", [ScheduleFreeSGD, ScheduleFreeAdamW])
def test_equals_pytorch_optimizer(kind):
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    theirs = getattr(pytorch_optimizer, kind.__name__)
    point = nn.Parameter(numbers([-0.5, 0.8]))
    other = theirs([point], lr=0.01, warmup_steps=10, weight_decay=0.1, weight_decouple=False)
    other.train()
    for _ in range(100):
        other.zero_grad()
        valley(point).backward()
        other.step()
    x, y, _ = trained(lambda p: kind(p, weight_decay=0.1), 100, 0.01, 10)
    torch.testing.assert_close(y, point.detach(), rtol=1e-10, atol=1e-12)
    other.eval()
    torch.testing.assert_close(x, point.detach(), rtol=1e-10, atol=1e-12)
