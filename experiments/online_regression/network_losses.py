"""A network on mini-batches: losses of tuned methods after equal steps and equal seconds, and the curvature that OGR sees."""

import math
from typing import Any

import numpy as np
import pandas as pd
from beale_values import SEARCH_SEEDS, reporting

from optbench.analysis.statistics.intervals import Interval, student

KEYS = ["dataset", "optimizer"]


def table_of(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each method: the learning rate of the smallest mean validation loss on the seeds 0 and 1, and others' results.

    test_loss and accuracy are after all steps. loss_at_equal_seconds is the validation loss at the last evaluation within the
    seconds of training that the quickest method takes for all of its steps, a median over its runs.
    """
    rows = []
    own = runs[runs["dataset"] != "beale_starts"].copy()
    own["chosen_by"] = own["validation_loss"].where(own["status"] == "done", math.inf).fillna(math.inf)
    for dataset, everything in own.groupby("dataset", sort=False):
        parts = {name: _best(group) for name, group in everything.groupby("optimizer", sort=False)}
        seconds = min(float(kept["seconds_training"].median()) for kept, _, _ in parts.values())
        for name, (kept, rate, grid) in parts.items():
            early = [_within(history, run_id, seconds) for run_id in kept["run_id"]]
            row: dict[str, Any] = {"dataset": dataset, "optimizer": name, "learning_rate": rate}
            row |= {"at_edge": len(grid) > 2 and rate in (grid[0], grid[-1]), "rates": len(grid), "seeds": len(kept)}
            row |= _columns("test_loss", kept["test_loss"]) | _columns("accuracy", kept["test_accuracy"])
            row |= _columns("loss_at_equal_seconds", pd.Series(early, dtype=float))
            row |= {"seconds": float(kept["seconds_training"].median()), "equal_seconds": seconds}
            rows.append(row)
    return pd.DataFrame(rows)


def _best(group: pd.DataFrame) -> tuple[pd.DataFrame, float, list[float]]:
    deciding = group[group["seed"].isin(SEARCH_SEEDS)]
    means = (deciding if len(deciding) else group).groupby("base_learning_rate")["chosen_by"].mean()
    rate = float(means.idxmin())
    return reporting(group[group["base_learning_rate"] == rate]), rate, sorted(means.index)


def _within(history: pd.DataFrame, run_id: str, seconds: float) -> float:
    here = history[(history["run_id"] == run_id) & (history["event"] == "evaluation")]
    losses = here.loc[here["seconds"] <= seconds * (1 + 1e-9), "validation_loss"].dropna()
    return float(losses.iloc[-1]) if len(losses) else math.nan


def _columns(name: str, values: "pd.Series[float]") -> dict[str, float]:
    found = student(values.dropna().to_numpy(float))
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def differences(runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Test loss of OGR less that of each other tuned method, by seed (equal data and first weights), with Student intervals."""
    rows = []
    for dataset, group in table.groupby("dataset", sort=False) if len(table) else ():
        kept = {
            row["optimizer"]: reporting(
                runs[
                    (runs["dataset"] == dataset)
                    & (runs["optimizer"] == row["optimizer"])
                    & (runs["base_learning_rate"] == row["learning_rate"])
                ]
            ).set_index("seed")["test_loss"]
            for row in group.to_dict("records")
        }
        for other, losses in kept.items():
            if other != "ogr" and "ogr" in kept:
                found = student((kept["ogr"] - losses).dropna().to_numpy(float))
                rows.append(
                    {
                        "dataset": dataset,
                        "other": other,
                        "difference": found.estimate,
                        "low": found.low,
                        "high": found.high,
                    }
                )
    return pd.DataFrame(rows)


def curvatures(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """For each learning rate of OGR: medians of its largest |λ|, of the noise of that λ and of the share beyond twice its noise.

    The medians are over the second half of the steps of all runs; top_eigenvalue is that of the Hessian of training examples
    where the run ends.
    """
    rows = []
    own = runs[(runs["optimizer"] == "ogr") & (runs["dataset"] != "beale_starts") & (runs["status"] == "done")]
    if "optimizer_curvature" not in history or own.empty:
        return pd.DataFrame()
    training = history[history["event"] == "train"]
    for (dataset, rate), group in own.groupby(["dataset", "base_learning_rate"]):
        here = training[training["run_id"].isin(group["run_id"])]
        late = here[here["step"] > here["step"].max() / 2]
        row: dict[str, Any] = {"dataset": dataset, "learning_rate": rate, "runs": len(group)}
        for name in ("curvature", "noise_floor", "significant"):
            row[name] = float(np.nanmedian(late[f"optimizer_{name}"])) if len(late) else math.nan
        row["top_eigenvalue"] = float(group["spectrum_top"].median()) if "spectrum_top" in group else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def interval(row: Any, name: str) -> Interval:
    """The column ``name`` of a row with its bounds."""
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
