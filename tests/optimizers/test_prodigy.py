"""Prodigy: points computed apart, one estimate for all groups, and steps without a learning rate."""

import itertools

import pytest
import torch
from golden import assert_is, descend, numbers, on_valley
from torch import nn

from optbench.errors import UserError
from optbench.optimizers.prodigy import Prodigy


def test_twelve_steps():
    made = []

    def make(parameters):
        made.append(Prodigy(parameters, weight_decay=0.1))
        return made[-1]

    assert_is(on_valley(make, 12), -0.574589313770, 0.723039953488)
    assert made[0].diagnostics["distance"] == pytest.approx(0.02623311998782, rel=1e-11)


def test_with_bias_correction_and_safeguard():
    found = on_valley(lambda p: Prodigy(p, initial_distance=0.01, bias_correction=True, safeguard_warmup=True), 12)
    assert_is(found, -0.617285530906, 0.682935051050)


def two_groups(**second):
    x, y = nn.Parameter(numbers(-0.5)), nn.Parameter(numbers(0.8))
    optimizer = Prodigy([{"params": [x], "weight_decay": 0.1}, {"params": [y], "weight_decay": 0.0, **second}])
    descend(optimizer, lambda step: (1 - x) ** 2 + 10 * (y - x**2) ** 2, 12)
    return torch.stack([x.detach(), y.detach()])


def test_two_groups_have_one_estimate():
    assert_is(two_groups(), -0.571444007548, 0.727533300728)


def test_two_learning_rates_are_refused():
    with pytest.raises(UserError, match=r"groups have the learning rates \[0\.5, 1\.0\]"):
        two_groups(lr=0.5)


def test_a_step_without_a_learning_rate_changes_nothing():
    point = nn.Parameter(numbers([-0.5, 0.8]))
    optimizer = Prodigy([point], lr=0.0)
    descend(optimizer, lambda step: (1 - point[0]) ** 2 + 10 * (point[1] - point[0] ** 2) ** 2, 3)
    assert_is(point.detach(), -0.5, 0.8)
    assert not optimizer.state[point]


def test_growth_is_limited():
    def distances(growth, steps=8):
        point = nn.Parameter(numbers([-0.5, 0.8]))
        optimizer = Prodigy([point], growth=growth)
        found = []
        for _ in range(steps):
            descend(optimizer, lambda step: (1 - point[0]) ** 2 + 10 * (point[1] - point[0] ** 2) ** 2, 1)
            found.append(optimizer.diagnostics["distance"])
        return found

    def factors(growth):
        # The first estimate replaces d₀, whatever it is.
        estimated = [distance for distance in distances(growth) if distance > 1e-6]
        return [after / before for before, after in itertools.pairwise(estimated)]

    assert max(factors(None)) > 1.5
    assert max(factors(1.5)) <= 1.5 + 1e-12
