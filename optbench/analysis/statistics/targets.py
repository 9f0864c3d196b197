"""Steps, samples and seconds to a target: to the first evaluation at or beyond it.

A run that ended or diverged without reaching the target has infinity; it is never left out. A run that has not ended, or
failed, has NaN if it has not reached the target.
"""

import math

import numpy as np
import pandas as pd

from optbench.analysis.frames import require, require_selectable
from optbench.store.measured import higher_is_better
from optbench.store.run_directory import FINISHED

# The column of the history for each time.
TIMES = {"steps_to_target": "step", "samples_to_target": "samples", "seconds_to_target": "seconds"}


def crossing(values: np.ndarray, target: float, higher: bool) -> float:
    """The position of the first crossing, as a fractional index into ``values``; infinity if there is none.

    The first value at or beyond ``target`` is a crossing, even if a later value falls back. The crossing is interpolated
    linearly between it and the previous value, because otherwise evaluations every n steps would round all times up to
    multiples of n. There is no interpolation if it is the first value, or if the previous value is not finite.
    """
    series = np.asarray(values, dtype=float)
    # A comparison with NaN is false, so that NaN does not reach the target.
    reached = np.flatnonzero(series >= target if higher else series <= target)
    if len(reached) == 0:
        return math.inf
    last = int(reached[0])
    if last == 0 or not np.isfinite(series[last - 1]):
        return float(last)
    return last - 1 + float((target - series[last - 1]) / (series[last] - series[last - 1]))


def at_position(values: np.ndarray, position: float) -> float:
    """``values`` at a fractional index, linear in between; infinity at infinity."""
    if math.isinf(position):
        return math.inf
    return float(np.interp(position, np.arange(len(values)), np.asarray(values, dtype=float)))


def times_to_target(
    runs: pd.DataFrame,
    history: pd.DataFrame,
    target: float,
    metric: str = "validation_accuracy",
    interpolate: bool = True,
) -> pd.DataFrame:
    """The runs with steps_to_target, samples_to_target and seconds_to_target for any target.

    history: from `optbench.store.load_history`; only its evaluations count. interpolate: between evaluations; False: the
    first evaluation at or beyond the target, as in the summary.

    Raises UserError if a column is missing, and for a diagnosis from held-out labels as the ``metric``.
    """
    require_selectable(metric)
    require(runs, ["run_id", "status"])
    require(history, ["run_id", "event", metric, *TIMES.values()])
    evaluations = history[history["event"] == "evaluation"].sort_values("step", kind="stable")
    groups = {str(name): rows for (name,), rows in evaluations.groupby(["run_id"])}
    rows = []
    for run_id, ended in zip(runs["run_id"], runs["status"].isin(FINISHED), strict=True):
        times = dict.fromkeys(TIMES, math.inf)
        if (evaluated := groups.get(str(run_id))) is not None:
            values = pd.to_numeric(evaluated[metric], errors="coerce").to_numpy(float)
            position = crossing(values, target, higher_is_better(metric))
            position = position if interpolate or math.isinf(position) else math.ceil(position)
            times = {name: at_position(evaluated[column].to_numpy(float), position) for name, column in TIMES.items()}
        rows.append(times if ended or times["steps_to_target"] < math.inf else dict.fromkeys(TIMES, math.nan))
    return runs.assign(**pd.DataFrame(rows, index=runs.index, columns=[*TIMES]))
