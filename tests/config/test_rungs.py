"""The steps at which a search pauses a run; digits has 1293 training examples, 11 steps of 128 an epoch."""

import numpy as np
import pytest

from optbench.config import RunConfig, compose, rungs
from optbench.config.durations import BatchPlan, Evaluations, Horizon
from optbench.config.schema import Growth, spacing
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
    evaluations = Evaluations.of(Horizon(BatchPlan(32), 1000, 100), spacing(period))
    assert evaluations.from_step(step) == expected
    assert evaluations.due(step) == (step == expected)


def test_evaluations_that_grow_resolve_every_time_to_a_share_of_it():
    evaluations = Evaluations.of(Horizon(BatchPlan(32), 1000, 100), spacing("x1.05"))
    steps = [step for step in range(1, 5000) if evaluations.due(step)]
    assert steps[:41] == [*range(1, 41), 42]
    shares = np.divide(steps[41:], steps[40:-1])
    assert shares.max() <= 1.05
    assert shares.min() > 1.02
    assert [evaluations.from_step(step) for step in (0, 1, 40, 41, 42)] == [0, 1, 40, 42, 42]
    # Another one, asked in another order, has the same steps.
    other = Evaluations.of(Horizon(BatchPlan(32), 1000, 100), Growth(1.05))
    assert other.from_step(4000) == next(step for step in steps if step >= 4000)
    assert other.due(41) is False


@pytest.mark.parametrize("word", ["x1", "x0.5", "x", "1.05x", "x-2", "0", "0%", "xx2"])
def test_no_spacing(word):
    with pytest.raises(ValueError, match=word):
        spacing(word)
