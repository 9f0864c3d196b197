"""Differences paired by seed, each with its own 95 % interval and with one that holds for all of a table together."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from communication_conditions import DENSE, LOCAL, RATE

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


def against_rates_of_dense(runs: pd.DataFrame, report: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every other condition, at its chosen rate, minus dense at each rate with which dense has all seeds of ``report``.

    Columns as in `against_dense`, and: dense_rate; dense, the mean of dense at this rate; best, True for the rate of dense with
    the highest mean at the batch. The choice of this one favours dense, because it is made on the same seeds.
    """
    tables = []
    for (batch, rate), own in _dense_by_rate(runs, report):
        others = report[(report["condition"] != DENSE) & (report["batch"] == batch)]
        table = against_dense(pd.concat([own, others]), metric, int(batch))
        tables.append(table.assign(dense_rate=rate, dense=float(own[metric].mean())))
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return (
        found.assign(best=found["dense"] == found.groupby("batch")["dense"].transform("max")) if len(found) else found
    )


def with_best_dense(runs: pd.DataFrame, report: pd.DataFrame, metric: str) -> pd.DataFrame:
    """``report`` with the runs of dense at its best rate for the seeds of ``report``, which favours dense."""
    best: dict[int, pd.DataFrame] = {}
    for (batch, _), own in _dense_by_rate(runs, report):
        if batch not in best or own[metric].mean() > best[batch][metric].mean():
            best[batch] = own
    return pd.concat([*best.values(), report[report["condition"] != DENSE]])


def _dense_by_rate(runs: pd.DataFrame, report: pd.DataFrame) -> Iterator[tuple[tuple[int, float], pd.DataFrame]]:
    """The runs of dense at each batch and rate that has all seeds with which dense is in ``report``."""
    chosen, dense = (own[(own["condition"] == DENSE) & (own["status"] == "done")] for own in (report, runs))
    for (batch, rate), own in dense.groupby(["batch", RATE]):
        seeds = chosen.loc[chosen["batch"] == batch, "seed"]
        if len(seeds) and set(seeds) <= set(own["seed"]):
            yield (int(batch), float(rate)), own[own["seed"].isin(seeds)]


def _local(report: pd.DataFrame, batch: int) -> pd.DataFrame:
    """The conditions of local steps at ``batch``: a row for each period, a column for each kind of shards."""
    local = report[(report["batch"] == batch) & (report["method"] == LOCAL)]
    found: pd.DataFrame = local.pivot_table(index="period", columns="shards", values="condition", aggfunc="first")
    return found


def sorted_minus_alike(report: pd.DataFrame, metric: str, batch: int) -> pd.DataFrame:
    """Local steps on sorted shards minus those on shards alike, for every period."""
    names = _local(report, batch)
    if not {"alike", "sorted"} <= {*names.columns}:
        return pd.DataFrame()
    rows = names.dropna().iterrows()
    return paired(
        report, metric, [({"period": int(period)}, row["sorted"], row["alike"], batch) for period, row in rows]
    )


def minus_shortest_period(report: pd.DataFrame, metric: str, batch: int) -> pd.DataFrame:
    """Local steps of every period minus those of the shortest, on the same kind of shards."""
    comparisons = []
    for shards, names in _local(report, batch).items():
        first, *others = names.dropna().items()
        comparisons += [
            ({"shards": shards, "period": int(period), "minus": int(first[0])}, name, first[1], batch)
            for period, name in others
        ]
    return paired(report, metric, comparisons)


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
