"""What runs count as: outcomes, cells, and the names of runs that have no summary."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis import frames
from optbench.analysis.statistics.profiles import scores_by_task
from optbench.errors import UserError

INF = math.inf
STATUS = ["done", "diverged", "failed", "running", "preempted", "pending"]


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("test_accuracy", True),
        ("averaged_validation_accuracy", True),
        ("gap_accuracy", False),
        ("averaged_gap_accuracy", False),
        ("validation_loss", False),
        ("seconds_to_target", False),
    ],
)
def test_direction_of_a_metric(metric, higher):
    assert frames.higher_is_better(metric) is higher


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        # A diverged run has the worst value, whatever its summary says; one without an end has none.
        ("test_accuracy", [0.9, 0.8, None, None, 0.7, None], [0.9, -INF, *[np.nan] * 4]),
        ("test_loss", [0.3, None, None, None, None, None], [0.3, INF, *[np.nan] * 4]),
        # Done with a loss that is not finite; not graded is another thing.
        ("test_loss", [None, None, None, None, None, None], [INF, INF, *[np.nan] * 4]),
        ("test_accuracy", [None, None, None, None, None, None], [np.nan, -INF, *[np.nan] * 4]),
        ("steps_to_target", [None, 40, None, None, None, None], [INF, 40, *[np.nan] * 4]),
        ("steps_to_target", [25, None, None, None, None, None], [25, INF, *[np.nan] * 4]),
    ],
)
def test_outcomes(metric, values, expected):
    runs = pd.DataFrame({"status": STATUS, metric: pd.Series(values, dtype=object)})
    np.testing.assert_array_equal(frames.outcomes(runs, metric), expected)


def test_every_run_is_counted_once():
    runs = pd.DataFrame({"status": [*STATUS, "done"]})
    assert frames.count(runs) == {"runs": 7, "done": 2, "diverged": 1, "failed": 1, "unfinished": 3}


def test_cells_keep_missing_values_apart_and_no_columns_make_one_cell():
    frame = pd.DataFrame({"a": ["x", None, "x"], "b": [1, 2, 3]})
    found = [(key["a"], cell["b"].tolist()) for key, cell in frames.cells(frame, ["a"])]
    assert found[0] == ("x", [1, 3])
    assert pd.isna(found[1][0])
    assert found[1][1] == [2]
    assert [(key, len(cell)) for key, cell in frames.cells(frame, [])] == [({}, 3)]


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"validation_acuracy.*validation_accuracy"):
        frames.require(pd.DataFrame(columns=["validation_accuracy", "config.x"]), ["validation_acuracy"])


def test_scores_of_tasks_that_all_methods_share():
    runs = pd.DataFrame(
        [
            ("adam", "a", 0.5),
            ("adam", "a", 0.6),
            ("sgd", "a", 0.4),
            ("sgd", "b", 0.9),
            ("adam", "c", 0.1),
            ("sgd", "c", 0.2),
        ],
        columns=["optimizer", "dataset", "test_accuracy"],
    ).assign(status=["done"] * 5 + ["diverged"])
    scores = scores_by_task(runs, "test_accuracy", task=["dataset"])
    assert [task.tolist() for task in scores["adam"]] == [[0.5, 0.6], [0.1]]
    assert [task.tolist() for task in scores["sgd"]] == [[0.4], [-INF]]
