"""Sophia: points computed apart with given signs."""

import pytest
from golden import assert_is, numbers, on_objective

from optbench.optimizers import sophia
from optbench.optimizers.sophia import Sophia

SIGNS = [(1, -1), (1, 1), (-1, 1), (1, 1), (1, -1), (1, 1)]


def given_signs(objective, seed, number):
    (parameter,) = objective.network.parameters
    sign = numbers(SIGNS[number])
    return {id(parameter): sign * objective.hvp([sign])[0]}


@pytest.mark.parametrize(
    ("lr", "gamma", "expected"),
    [
        (0.05, 0.5, (0.532686533716, 0.442562219406)),
        (0.1, 1.0, (0.479214486065, 0.572767262140)),
        (0.01, 0.01, (0.746107892054, 0.248902097951)),
    ],
)
def test_five_steps(monkeypatch, lr, gamma, expected):
    monkeypatch.setattr(sophia, "hessian_diagonal", given_signs)
    found = on_objective(lambda model: Sophia(model.parameters(), lr=lr, gamma=gamma, period=2), 5)
    assert_is(found, *expected)
