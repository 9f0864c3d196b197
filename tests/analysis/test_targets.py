"""Times to a target, on curves whose crossing is known."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.targets import crossing, shared_target, times_of_summaries, times_to_target
from optbench.errors import UserError

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


def test_times_of_the_summaries():
    runs = pd.DataFrame({
        "status": ["done", "done", "diverged", "running"], "steps_to_target": [40, None, None, None],
        "samples_to_target": [80, None, None, None], "seconds_to_target": [1.5, None, None, None],
        "config.budget.target": 0.9, "config.budget.target_metric": "validation_accuracy",
    })  # fmt: skip
    table = times_of_summaries(runs)
    np.testing.assert_array_equal(table["steps_to_target"], [40, INF, INF, NAN])
    np.testing.assert_array_equal(table["seconds_to_target"], [1.5, INF, INF, NAN])
    with pytest.raises(UserError, match=r"budget.target: .*0.9.*0.8"):
        times_of_summaries(runs.assign(**{"config.budget.target": [0.9, 0.9, 0.8, 0.9]}))
    with pytest.raises(UserError, match="none"):
        times_of_summaries(runs.assign(**{"config.budget.target": None}))


def test_a_target_for_all_batch_sizes():
    assert shared_target([0.90, 0.88, 0.80], "validation_accuracy") == pytest.approx(1 - 0.12 * 1.01)
    assert shared_target([0.3, NAN, 0.5, 0.4, INF], "validation_loss", 0.1) == pytest.approx(0.45 * 1.1)
    with pytest.raises(ValueError, match="best value"):
        shared_target([NAN], "validation_loss")
