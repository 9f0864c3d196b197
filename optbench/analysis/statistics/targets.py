"""Steps, samples and seconds to a target: to the first evaluation at or beyond it.

A run that ended or diverged without reaching the target has infinity; it is never left out. A run that has not ended, or
failed, has NaN if it has not reached the target.
"""

import math

import pandas as pd

from optbench.analysis.frames import require, require_selectable
from optbench.analysis.statistics.crossings import at_position, crossing
from optbench.store.measured import higher_is_better
from optbench.store.run_directory import FINISHED

# The column of the history for each time.
TIMES = {"steps_to_target": "step", "samples_to_target": "samples", "seconds_to_target": "seconds"}


def times_to_target(
    runs: pd.DataFrame,
    history: pd.DataFrame,
    target: float,
    metric: str = "validation_accuracy",
    interpolate: bool = True,
) -> pd.DataFrame:
    """The runs with steps_to_target, samples_to_target and seconds_to_target for any target.

    history: from `optbench.store.load_history`; only its evaluations count. interpolate: between evaluations, and for an accuracy
    between step 0, at which it is that of a guess among the ``classes`` of the run, and the first evaluation; False: the first
    evaluation at or beyond the target, as in the summary. Other metrics are not known at step 0: a run that reaches the target
    before its first evaluation has the time of that evaluation.

    The column steps_before is the step of the last evaluation before the crossing, 0 if there is none, and steps_after that of
    the first at or after it: the time is known to lie between them. Both are infinity or NaN where the time is.

    Raises UserError if a column is missing, and for a diagnosis from held-out labels as the ``metric``.
    """
    require_selectable(metric)
    require(runs, ["run_id", "status"])
    require(history, ["run_id", "event", metric, *TIMES.values()])
    evaluations = history[history["event"] == "evaluation"].sort_values("step", kind="stable")
    groups = {str(name): rows for (name,), rows in evaluations.groupby(["run_id"])}
    columns = [*TIMES, "steps_before", "steps_after"]
    rows = []
    for run_id, ended, start in zip(runs["run_id"], runs["status"].isin(FINISHED), _guess(runs, metric), strict=True):
        times = dict.fromkeys(columns, math.inf)
        if (evaluated := groups.get(str(run_id))) is not None:
            values = pd.to_numeric(evaluated[metric], errors="coerce").to_numpy(float)
            steps = evaluated["step"].to_numpy(float)
            position = crossing(values, target, higher_is_better(metric), start)
            after = position if math.isinf(position) else math.ceil(position)
            position = position if interpolate else after
            times = {name: at_position(evaluated[column].to_numpy(float), position) for name, column in TIMES.items()}
            times |= {"steps_before": at_position(steps, after - 1), "steps_after": at_position(steps, after)}
        rows.append(times if ended or times["steps_to_target"] < math.inf else dict.fromkeys(columns, math.nan))
    return runs.assign(**pd.DataFrame(rows, index=runs.index, columns=columns))


def _guess(runs: pd.DataFrame, metric: str) -> "pd.Series[float]":
    """An accuracy at step 0: 1 / the number of classes of each run. NaN for other metrics, and where that is not known."""
    known = "classes" in runs and metric.endswith("accuracy")
    classes = runs["classes"] if known else pd.Series(math.nan, index=runs.index)
    return 1 / pd.to_numeric(classes, errors="coerce").astype(float)
