"""Times to a target, on curves whose crossing is known."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.statistics.crossings import at_position, crossing
from optbench.analysis.statistics.targets import times_to_target

INF = math.inf
NAN = math.nan


@pytest.mark.parametrize(
    ("values", "target", "higher", "place"),
    [
        ([0.1, 0.5, 0.9], 0.7, True, 1.5),
        ([0.1, 0.5, 0.9], 0.5, True, 1.0),
        ([0.1, 0.5, 0.9], 0.91, True, INF),
        ([2.0, 1.0, 0.0], 0.25, False, 1.75),
        ([0.8, 0.1, 0.9], 0.7, True, 0.0),  # reached before anything was seen
        ([0.1, 0.9, 0.2, 0.95], 0.5, True, 0.5),  # the first crossing, though it falls back
        ([0.1, NAN, 0.9], 0.5, True, 2.0),  # no line through what is not there
        ([INF, 0.5], 0.7, False, 1.0),
        ([NAN, NAN], 0.5, True, INF),
        ([], 0.5, True, INF),
    ],
)
def test_first_crossing(values, target, higher, place):
    assert crossing(np.array(values), target, higher) == pytest.approx(place)


@pytest.mark.parametrize(
    ("values", "target", "higher", "place"),
    [
        ([0.8, 0.1, 0.9], 0.7, True, -1 + 0.6 / 0.7),
        ([0.8], 0.45, True, -0.5),
        ([0.8], 0.1, True, -1.0),  # a guess reaches it
        ([0.1, 0.5, 0.9], 0.7, True, 1.5),
        ([NAN, 0.9], 0.5, True, 1.0),
        ([0.05], 0.5, True, INF),
        ([1.0], 2.0, False, -1.0),
    ],
)
def test_with_the_value_at_the_start_a_crossing_may_be_before_the_first(values, target, higher, place):
    assert crossing(np.array(values), target, higher, start=0.1) == pytest.approx(place)


def test_a_position_before_the_first_value_is_on_the_line_from_the_start():
    assert at_position(np.array([6.0, 12.0]), -0.5) == 3
    assert at_position(np.array([6.0, 12.0]), -0.25, start=2.0) == 5
    assert at_position(np.array([6.0, 12.0]), 0.5) == 9
    assert at_position(np.array([6.0, 12.0]), INF) == INF


def history(run_id, accuracies, every=10):
    steps = every * np.arange(1, len(accuracies) + 1)
    rows = pd.DataFrame({"event": "evaluation", "step": steps, "samples": 128 * steps, "seconds": 0.5 * steps**2})
    rows = rows.assign(run_id=run_id, validation_accuracy=accuracies)
    # Rows of training between them have no metrics, and the order of rows is nobody's promise.
    noise = rows.assign(event="train", step=rows["step"] - 5, validation_accuracy=NAN)
    return pd.concat([noise, rows])[::-1]


@pytest.fixture
def runs():
    status = {
        "reached": "done",
        "missed": "done",
        "exploded": "diverged",
        "fell": "diverged",
        "failed": "failed",
        "going": "running",
        "there": "running",
    }
    return pd.DataFrame({"run_id": [*status], "status": [*status.values()]}, index=range(100, 107))


@pytest.fixture
def histories():
    curves = {
        "reached": [0.2, 0.6, 0.8], "missed": [0.2, 0.3, 0.4], "fell": [0.7, 0.1], "failed": [0.1], "going": [0.4],
        "there": [0.4, 0.6],
    }  # fmt: skip
    return pd.concat([history(name, values) for name, values in curves.items()], ignore_index=True)


def test_every_run_has_a_time(runs, histories):
    table = times_to_target(runs, histories, 0.5).set_index("run_id")
    expected = {"reached": 17.5, "missed": INF, "exploded": INF, "fell": 10, "failed": NAN, "going": NAN, "there": 15}
    for name, steps in expected.items():
        assert table.loc[name, "steps_to_target"] == pytest.approx(steps, nan_ok=True), name
        assert table.loc[name, "samples_to_target"] == pytest.approx(128 * steps, nan_ok=True)
    # The seconds of evaluations 1 and 2 are 50 and 200: the same fraction of the way between them.
    assert table.loc["reached", "seconds_to_target"] == pytest.approx(50 + 0.75 * 150)


def test_an_accuracy_is_that_of_a_guess_at_step_0(runs, histories):
    """With five classes, 0.2 at step 0. The run that fell has 0.7 at step 10: 0.5 is at 6."""
    known = runs.assign(classes=5)
    assert times_to_target(known, histories, 0.5).set_index("run_id").loc["fell", "steps_to_target"] == pytest.approx(6)
    table = times_to_target(known, histories, 0.5, interpolate=False).set_index("run_id")
    assert table.loc["fell", "steps_to_target"] == 10
    # Of a loss, and without the number of classes, nothing is known before the first evaluation.
    loss = histories.assign(validation_loss=1 - histories["validation_accuracy"])
    table = times_to_target(known, loss, 0.5, "validation_loss").set_index("run_id")
    assert table.loc["fell", "steps_to_target"] == 10
    # A run that reaches it in an evaluation at step 0 has the time 0.
    at_start = histories.assign(step=histories["step"] - 10)
    assert times_to_target(known, at_start, 0.5).set_index("run_id").loc["fell", "steps_to_target"] == 0


def test_every_time_lies_between_two_evaluations(runs, histories):
    table = times_to_target(runs.assign(classes=5), histories, 0.5).set_index("run_id")
    bounds = {"reached": (10, 20), "fell": (0, 10), "there": (10, 20), "missed": (INF, INF), "failed": (NAN, NAN)}
    for name, expected in bounds.items():
        assert table.loc[name, ["steps_before", "steps_after"]].tolist() == pytest.approx(
            list(expected), nan_ok=True
        ), name


def test_without_interpolation_it_is_the_evaluation_as_in_the_summary(runs, histories):
    table = times_to_target(runs, histories, 0.5, interpolate=False).set_index("run_id")
    assert table.loc["reached", ["steps_to_target", "seconds_to_target"]].tolist() == [20, 200]
    assert table.loc["missed", "steps_to_target"] == INF


def test_interpolation_takes_out_the_rounding_to_evaluations():
    """An exact curve, evaluated every 7 and every 50 steps: the crossing of 1 - exp(-t / 100) at 0.5 is 100 log 2."""
    for every, tolerance in ((7, 0.1), (50, 4)):
        curve = 1 - np.exp(-every * np.arange(1, 9 if every == 50 else 40) / 100)
        runs = pd.DataFrame({"run_id": ["a"], "status": ["done"]})
        steps = times_to_target(runs, history("a", curve, every), 0.5)["steps_to_target"][0]
        assert steps == pytest.approx(100 * math.log(2), abs=tolerance)


@pytest.mark.parametrize(("higher", "values"), [(True, [0.1, 0.8, 0.9]), (False, [0.9, 0.8, 0.1])])
def test_a_value_at_the_target_has_reached_it(higher, values):
    assert crossing(np.array(values), 0.8, higher) == 1
    assert crossing(np.array(values[:2]), 0.8, higher) == 1
    assert crossing(np.array(values[1:]), 0.8, higher) == 0
