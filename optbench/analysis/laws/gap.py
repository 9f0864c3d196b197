"""The generalization gap against batch size at matched epochs, matched updates or matched train loss.

At the end of training runs of different batch sizes have taken different numbers of steps and reached different train losses;
a comparison of their gaps is one of generalization only where one of these is the same. So the metrics of every run are
interpolated, between its evaluations, to where it passes one value of epoch, step or train loss.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, count, higher_is_better, require
from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.statistics.targets import at_position, crossing

Match = Literal["epoch", "step", "train_loss"]
METRICS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "gap_loss", "gap_accuracy")


def position(evaluations: pd.DataFrame, match: Match, value: float) -> float:
    """Where a run passes ``value``, as a fractional index into its ``evaluations``; NaN where it does not.

    Of a train loss it is the first crossing from above, and a run that is below it at its first evaluation passed it
    unseen: NaN. Epochs and steps before the first evaluation are not known either, and nothing is extrapolated.
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
    """``metrics`` of every run in the history where it passes ``value`` of ``match``: one row a run, by run_id.

    NaN where a run does not pass it. step and epoch, where it was, stand beside them.
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

    The least of the last epochs or steps, or the largest of the lowest train losses.
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
    """One row a cell of ``by`` and batch size: the metrics where all runs have passed the same ``value`` of ``match``.

    value: None takes, in each cell of ``by``, the furthest that all runs which are done pass (see `common_value`); one low value
    for all optimizers compares these too. Runs that diverged, failed or have not ended are counted and have no metrics.

    Columns: ``by``, batch, match, value; runs, done, diverged, failed, unfinished; passed, how many of those done pass it;
    for every metric M: M (mean over those that pass), M_std, M_min, M_max and M_excess: by how much M is worse than that of
    the smallest batch of the cell (test_accuracy_excess is the test accuracy lost to the batch), the mean of differences
    paired by seed, with M_excess_low and M_excess_high, a 95 % Student interval.
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
