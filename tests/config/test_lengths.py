"""Durations that do not fit into the run; digits has 1293 training examples, 11 steps of 128 an epoch."""

import pytest

from optbench.config import RunConfig, check_lengths, compose
from optbench.errors import UserError

DIGITS = ["dataset=digits", "model=mlp", "batch=128"]
EPOCH = ["budget.epochs=1"]  # ceil(1293 / 128) = 11 steps, 1408 samples, 1408 / 1293 = 1.089 epochs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget.steps=5", "schedule.warmup=5epochs"], "schedule.warmup=5epochs: must be shorter than the run, which has "
         "0.495 epochs (5 steps)"),
        ([*EPOCH, "schedule.warmup=1epochs"], "schedule.warmup=1epochs: must be shorter than the run, which has 1.09 epochs "
         "(11 steps)"),
        ([*EPOCH, "schedule.warmup=1300samples"], "schedule.warmup=1300samples: must be shorter than the run, which has "
         "1408 samples (11 steps)"),
        ([*EPOCH, "schedule.warmup=11"], "schedule.warmup=11: must be shorter than the run, which has 11 steps"),
        ([*EPOCH, "schedule.warmup=100%"], "schedule.warmup=100%: must be shorter than the run, which has 11 steps"),
        # The budget and the warm-up are stretched by the same factor, in whose epochs the user thinks.
        ([*EPOCH, "budget.regime_adaptation=true", "base_batch=32", "schedule.warmup=2epochs"],
         "which has 1.01 epochs (41 steps)"),  # ceil(4 * 1293 / 128) = 41; 41 * 128 / 1293 / 4 = 1.015
        ([*EPOCH, "averaging=swa", "averaging.start=1epochs"], "averaging.start=1epochs: must be before the end, at 1.09 "
         "epochs (11 steps)"),
        ([*EPOCH, "schedule=multistep", "schedule.milestones=[2000]"], "schedule.milestones=[2000]: the run ends before, at "
         "11 steps"),
        ([*EPOCH, "schedule=multistep", "schedule.milestones=[2epochs,3epochs]"], "schedule.milestones=[2epochs,3epochs]: the "
         "run ends before, at 1.09 epochs (11 steps)"),
        ([*EPOCH, "schedule=batch_growth", "schedule.milestones=[1408samples]"], "at 1408 samples (11 steps)"),
        ([*EPOCH, "schedule=step", "schedule.every=11"], "schedule.every=11: the run ends before, at 11 steps"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_is_too_long_is_refused_in_the_unit_that_was_typed(words, message):
    with pytest.raises(UserError) as raised:
        compose([*DIGITS, *words])
    assert message in str(raised.value)
    assert "accepted: " in str(raised.value)


@pytest.mark.parametrize(
    "words",
    [
        ["schedule.warmup=10"],
        ["schedule.warmup=90%"],
        ["averaging=swa", "averaging.start=10"],
        ["schedule=multistep", "schedule.milestones=[10]"],
        ["schedule=multistep", "schedule.milestones=[50%,2000]"],
        ["schedule=multistep", "schedule.milestones=[]"],
        ["schedule=batch_growth", "schedule.growth=1.5"],  # whose own milestones are at 3 epochs and later
        ["schedule=step", "schedule.every=10"],
        ["schedule=lanczos", "schedule.every=20epochs"],  # which learns at the start, too
    ],
    ids=" ".join,
)
def test_what_fits_is_accepted(words):
    compose([*DIGITS, *EPOCH, *words])


def test_what_the_files_of_a_dataset_say_counts_where_its_configuration_says_nothing():
    words = ["dataset=huggingface", "dataset.path=somewhere", "+dataset.fingerprint=h0a1b2c3d4e5f6071"]
    config = RunConfig.of(compose([*words, "model=mlp", *EPOCH, "schedule.warmup=5"]))
    check_lengths(config, 128 * 6)
    with pytest.raises(UserError, match=r"schedule\.warmup=5: must be shorter than the run, which has 5 steps"):
        check_lengths(config, 128 * 5)
