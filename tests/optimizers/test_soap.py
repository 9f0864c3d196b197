"""SOAP: entries computed apart, with the authors' first basis and ours, and Adam where there is no basis."""

import pytest
import torch
from golden import A4, B4, START4, assert_is, on_matrix, on_valley
from torch import nn

from optbench.optimizers.soap import SOAP

COMMON = {"lr": 0.1, "weight_decay": 0.01}
AUTHORS = {"first_basis": "eigh", "shift": 0.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"period": 2, **AUTHORS},
            (0.743516639712, -0.303980074222, -0.384228711135, 0.392795535119, 0.703365761300, -0.468149890751),
        ),
        (
            {"period": 100, **AUTHORS},
            (0.932221199262, -0.422082255167, -0.398915086949, 0.333125349546, 0.701284656180, -0.450685307337),
        ),
        (
            {"period": 2, "first_basis": "eigh"},
            (0.743517592417, -0.303980815283, -0.384228688559, 0.392795386252, 0.703365494787, -0.468149906838),
        ),
    ],
)
def test_six_steps(options, expected):
    assert_is(on_matrix(lambda p: SOAP(p, **COMMON, **options), 6, alternating=0.5), *expected)


def test_the_two_stage_basis():
    found = on_matrix(lambda p: SOAP(p, **COMMON, period=2), 6, alternating=0.5, start=START4, a=A4, b=B4)
    expected = (
        *(0.763240696266, -0.202590967727, -0.292390741997, 0.599054675411),
        *(0.379474786985, 0.703586722264, -0.341725066069, -0.339636746906),
    )
    assert_is(found, *expected)


def test_rounding_does_not_choose_the_basis():
    """In the null space of the first factors an eigensolver takes what rounding leaves; Adam is not invariant to it."""

    def end(nudge, **options):
        moved = [[value * (1 + nudge * (-1) ** row) for value in values] for row, values in enumerate(A4)]
        return on_matrix(lambda p: SOAP(p, **COMMON, period=2, **options), 6, 0.5, START4, moved, B4)

    assert (end(1e-15) - end(0.0)).abs().max() < 1e-11
    assert (end(1e-15, **AUTHORS) - end(0.0, **AUTHORS)).abs().max() > 1e-6


def test_vectors_take_the_step_of_adam_but_for_the_first():
    options = {"betas": (0.9, 0.95), "eps": 1e-30, "weight_decay": 0.0}
    found = on_valley(lambda p: SOAP(p, lr=0.05, **options), 11)
    expected = on_valley(lambda p: torch.optim.Adam(p, lr=0.05, **options), 10)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_size_without_a_basis_keeps_its_coordinates():
    ends = [
        on_matrix(lambda p, basis=basis, size=size: SOAP(p, first_basis=basis, max_size=size, period=1000), 8, 0.5)
        for basis, size in (("identity", 10), ("two_stage", 1))
    ]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.ones(2, 3)
    optimizer = SOAP([weight], max_size=2)
    optimizer.step()
    assert {"left", "left_basis"} <= optimizer.state[weight].keys()
    assert not {"right", "right_basis"} & optimizer.state[weight].keys()
