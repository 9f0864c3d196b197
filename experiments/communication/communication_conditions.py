"""The conditions of the study, the rate of each that validation chose, and its runs with the other seeds."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.selection import select, spread
from optbench.analysis.study import Study

METRIC, RATE = "validation_accuracy", "base_learning_rate"
RESULTS = ("test_accuracy", "train_loss")
# Seeds that choose the rate; all others report.
SEARCH = (0, 1, 2)
DENSE, LOCAL = "dense", "local steps"
CELL = ["condition", "schedule", "batch"]
CONSTANT = "constant"
_SHORT = {"dense": DENSE, "qsgd": "QSGD", "power_sgd": "PowerSGD", "top_k": "top-1 %"}


def labelled(study: Study) -> pd.DataFrame:
    """The runs of the study, with the columns condition, schedule, method, period (NaN without local steps), shards."""
    runs = study.runs.copy()
    options = {
        name: runs[f"config.communication.{name}"]
        if f"config.communication.{name}" in runs
        else pd.Series(math.nan, index=runs.index)
        for name in ("name", "error_feedback", "rank", "period", "shards")
    }
    runs["period"] = pd.to_numeric(options["period"], errors="coerce")
    runs["shards"] = options["shards"].where(options["shards"].notna(), "alike")
    schedules = runs.get("config.schedule.name", pd.Series(CONSTANT, index=runs.index))
    runs["schedule"] = schedules.where(schedules.notna(), CONSTANT)
    words = [
        _words(*row)
        for row in zip(
            options["name"], options["error_feedback"], options["rank"], runs["period"], runs["shards"], strict=True
        )
    ]
    runs["method"], runs["condition"] = [pair[0] for pair in words], [pair[1] for pair in words]
    return runs


def _words(name: Any, feedback: Any, rank: Any, period: float, shards: str) -> tuple[str, str]:
    """The method, which is one series of a chart, and the condition."""
    method = _SHORT.get(str(name), str(name))
    if name in ("top_k", "sign"):
        method += " with error feedback" if feedback is True else ""
        return method, method
    if name == "power_sgd":
        return method, f"{method} rank {int(rank)}"
    if name in ("local", "post_local"):
        method = LOCAL if name == "local" else "post-local"
        return method, f"{method}, H = {int(period)}" + (", sorted shards" if shards == "sorted" else "")
    return method, method


def chosen_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for every cell of condition, schedule and batch, with the rate that the seeds of the search choose.

    It is the one with the best mean validation accuracy over these seeds. Columns: those of `select`; lone_choices: the other
    rates that are chosen if one seed of the search is left out, as text.
    """
    search = runs[runs["seed"].isin(SEARCH)]
    table = select(search, CELL, METRIC, RESULTS, settings=[RATE])
    table["lone_choices"] = [_without_one(search, row) for _, row in table.iterrows()]
    return table


def _without_one(search: pd.DataFrame, row: pd.Series) -> str:
    own = search[(search[CELL] == row[CELL]).all(axis=1)]
    seeds = own["seed"].unique()
    if len(seeds) < 2:
        return ""
    others = {
        float(select(own[own["seed"] != seed], CELL, METRIC, (), settings=[RATE])[RATE].iloc[0]) for seed in seeds
    }
    return ", ".join(f"{rate:g}" for rate in sorted(others - {row[RATE]}) if not math.isnan(rate))


def reporting(runs: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """The runs at the chosen rates with the seeds that had no part in the choice."""
    kept = rates[[*CELL, RATE]].dropna()
    return runs[~runs["seed"].isin(SEARCH)].merge(kept, on=[*CELL, RATE])


def reported(report: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """A row for every cell with runs: the chosen rate, bytes, and mean and spread over the reporting seeds."""
    rows = []
    for key, own in report.groupby(CELL, sort=False):
        done = own[own["status"] == "done"]
        if done.empty:
            continue
        row: dict[str, Any] = dict(zip(CELL, key, strict=True))
        first = done.iloc[0]
        row |= {name: first[name] for name in ("method", "period", "shards", RATE)}
        row["bytes"] = float(done["communication_bytes"].mean()) if "communication_bytes" in done else math.nan
        for result in RESULTS:
            found = student(done[result].dropna().to_numpy(float))
            row |= spread(done[result].astype(float), result) | {
                f"{result}_low": found.low,
                f"{result}_high": found.high,
            }
        rows.append(row | {"seeds": len(done), "diverged": int((own["status"] == "diverged").sum())})
    table = pd.DataFrame(rows)
    return table.merge(rates[[*CELL, "at_edge"]], on=CELL, how="left") if len(table) else table


def means_by_rate(runs: pd.DataFrame, columns: Sequence[str] = (METRIC, *RESULTS)) -> pd.DataFrame:
    """A row for every cell and rate of the search: means over its seeds, where none diverged."""
    search = runs[runs["seed"].isin(SEARCH) & runs["status"].isin(["done", "diverged"])]
    rows = []
    for key, own in search.groupby([*CELL, RATE]):
        diverged = int((own["status"] == "diverged").sum())
        row = dict(zip([*CELL, RATE], key, strict=True)) | {"seeds": len(own), "diverged": diverged}
        rows.append(row | {name: math.nan if diverged else float(own[name].mean()) for name in columns})
    return pd.DataFrame(rows)
