"""The cells of a frame of runs, and the value of a run's outcome in tables of an analysis.

``runs`` is a frame with one row for each run, as returned by `optbench.store.load`. There are three kinds of runs:

    done                          its metrics count
    diverged                      also an outcome: it counts as the worst possible value, and is never left out
    failed, unfinished            no outcome (yet): the number of such runs is reported, and no value is guessed
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from optbench.errors import UserError, nearest
from optbench.store.measured import higher_is_better, is_diagnostic
from optbench.store.run_directory import FINISHED


def worst(metric: str) -> float:
    """The value of ``metric`` for a diverged run: minus infinity if higher is better, otherwise infinity."""
    return -math.inf if higher_is_better(metric) else math.inf


def outcomes(runs: pd.DataFrame, metric: str) -> pd.Series:
    """``metric`` of every run as a float: the worst value if it diverged, NaN if the run has no outcome.

    A run that is done but has no loss ended at a loss that is not finite: the worst value. A run without an accuracy has
    none defined: NaN. A run without steps_to_target (or samples_, seconds_) did not reach the target: infinity. A run that
    reached it keeps its time even if it diverged later.

    Raises UserError if there is no such column.
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


def require_selectable(metric: str) -> None:
    """Raise UserError for a value by which nothing may be chosen: a diagnosis of a probe that used held-out labels."""
    if is_diagnostic(metric):
        raise UserError(
            f"metric={metric}: a diagnosis from held-out labels, by which nothing is tuned or selected; accepted: a result of "
            "validation or train, such as validation_loss"
        )


def count(runs: pd.DataFrame) -> dict[str, int]:
    """The number of runs, and of those that are done, diverged, failed, or have not ended."""
    status = runs["status"]
    counts = {name: int((status == name).sum()) for name in ("done", "diverged", "failed")}
    return {"runs": len(runs), **counts, "unfinished": len(runs) - sum(counts.values())}


def cells(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The groups of rows that agree in all columns ``by`` (a missing value is a value), in ascending order.

    Without columns, the whole frame is one cell. Raises UserError if there is no such column.
    """
    require(frame, by)
    if not by:
        yield {}, frame
        return
    for key, cell in frame.groupby(list(by), dropna=False, sort=True):
        yield dict(zip(by, key, strict=True)), cell


def require(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise UserError, with similar names, unless the frame has all ``columns``."""
    for name in columns:
        if name not in frame.columns:
            known = [str(column) for column in frame.columns]
            # There are hundreds of columns of the configuration.
            shown = [column for column in known if column.startswith("config.") == name.startswith("config.")]
            raise UserError(f"column {name}: the runs have none of this name; {nearest(name, shown)}")
