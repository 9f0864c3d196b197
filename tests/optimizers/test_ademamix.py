"""AdEMAMix: points computed apart, its schedules, and AdamW where they do nothing."""

import math

import pytest
import torch
from golden import assert_is, on_valley

from optbench.optimizers.ademamix import AdEMAMix

HALF_LIFE = math.log(2) / -math.log(0.9999)


def test_six_steps():
    found = on_valley(lambda p: AdEMAMix(p, lr=0.05, half_life=HALF_LIFE, alpha=5.0, warmup=10, weight_decay=0.1), 6)
    assert_is(found, -0.740579791823, 0.504295955552)


def test_equals_pytorch_optimizer():
    theirs = pytest.importorskip("pytorch_optimizer").AdEMAMix
    # It takes the same schedules, and no decay, which it adds to the gradient by default.
    ends = [
        on_valley(lambda p: AdEMAMix(p, lr=0.01, half_life=HALF_LIFE, alpha=5.0, warmup=40), 100),
        on_valley(
            lambda p: theirs(p, lr=0.01, betas=(0.9, 0.999, 0.9999), alpha=5.0, t_alpha_beta3=40, weight_decay=0.0), 100
        ),
    ]
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)


def test_without_the_slow_average_it_is_adamw():
    options = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    ends = [
        on_valley(lambda p: AdEMAMix(p, alpha=0.0, **options), 20),
        on_valley(lambda p: torch.optim.AdamW(p, **options), 20),
    ]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_the_half_life_grows_linearly():
    optimizer = AdEMAMix([torch.nn.Parameter(torch.zeros(1))], half_life=100.0, warmup=50)
    fast = math.log(2) / -math.log(0.9)
    for step in (0, 10, 25, 50, 80):
        share = min(step / 50, 1)
        expected = (1 - share) * fast + share * 100
        assert math.log(2) / -math.log(optimizer._slow_decay(step, 0.9)) == pytest.approx(expected, rel=1e-12)
