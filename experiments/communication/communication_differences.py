"""Differences paired by seed, each with its own 95 % interval and with one that holds for all of a table together."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from communication_conditions import DENSE, LOCAL

from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.pairs import differences_by_seed

LEVEL = 0.95


def interval_columns(values: np.ndarray, comparisons: int) -> dict[str, float]:
    """The mean, Student's interval, that at the Bonferroni level of ``comparisons``, and the mean's range without one seed."""
    alone, joint = student(values, LEVEL), student(values, 1 - (1 - LEVEL) / max(comparisons, 1))
    without = (
        [float(np.delete(values, place).mean()) for place in range(len(values))] if len(values) > 1 else [math.nan]
    )
    return {
        "difference": alone.estimate,
        "low": alone.low,
        "high": alone.high,
        "joint_low": joint.low,
        "joint_high": joint.high,
        "least_without_one": min(without),
        "most_without_one": max(without),
    }


def by_seed(report: pd.DataFrame, metric: str, first: str, second: str, batch: int) -> "pd.Series[float]":
    """``metric`` of condition ``first`` minus that of ``second`` at ``batch``, by seed; infinite if one run diverged."""
    own = report[report["batch"] == batch]
    pairs = differences_by_seed(own, metric, "condition", first, second, match=("seed",))
    found: pd.Series[float] = pairs.set_index("seed")["difference"].astype(float)
    return found


def paired(
    report: pd.DataFrame, metric: str, comparisons: Iterable[tuple[dict[str, Any], str, str, int]]
) -> pd.DataFrame:
    """A row for each comparison (its columns, first, second, batch) that has pairs of seeds, with those of the interval."""
    found = []
    for columns, first, second, batch in comparisons:
        values = by_seed(report, metric, first, second, batch)
        finite = values[np.isfinite(values)].to_numpy(float)
        if len(finite):
            found.append(({**columns, "metric": metric}, finite, len(values) - len(finite)))
    return _table(found)


def _table(found: Sequence[tuple[dict[str, Any], np.ndarray, int]]) -> pd.DataFrame:
    return pd.DataFrame([
        columns | interval_columns(values, len(found)) | {"seeds": len(values), "pairs_diverged": lost}
        for columns, values, lost in found
    ])  # fmt: skip


def against_dense(report: pd.DataFrame, metric: str, batch: int) -> pd.DataFrame:
    """Every other condition at ``batch`` minus dense."""
    own = report[report["batch"] == batch]
    names = [name for name in dict.fromkeys(own["condition"]) if name != DENSE]
    return paired(report, metric, [({"condition": name, "batch": batch}, name, DENSE, batch) for name in names])


def sorted_minus_alike(report: pd.DataFrame, metric: str, batch: int) -> pd.DataFrame:
    """Local steps on sorted shards minus those on shards alike, for every period."""
    local = report[(report["batch"] == batch) & (report["method"] == LOCAL)]
    names = local.drop_duplicates(["period", "shards"]).pivot_table(
        index="period", columns="shards", values="condition", aggfunc="first"
    )
    if {"alike", "sorted"} - {*names.columns}:
        return pd.DataFrame()
    names = names.dropna()
    return paired(
        report,
        metric,
        [({"period": int(period)}, row["sorted"], row["alike"], batch) for period, row in names.iterrows()],
    )


def change_with_batch(report: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The difference to dense at the largest batch minus that at the smallest, of conditions that have runs at both."""
    batches = sorted(report["batch"].unique())
    found = []
    for name in dict.fromkeys(report["condition"]) if len(batches) > 1 else ():
        small, large = (by_seed(report, metric, name, DENSE, batch) for batch in (batches[0], batches[-1]))
        values = (large - small).dropna()
        finite = values[np.isfinite(values)].to_numpy(float)
        if name != DENSE and len(finite):
            columns = {"condition": name, "small": batches[0], "large": batches[-1], "metric": metric}
            found.append((columns, finite, len(values) - len(finite)))
    return _table(found)


def in_points(row: pd.Series, joint: bool = True) -> str:
    """A difference of accuracies in points, with the interval for the whole table, or with its own."""
    low, high = ("joint_low", "joint_high") if joint else ("low", "high")
    interval = Interval(*(100 * row[name] for name in ("difference", low, high)))
    return f"{interval:+.2f}" if not math.isnan(interval.low) else f"{interval.estimate:+.2f} (one seed: no interval)"
