"""SAM and ASAM: points computed apart, the global norm, and what is restored."""

import pytest
import torch
from golden import assert_is, descend, numbers, on_valley
from torch import nn

from optbench.errors import UserError
from optbench.optimizers.sam import SAM


def sam(**options):
    return lambda parameters: SAM(parameters, lr=0.01, momentum=0.0, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"radius": 0.05}, (-0.675825363051, 0.545946858454)),
        ({"radius": 0.05, "weight_decay": 0.1}, (-0.673893484273, 0.543916791222)),
        ({"radius": 0.0}, (-0.653767, 0.574914)),
    ],
)
def test_three_steps(options, expected):
    assert_is(on_valley(sam(**options), 3), *expected, tolerance=1e-11 if options["radius"] else 1e-6)


@pytest.mark.parametrize(
    ("eta", "expected"), [(0.01, (-0.356640362780, 0.622350437482)), (0.0, (-0.364742687346, 0.621274802597))]
)
def test_the_adaptive_radius(eta, expected):
    # As one matrix, because tensors of one dimension have T = 1.
    point = nn.Parameter(numbers([[-0.5, 0.8]]))
    optimizer = SAM([point], lr=0.01, momentum=0.0, radius=0.5, adaptive=True, eta=eta)
    descend(optimizer, lambda step: (1 - point[0, 0]) ** 2 + 10 * (point[0, 1] - point[0, 0] ** 2) ** 2, 3)
    assert_is(point.detach()[0], *expected)


def test_vectors_have_an_adaptive_radius_of_one():
    ends = [on_valley(sam(radius=0.05, adaptive=adaptive), 3) for adaptive in (True, False)]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


def test_one_norm_for_all_tensors():
    x, y = nn.Parameter(numbers(-0.5)), nn.Parameter(numbers(0.8))
    optimizer = SAM([{"params": [x]}, {"params": [y]}], lr=0.01, momentum=0.0, radius=0.05)
    descend(optimizer, lambda step: (1 - x) ** 2 + 10 * (y - x**2) ** 2, 3)
    assert_is(torch.stack([x.detach(), y.detach()]), -0.675825363051, 0.545946858454)


def test_the_gradient_of_the_whole_batch_moves_the_point():
    # ½ (aᵀθ - b)² for a = (1, 2), b = 1 and a = (3, -1), b = 0: a radius for each example would end at .238746, -.211828.
    point = nn.Parameter(numbers([0.5, -0.5]))
    optimizer = SAM([point], lr=0.1, momentum=0.0, radius=0.1)
    inputs, targets = numbers([[1, 2], [3, -1]]), numbers([1, 0])
    (value,) = descend(optimizer, lambda step: 0.5 * (inputs @ point - targets).square().mean(), 1)
    assert_is(point.detach(), 0.237835292688, -0.228072822686)
    assert float(value) == pytest.approx(0.5 * (1.5**2 + 2.0**2) / 2)  # at the weights where the step began


def test_a_step_needs_a_closure():
    with pytest.raises(UserError, match="needs a closure"):
        SAM([nn.Parameter(numbers([1.0]))]).step()


def test_a_gradient_of_zero_is_no_direction():
    point = nn.Parameter(numbers([1.0, 2.0]))
    descend(SAM([point], lr=0.1), lambda step: (point * 0).sum(), 2)
    assert_is(point.detach(), 1.0, 2.0)
