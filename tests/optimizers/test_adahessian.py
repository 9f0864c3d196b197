"""AdaHessian: points computed apart with given signs, and the mean over a kernel's window."""

import pytest
import torch
from golden import assert_is, numbers, on_objective
from torch import nn

from optbench.errors import UserError
from optbench.optimizers import adahessian
from optbench.optimizers.adahessian import AdaHessian

SIGNS = [(1, -1), (1, 1), (-1, 1), (1, 1), (1, -1), (1, 1)]


def given_signs(objective, seed, step):
    (parameter,) = objective.network.parameters
    sign = numbers(SIGNS[step])
    return {id(parameter): sign * objective.hvp([sign])[0]}


@pytest.mark.parametrize(
    ("power", "expected"),
    [(1.0, (0.708859132538, 0.288268793001)), (0.5, (0.498226347864, 0.454764923098))],
)
def test_five_steps(monkeypatch, power, expected):
    monkeypatch.setattr(adahessian, "hessian_diagonal", given_signs)
    found = on_objective(
        lambda model: AdaHessian(model.parameters(), lr=0.1, hessian_power=power, weight_decay=0.05), 5
    )
    assert_is(found, *expected)


@pytest.mark.parametrize(("average", "expected"), [("absolute", 2.5), ("signed", 1.5), ("none", None)])
def test_the_mean_over_a_kernels_window(average, expected):
    optimizer = AdaHessian([nn.Parameter(torch.zeros(1, 1, 2, 2))], spatial_average=average)
    kernel = numbers([[[[1, -2], [3, 4]]]])
    found = optimizer._averaged(kernel)
    assert torch.equal(found, kernel if expected is None else torch.full_like(kernel, expected))
    assert torch.equal(optimizer._averaged(kernel[0, 0]), kernel[0, 0])


def test_another_closure_is_refused():
    with pytest.raises(UserError, match="products with second derivatives"):
        AdaHessian([nn.Parameter(torch.zeros(2))]).step(lambda: torch.zeros(()))
