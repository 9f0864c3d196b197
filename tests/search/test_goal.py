"""The goal of a search: what is searched, and what a run that learnt nothing has of it."""

import math
from types import SimpleNamespace

import pytest

from optbench.config import read_choice
from optbench.errors import UserError
from optbench.store import RunDirectory
from optbench.sweep.search.goal import Goal
from optbench.sweep.search.method import Pick
from optbench.sweep.search.record import Chosen


def cells(*classes):
    return [SimpleNamespace(config={"dataset": {"info": {"size": {"classes": number}}}}) for number in classes]


@pytest.mark.parametrize(
    ("metric", "classes", "first"),
    [
        ("validation_loss", (10, 10), math.log(10)),
        ("validation_accuracy", (10, 10), 0.1),
        ("validation_accuracy", (10, 2), None),
        ("validation_loss", (None,), None),
        ("gap_accuracy", (10,), None),
        ("gradient_norm", (10,), None),
    ],
)
def test_the_value_of_a_classifier_that_knows_nothing(metric, classes, first):
    assert Goal.of({"goal": metric, "target": None}, cells(*classes)).first == first


@pytest.mark.parametrize("options", [{}, {"goal": "auto"}])
def test_searches_are_by_validation_also_of_data_without_an_option_for_it(options):
    """As of a text, whose validation split has a fixed size: searches over a text and other problems were by train loss."""
    dataset = read_choice("dataset", "text")
    assert "validation" not in dataset
    assert Goal.of(options, [*cells(10), SimpleNamespace(config={"dataset": dataset})]).metric == "validation_loss"


def test_a_result_that_runs_do_not_have_is_named_with_those_that_they_have(tmp_path):
    summary = {"status": "done", "steps": 4, "validation_loss": 0.5, "test_loss": 0.4}
    chosen = Chosen(0, Pick({"seed": "0"}), "a-run", 4)
    with pytest.raises(
        UserError, match=r"search.goal=validation_los: no result of run a-run; did you mean validation_loss\?"
    ):
        Goal("validation_los").of_summary(chosen, 0, summary, RunDirectory(tmp_path), False)
    lost = Goal("validation_loss").of_summary(
        chosen, 0, {**summary, "validation_loss": None}, RunDirectory(tmp_path), False
    )
    assert lost.state == "diverged"  # it ended at a loss that is not finite
