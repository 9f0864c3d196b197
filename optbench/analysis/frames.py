"""What every table of an analysis is made of: the cells of a frame of runs, and what a run's outcome is worth.

``runs`` is a frame with one row a run, as `optbench.store.load` gives it. Three kinds of runs are told apart everywhere:

    done                          its metrics count
    diverged                      an outcome too: it counts as the worst value there is, and is never left out
    failed, unfinished            no outcome (yet): counted beside the others, never guessed
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from optbench.errors import UserError
from optbench.store.run_directory import FINISHED
from optbench.suggestions import nearest

# What a run is called by, and where its configuration says the same: only a run that has ended has a summary.
_IDENTITY = {
    "optimizer": "config.optimizer.name",
    "model": "config.model.name",
    "dataset": "config.dataset.name",
    "batch": "config.batch",
    "seed": "config.seed",
    "trial": "config.trial",
    "base_learning_rate": "config.optimizer.learning_rate",
}


def identified(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in which optimizer, model, dataset, batch, seed, trial and base_learning_rate are filled from the
    configuration where there is no summary, so that runs that failed or have not ended are counted in their cells.

    batch, seed and trial are integers where none is missing.
    """
    filled = {}
    for name, source in _IDENTITY.items():
        if name not in runs.columns and source not in runs.columns:
            continue
        values = runs[name] if name in runs.columns else pd.Series(math.nan, index=runs.index, dtype=object)
        if source in runs.columns:
            values = values.astype(object).where(values.notna(), runs[source])
        if name in ("batch", "seed", "trial") and values.notna().all():
            values = values.astype("int64")
        filled[name] = values.infer_objects()
    return runs.assign(**filled)


def higher_is_better(metric: str) -> bool:
    """Whether a larger ``metric`` is a better one: an accuracy is; a loss, a gap and a time are not."""
    return metric.endswith("accuracy") and "gap_" not in metric


def worst(metric: str) -> float:
    """What a diverged run has for ``metric``: minus infinity where higher is better, else infinity."""
    return -math.inf if higher_is_better(metric) else math.inf


def outcomes(runs: pd.DataFrame, metric: str) -> pd.Series:
    """``metric`` of every run as a float: the worst value where it diverged, NaN where the run has no outcome.

    A run that is done and has no loss ended at a loss that is not finite: the worst value. One that has no accuracy
    was not graded: NaN. One without steps_to_target (or samples_, seconds_) did not reach the target: infinity; and one
    that reached it keeps its time even if it diverged later.

    Raises UserError when there is no such column.
    """
    require(runs, ["status", metric])
    values = pd.to_numeric(runs[metric], errors="coerce").astype(float)
    ended = runs["status"].isin(FINISHED)
    to_target = metric.endswith("_to_target")
    if to_target or metric.endswith("loss"):
        values = values.mask(ended & values.isna(), worst(metric))
    if not to_target:
        values = values.mask(runs["status"] == "diverged", worst(metric))
    return values.where(ended)


def count(runs: pd.DataFrame) -> dict[str, int]:
    """How many runs there are, and how many of them are done, diverged, failed, or have not ended."""
    status = runs["status"]
    counts = {name: int((status == name).sum()) for name in ("done", "diverged", "failed")}
    return {"runs": len(runs), **counts, "unfinished": len(runs) - sum(counts.values())}


def cells(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The groups of rows that agree in all columns ``by`` (a missing value is a value), in ascending order.

    With no columns at all, the frame is one cell. Raises UserError when there is no such column.
    """
    require(frame, by)
    if not by:
        yield {}, frame
        return
    for key, cell in frame.groupby(list(by), dropna=False, sort=True):
        yield dict(zip(by, key, strict=True)), cell


def require(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise UserError, with the nearest names there are, unless the frame has all ``columns``."""
    for name in columns:
        if name not in frame.columns:
            known = [str(column) for column in frame.columns]
            # Of the configuration there are hundreds of columns.
            shown = [column for column in known if column.startswith("config.") == name.startswith("config.")]
            raise UserError(f"column {name}: the runs have none of this name; {nearest(name, shown)}")


def scores_by_task(
    runs: pd.DataFrame, metric: str, method: str = "optimizer", task: Sequence[str] = ("model", "dataset", "batch")
) -> dict[str, list[np.ndarray]]:
    """For every method, one array a task with the metric of its runs there; all methods have the same order of tasks.

    A task on which one of the methods has no run with an outcome would be compared between different methods than the
    others, so it is left out for all.
    """
    runs = identified(runs)
    table = runs.assign(_value=outcomes(runs, metric)).dropna(subset=["_value"])
    methods = sorted(table[method].unique())
    scores: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for _, cell in cells(table, task):
        values = {key[method]: rows["_value"].to_numpy(float) for key, rows in cells(cell, [method])}
        if len(values) == len(methods):
            for name in methods:
                scores[name].append(values[name])
    return scores
