"""Beale's function from 125 starts: geometric means of the final values, beside those of the author's notebook."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval, student

#: The seeds that choose learning rates.
SEARCH_SEEDS = (0, 1)
#: The value that a start counts that has diverged.
DIVERGED = 1e6
#: What the notebook prints after 50 steps, from one draw of the noise.
PRINTED = {
    "full": 0.00434,
    "one direction": 0.00978,
    "two directions": 0.0180,
    "momentum as in the notebook": 4.65,
    "Adam as in the notebook": 0.0417,
}
#: Rows that were tuned here, over five learning rates each.
TUNED = ("Adam, tuned", "momentum 0.5, tuned", "momentum 0.9, tuned")


def name_of(row: Mapping[str, Any]) -> str:
    """The name of the setting of a run, without its learning rate."""

    def option(name: str) -> Any:
        return row.get(f"config.optimizer.{name}")

    if row["optimizer"] != "ogr":
        kind = f"momentum {option('momentum'):g}" if row["optimizer"] == "momentum" else method(row["optimizer"])
        return f"{kind}, tuned"
    words = option("variant")
    if words == "subspace":
        words = {1: "one direction", 2: "two directions"}.get(
            option("dimension"), f"{option('dimension'):g} directions"
        )
    if option("curvature") == "correlation":
        words += ", correlation"
    if option("statistics") == "exact":
        words += ", exact statistics"
    elif option("transport"):
        words += ", transported"
    shift = row.get("config.dataset.shift") or 0.0
    return f"{words}, shifted by {shift:g}" if shift else str(words)


def table_of(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting: the geometric mean over starts and seeds, and a Student interval of its logarithm over seeds.

    Methods with several learning rates have the one with the smallest mean logarithm over the seeds 0 and 1, and another row
    for the one of the notebook; all rows are of the other seeds, where there are any. with_diverged: the share of runs in which
    the sum of the values at the last step but one is 1e6 or more.
    """
    own = runs[runs["dataset"] == "beale_starts"].copy()
    if own.empty:
        return pd.DataFrame()
    # A run that has ended without a number has no start left.
    own["log"] = own["test_loss"].where(own["status"] == "done", math.log(DIVERGED)).fillna(math.log(DIVERGED))
    own["setting_name"] = [name_of(row) for row in own.to_dict("records")]
    own["last_sum"] = own["run_id"].map(_last_losses(history))
    rows = []
    for name, group in own.groupby("setting_name", sort=False):
        chosen, grid = _chosen(group)
        rows.append(_row(str(name), group[group["base_learning_rate"] == chosen], chosen, grid))
        if name in _NOTEBOOK:
            printed, rate = _NOTEBOOK[str(name)]
            same = group[np.isclose(group["base_learning_rate"], rate)]
            if len(same):
                rows.append(_row(printed, same, rate, []))
    table = pd.DataFrame(rows)
    return table.sort_values("geometric_mean", ignore_index=True)


# Its momentum m ← m + γ (g - m) with θ ← θ - α m, γ = 0.5 and α = 0.004, has here the learning rate α γ.
_NOTEBOOK = {
    "momentum 0.5, tuned": ("momentum as in the notebook", 0.002),
    "Adam, tuned": ("Adam as in the notebook", 0.6),
}


def _last_losses(history: pd.DataFrame) -> "pd.Series[float]":
    training = history[history["event"] == "train"] if len(history) else history
    return training.groupby("run_id")["loss"].last() if len(training) else pd.Series(dtype=float)


def reporting(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the seeds that chose nothing; all, if there are no others."""
    others = runs[~runs["seed"].isin(SEARCH_SEEDS)]
    return others if len(others) else runs


def _chosen(group: pd.DataFrame) -> tuple[float, list[float]]:
    deciding = group[group["seed"].isin(SEARCH_SEEDS)]
    means = (deciding if len(deciding) else group).groupby("base_learning_rate")["log"].mean()
    return float(means.idxmin()), sorted(means.index)


def _row(name: str, runs: pd.DataFrame, rate: float, grid: list[float]) -> dict[str, Any]:
    reported = reporting(runs)
    found = student(reported["log"].to_numpy(float))
    printed = PRINTED.get(name, math.nan)
    return {
        "method": name,
        "geometric_mean": math.exp(found.estimate),
        "low": math.exp(found.low),
        "high": math.exp(found.high),
        "printed": printed,
        "over_printed": math.exp(found.estimate) / printed,
        "learning_rate": rate,
        "at_edge": len(grid) > 2 and rate in (grid[0], grid[-1]),
        "seeds": len(reported),
        "with_diverged": float((reported["last_sum"] >= DIVERGED).mean()),
    }


def interval(row: Mapping[str, Any]) -> Interval:
    """The geometric mean of a row of `table_of`."""
    return Interval(row["geometric_mean"], row["low"], row["high"])
