"""The generalization gap against batch size at matched epochs, matched updates or matched train loss.

At the end of training, runs of different batch sizes have taken different numbers of steps and reached different train losses.
Their gaps measure generalization only if one of these is equal. Therefore the metrics of every run are interpolated, between its
evaluations, to the point at which it passes a given value of epoch, step or train loss.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, count, require
from optbench.analysis.statistics.crossings import at_position, crossing
from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.settings import seeds_only
from optbench.store.measured import higher_is_better

Match = Literal["epoch", "step", "train_loss"]
METRICS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "gap_loss", "gap_accuracy")


def position(evaluations: pd.DataFrame, match: Match, value: float) -> float:
    """The point at which a run passes ``value``, as a fractional index into its ``evaluations``; NaN if there is none.

    For a train loss it is the first crossing from above. A run that is already below it at its first evaluation passed it
    unobserved: NaN. Nothing is extrapolated before the first evaluation.
    """
    column = evaluations[match].to_numpy(float)
    if len(column) == 0:
        return math.nan
    if match == "train_loss":
        place = crossing(column, value, higher=False)
        return math.nan if math.isinf(place) or column[0] < value else place
    if not column[0] <= value <= column[-1]:
        return math.nan
    return float(np.interp(value, column, np.arange(len(column))))


def matched(history: pd.DataFrame, match: Match, value: float, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """``metrics`` of every run in the history at the point where it passes ``value`` of ``match``: one row for each run_id.

    NaN for a run that does not pass it. The columns step and epoch give the point.
    """
    require(history, ["run_id", "event", match, *metrics])
    evaluations = history[history["event"] == "evaluation"].sort_values("step", kind="stable")
    columns = list(dict.fromkeys([*metrics, "step", "epoch"]))
    rows = {}
    for (run_id,), run in evaluations.groupby(["run_id"]):
        place = position(run, match, value)
        rows[run_id] = [
            math.nan if math.isnan(place) else at_position(run[name].to_numpy(float), place) for name in columns
        ]
    index = pd.Index(list(rows), dtype=object, name="run_id")
    return pd.DataFrame(list(rows.values()), index=index, columns=columns, dtype=float)


def common_value(history: pd.DataFrame, match: Match) -> float:
    """The furthest value of ``match`` that every run in the history passes, NaN for an empty history.

    The minimum of the last epochs or steps, or the maximum of the lowest train losses.
    """
    evaluations = history[history["event"] == "evaluation"]
    by_run = evaluations.groupby("run_id")[match]
    return float(by_run.min().max() if match == "train_loss" else by_run.max().min())


def gap_by_batch(
    runs: pd.DataFrame,
    history: pd.DataFrame,
    match: Match,
    value: float | None = None,
    by: Sequence[str] = ("optimizer",),
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """One row for each cell of ``by`` and batch size: the metrics at the point where runs pass the same ``value`` of ``match``.

    value: None takes, in each cell of ``by``, the furthest value that all done runs pass (see `common_value`); with one low
    value for all optimizers, these can be compared, too. Runs that diverged, failed or have not ended are counted, without
    metrics.

    Columns: ``by``, batch, match, value; runs, done, diverged, failed, unfinished; passed, the number of done runs that pass
    it; for every metric M: M (mean over the runs that pass), M_std, M_min, M_max and M_excess, the difference by which M is
    worse than at the smallest batch of the cell (test_accuracy_excess is the test accuracy lost to the batch), as the mean of
    differences paired by seed, with M_excess_low and M_excess_high, a 95 % Student interval.
    """
    require(runs, [*by, "batch", "seed", "run_id", "status"])
    runs = seeds_only(runs, [*by, "batch"])
    rows = []
    for key, cell in cells(runs, by):
        done = cell[cell["status"] == "done"]
        own = history[history["run_id"].isin(done["run_id"])]
        goal = common_value(own, match) if value is None else value
        table = done[["run_id", "batch", "seed"]].join(matched(own, match, goal, metrics), on="run_id")
        smallest = table[table["batch"] == cell["batch"].min()].groupby("seed")[list(metrics)].mean()
        for inner, group in cells(cell, ["batch"]):
            found = table[table["batch"] == inner["batch"]]
            row = key | inner | {"match": match, "value": goal} | count(group)
            row["passed"] = int(found["step"].notna().sum())
            for name in metrics:
                values = found[name].dropna()
                losses = found.groupby("seed")[name].mean() - smallest[name]
                excess = student((-losses if higher_is_better(name) else losses).dropna().to_numpy(float))
                row |= {
                    name: float(values.mean()),
                    f"{name}_std": float(values.std()),
                    f"{name}_min": float(values.min()),
                    f"{name}_max": float(values.max()),
                    f"{name}_excess": excess.estimate,
                    f"{name}_excess_low": excess.low,
                    f"{name}_excess_high": excess.high,
                }
            rows.append(row)
    return pd.DataFrame(rows)
