"""The goal of a search: what is searched, and what a run that learnt nothing has of it."""

import math
from types import SimpleNamespace

import pytest

from optbench.sweep.search.goal import Goal


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
