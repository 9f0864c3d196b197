"""The steps at which a search pauses a run; digits has 1293 training examples, 11 steps of 128 an epoch."""

import pytest

from optbench.config import RunConfig, compose, rungs
from optbench.config.durations import next_evaluation
from optbench.errors import UserError

DIGITS = ["dataset=digits", "model=mlp", "batch=128"]


def found(shares, *words):
    return rungs(RunConfig.of(compose([*DIGITS, *words])), shares)


@pytest.mark.parametrize(
    ("words", "shares", "expected"),
    [
        (["budget.steps=90", "eval_every=1"], [1 / 9, 1 / 3], (10, 30)),
        (["budget.steps=90", "eval_every=7"], [1 / 9, 1 / 3], (14, 35)),
        (["budget.steps=81", "eval_every=27"], [1 / 3], (27,)),
        # ceil(10 * 1293 / 128) = 102 steps, evaluated after 11, 22, 33, 44, ...: the shares are 3.8, 11.3 and 34 steps.
        (["budget.epochs=10", "eval_every=1epochs"], [1 / 27, 1 / 9, 1 / 3], (11, 22, 44)),
        (["budget.samples=12800", "eval_every=10%"], [0.25, 0.5], (30, 50)),
        (["budget.steps=90", "eval_every=1"], [], ()),
        (["budget.steps=90", "eval_every=1", "dataset.train_limit=64", "batch=8"], [0.1], (9,)),
    ],
)
def test_rungs_are_the_evaluations_at_or_after_the_shares(words, shares, expected):
    assert found(shares, *words) == expected


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        (["budget.steps=90", "eval_every=90"], [1 / 3]),
        (["budget.steps=90", "eval_every=45"], [1 / 9, 1 / 3]),
        (["budget.steps=90", "eval_every=40"], [1 / 3, 0.99]),
        (["budget.steps=2", "eval_every=1"], [1 / 9, 1 / 3]),
    ],
)
def test_too_few_evaluations_are_refused_with_what_suffices(words, shares):
    with pytest.raises(
        UserError, match=r"eval_every=\d+: a run of \d+ steps is evaluated every \d+, too seldom for rungs"
    ):
        found(shares, *words)


def test_a_run_whose_length_is_not_known_is_refused():
    composed = compose([*DIGITS, "budget.steps=90"])
    info = {key: value for key, value in composed["dataset"]["info"].items() if key != "size"}
    config = RunConfig.of({**composed, "dataset": {**composed["dataset"], "info": info}})
    with pytest.raises(UserError, match="dataset=digits: its configuration does not state its size"):
        rungs(config, [0.5])


@pytest.mark.parametrize(("step", "period", "expected"), [(0, 5, 0), (1, 5, 5), (5, 5, 5), (6, 5, 10), (7, 1, 7)])
def test_the_next_evaluation(step, period, expected):
    assert next_evaluation(step, period) == expected
