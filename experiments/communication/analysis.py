"""Test accuracy against the bytes that workers send, on shards alike and sorted, and the price of both in larger batches."""

from collections.abc import Sequence

import pandas as pd
from communication_charts import charts_of
from communication_conditions import (
    CELL,
    CONSTANT,
    METRIC,
    RATE,
    chosen_rates,
    labelled,
    means_by_rate,
    reported,
    reporting,
)
from communication_differences import against_dense, change_with_batch, in_points, paired, sorted_minus_alike

from optbench.analysis.findings import Findings
from optbench.analysis.study import Study

QUESTION = "How much accuracy do compressed gradients and local steps cost, for the bytes that they save?"
ACCURACY, LOSS = "test_accuracy", "train_loss"


def analyse(study: Study) -> Findings:
    """Differences to dense at the smallest batch, of sorted to alike shards, and their change up to the largest batch."""
    runs = labelled(study)
    if METRIC not in runs or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    rates = chosen_rates(runs)
    report = reporting(runs, rates)
    results = reported(report, rates)
    by_rate = means_by_rate(runs)
    if results.empty:
        return Findings(
            QUESTION, "Not enough runs for an answer: no condition has runs at its chosen rate with other seeds.",
            tables={"chosen_rates": rates},
        )  # fmt: skip
    smallest = int(results["batch"].min())
    constant, decayed = (report[(report["schedule"] == CONSTANT) == wanted] for wanted in (True, False))
    larger = [int(batch) for batch in sorted(constant["batch"].unique()) if batch > smallest]
    tables = {
        "results": results.sort_values(["batch", "bytes"], ascending=[True, False]),
        "minus_dense": _minus_dense(constant, [smallest]),
        "minus_dense_larger_batches": _minus_dense(constant, larger),
        "minus_dense_decayed": _minus_dense(decayed, [smallest]),
        "sorted_minus_alike": sorted_minus_alike(constant, ACCURACY, smallest),
        "change_with_batch": change_with_batch(constant, ACCURACY),
        "chosen_rates": rates,
        "by_rate": by_rate,
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    charts = charts_of(kept, smallest)
    return Findings(QUESTION, _answer(kept, smallest), charts, kept, _notes(kept, report, rates, smallest))


def _minus_dense(report: pd.DataFrame, batches: Sequence[int]) -> pd.DataFrame:
    tables = [against_dense(report, metric, batch) for metric in (ACCURACY, LOSS) for batch in batches]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _accuracy(tables: dict[str, pd.DataFrame], name: str) -> pd.DataFrame:
    table = tables.get(name, pd.DataFrame())
    return table[table["metric"] == ACCURACY] if len(table) else table


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(tables: dict[str, pd.DataFrame], batch: int) -> str:
    prices = _accuracy(tables, "minus_dense")
    alike = prices[~prices["condition"].str.contains("sorted")] if len(prices) else prices
    if alike.empty:
        return "Not enough runs for an answer: no condition has a seed in common with dense."
    known = alike[alike["joint_low"].notna()]
    each = ", ".join(f"{row['condition']} {in_points(row)}" for _, row in alike.iterrows())
    words = f"Test accuracy minus that of dense at batch {batch}, in points, on shards alike: {each}."
    if len(known):
        below, above = (known["joint_high"] < 0).sum(), (known["joint_low"] > 0).sum()
        words = (
            f"Of {len(known)} ways to send less at batch {batch}, on shards alike, {below} lose test accuracy against dense and "
            f"{above} gain some, by intervals that hold for all together. {words}"
        )
    shards, change = tables.get("sorted_minus_alike"), tables.get("change_with_batch")
    if shards is not None:
        each = ", ".join(f"H = {row['period']} {in_points(row)}" for _, row in shards.iterrows())
        words += f" Sorted shards change local steps by: {each}."
    if change is not None:
        each = ", ".join(f"{row['condition']} {in_points(row)}" for _, row in change.iterrows())
        first = change.iloc[0]
        words += f" From batch {first['small']} to {first['large']} the difference to dense changes by: {each}."
    return words


def _notes(tables: dict[str, pd.DataFrame], report: pd.DataFrame, rates: pd.DataFrame, batch: int) -> list[str]:
    results = tables["results"]
    most = int(results["seeds"].max())
    notes = [
        "What a number estimates: the rate of every condition is the one with the best mean validation accuracy over the seeds "
        f"of the search; accuracies and losses are means over {most} other seeds at that rate, for this training set, test set, "
        "network and number of samples. A seed is one draw of initial weights and order of the data. A difference is the mean "
        "over seeds of the difference of two runs of one seed. The chance of the choice of rates has no part in the intervals.",
        "Intervals in the sentences are Student intervals that hold for all rows of their table, metric and batch together "
        "(95 %, Bonferroni). The tables also have each one's own, and the range of the mean if any one seed is left out.",
    ]
    prices = tables.get("minus_dense", pd.DataFrame())
    losses = prices[prices["metric"] == LOSS] if len(prices) else prices
    known = losses[losses["joint_low"].notna()] if len(losses) else losses
    if len(known):
        higher = list(known[known["joint_low"] > 0]["condition"])
        named = f": {', '.join(higher)}" if higher else ""
        notes.append(
            f"The training loss is above that of dense, by the same kind of interval, in {len(higher)} of {len(known)} "
            f"conditions{named}."
        )
    notes += _feedback(report[report["schedule"] == CONSTANT], batch)
    decayed = _accuracy(tables, "minus_dense_decayed")
    if len(decayed):
        each = ", ".join(f"{row['condition']} {in_points(row)}" for _, row in decayed.iterrows())
        notes.append(
            f"With a rate that falls to zero along a cosine, test accuracy minus that of dense at batch {batch}, in points: "
            f"{each}."
        )
    larger = _accuracy(tables, "minus_dense_larger_batches")
    for size, own in larger.groupby("batch") if len(larger) else ():
        each = ", ".join(f"{row['condition']} {in_points(row)}" for _, row in own.iterrows())
        notes.append(f"At batch {size}, test accuracy minus that of dense, in points: {each}.")
    edge = rates[rates["at_edge"] & rates[RATE].notna()]
    if len(edge):
        cells = ", ".join(f"{row['condition']} at batch {row['batch']}" for _, row in edge.iterrows())
        notes.append(f"The chosen rate is at an end of the grid, which should be wider: {cells}.")
    if unsure := int((rates["lone_choices"] != "").sum()):
        notes.append(
            f"Without one seed of the search another rate would be chosen in {unsure} of {len(rates)} cells (lone_choices)."
        )
    missing = rates.merge(results[CELL], on=CELL, how="left", indicator=True)
    if lost := int((missing["_merge"] == "left_only").sum()):
        notes.append(
            f"{lost} of {len(rates)} cells have no run at the chosen rate with another seed, and are in no result."
        )
    if diverged := int((report["status"] == "diverged").sum()):
        notes.append(
            f"{diverged} of {len(report)} runs that report diverged; their pairs have no difference, and are counted."
        )
    return notes


def _feedback(report: pd.DataFrame, batch: int) -> list[str]:
    """A sentence for each compressor that was run with error feedback and without it."""
    names = set(report.loc[report["batch"] == batch, "condition"])
    pairs = [name for name in sorted(names) if f"{name} with error feedback" in names]
    table = paired(
        report, ACCURACY, [({"condition": name}, f"{name} with error feedback", name, batch) for name in pairs]
    )
    if table.empty:
        return []
    each = ", ".join(f"{row['condition']} {in_points(row)}" for _, row in table.iterrows())
    return [f"Error feedback adds at batch {batch}, in points of test accuracy: {each}."]
