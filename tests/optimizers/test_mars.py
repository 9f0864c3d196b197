"""MARS: points computed apart, approximate and exact, and AdamW where nothing is corrected."""

import pytest
import torch
from golden import assert_is, on_valley
from torch import nn

from optbench.errors import UserError
from optbench.optimizers.mars import MARS

BATCHES = (0.01, (0.0, 0.5))


@pytest.mark.parametrize(
    ("exact", "first", "expected"),
    [
        (False, "zero", (-0.692317311583, 0.562945599312)),
        (False, "same", (-0.686073311623, 0.567398663240)),
        (True, "zero", (-0.714083259879, 0.547637382313)),
        (True, "same", (-0.709660846099, 0.548482533306)),
    ],
)
def test_five_steps_on_two_batches(exact, first, expected):
    found = on_valley(
        lambda p: MARS(p, lr=0.05, weight_decay=0.1, exact=exact, first=first, vectors=True), 5, batches=BATCHES
    )
    assert_is(found, *expected)


def test_a_long_correction_is_scaled_to_one():
    found = on_valley(lambda p: MARS(p, lr=0.05, weight_decay=0.1, first="zero", vectors=True), 5)
    assert_is(found, -0.703591, 0.533316, tolerance=1e-6)


def test_vectors_take_the_step_of_adamw():
    options = {"lr": 0.05, "betas": (0.95, 0.99), "weight_decay": 0.1}
    ends = [on_valley(lambda p: MARS(p, **options), 20), on_valley(lambda p: torch.optim.AdamW(p, **options), 20)]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_exact_needs_a_closure():
    with pytest.raises(UserError, match="exact=True needs a closure"):
        MARS([nn.Parameter(torch.zeros(2, 2))], exact=True).step()
