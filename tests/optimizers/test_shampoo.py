"""Shampoo: entries computed apart, roots of singular factors, and Adam where it preconditions nothing."""

import pytest
import torch
from golden import assert_is, on_matrix, on_valley
from torch import nn

from optbench.optimizers.shampoo import Shampoo

COMMON = {"lr": 0.125, "betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 0.01, "relative_eps": False}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"period": 1},
            (0.900418497635, 0.054565498285, -0.616418135748, 0.593276381530, 0.822946870977, 0.031930460179),
        ),
        (
            {"period": 2, "start": 4},
            (0.915866064915, 0.100443913280, -0.485958277940, 0.573892000103, 0.823993717945, -0.013916714118),
        ),
        (
            {"period": 1, "graft": "none"},
            (0.744283285571, -0.055169382398, -0.289077122162, 0.432331940151, 0.678408409162, -0.199279921730),
        ),
    ],
)
def test_five_steps(options, expected):
    assert_is(on_matrix(lambda p: Shampoo(p, **COMMON, **options), 5), *expected)


@pytest.mark.parametrize("where", ["vectors", "sizes", "start"])
def test_it_is_adamw_where_nothing_is_preconditioned(where):
    options = {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}
    run = on_valley if where == "vectors" else on_matrix
    special = {"vectors": {}, "sizes": {"max_size": 1}, "start": {"start": 100}}[where]
    ends = [
        run(lambda p: Shampoo(p, period=1, **special, **options), 20),
        run(lambda p: torch.optim.AdamW(p, **options), 20),
    ]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_a_root_of_a_singular_factor():
    optimizer = Shampoo([nn.Parameter(torch.zeros(2, 3))], eps=1e-4)
    vector = torch.tensor([3.0, 0, 4], dtype=torch.float64)
    found = optimizer._root(torch.outer(vector, vector))
    shift = 1e-4 * 25 / 3
    unit = vector / 5
    expected = (25 + shift) ** -0.25 * torch.outer(unit, unit) + shift**-0.25 * (
        torch.eye(3).double() - torch.outer(unit, unit)
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_a_kernel_is_a_matrix_of_outputs_and_the_rest():
    torch.manual_seed(0)
    kernel, gradient = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    ends = []
    for shape in ((4, 2, 3), (4, 6)):
        weight = nn.Parameter(kernel.reshape(shape).clone())
        optimizer = Shampoo([weight], period=1)
        for _ in range(3):
            weight.grad = gradient.reshape(shape).clone()
            optimizer.step()
        ends.append(weight.detach().reshape(-1))
    assert torch.equal(*ends)
