"""Test accuracy against the bytes that workers send, on shards alike and sorted, and the price of both in larger batches."""

from collections.abc import Sequence

import pandas as pd
from communication_charts import charts_of
from communication_conditions import (
    CELL,
    CONSTANT,
    DECAYED,
    DENSE,
    METRIC,
    RATE,
    chosen_rates,
    labelled,
    means_by_rate,
    reported,
    reporting,
)
from communication_differences import (
    against_dense,
    against_rates_of_dense,
    change_with_batch,
    in_points,
    minus_shortest_period,
    paired,
    sorted_minus_alike,
    with_best_dense,
)

from optbench.analysis.findings import Findings
from optbench.analysis.study import Study

QUESTION = "How much accuracy do compressed gradients and local steps cost, for the bytes that they save?"
SAME_AS_DENSE = ("bf16", "fp16", "local steps, H = 1")
ACCURACY, LOSS = "test_accuracy", "train_loss"
FALLING = " with a rate that falls to zero along a cosine"


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
    tables = {"results": results.sort_values(["schedule", "batch", "bytes"], ascending=[True, True, False])}
    for schedule, end in ((CONSTANT, ""), (DECAYED, "_decayed")):
        own, all_rates = report[report["schedule"] == schedule], runs[runs["schedule"] == schedule]
        tables[f"minus_dense{end}"] = _minus_dense(own, [smallest])
        tables[f"minus_dense_at_rates{end}"] = against_rates_of_dense(all_rates, own, ACCURACY)
    constant = report[report["schedule"] == CONSTANT]
    at_best = with_best_dense(runs[runs["schedule"] == CONSTANT], constant, ACCURACY)
    tables |= {
        "minus_dense_larger_batches": _minus_dense(constant, sorted({*constant["batch"]} - {smallest})),
        "sorted_minus_alike": sorted_minus_alike(constant, ACCURACY, smallest),
        "minus_shortest_period": minus_shortest_period(constant, ACCURACY, smallest),
        "change_with_batch": change_with_batch(constant, ACCURACY),
        "change_with_batch_at_best_rate": change_with_batch(at_best, ACCURACY),
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


def _listed(rows: pd.DataFrame, name: str = "condition") -> str:
    before = "H = " if name == "period" else ""
    return ", ".join(f"{before}{row[name]} {in_points(row)}" for _, row in rows.iterrows())


def _answer(tables: dict[str, pd.DataFrame], batch: int) -> str:
    prices, rates = _accuracy(tables, "minus_dense"), tables.get("minus_dense_at_rates", pd.DataFrame())
    alike = prices[~prices["condition"].str.contains("sorted")] if len(prices) else prices
    if alike.empty or rates.empty:
        return "Not enough runs for an answer: no condition has a seed in common with dense."
    best = rates[rates["best"] & (rates["batch"] == batch)][["condition", "joint_low", "joint_high"]]
    both = alike.merge(best, on="condition", suffixes=("", "_best")).dropna(subset=["joint_low", "joint_low_best"])
    words = f"Not enough seeds for intervals at batch {batch}."
    if len(both):
        lose = both[(both["joint_high"] < 0) & (both["joint_high_best"] < 0)]
        gain = both[(both["joint_low"] > 0) & (both["joint_low_best"] > 0)]
        words = (
            f"Of {len(both)} ways to send less at batch {batch}, on shards alike, {_counted(lose, 'lose')} and "
            f"{_counted(gain, 'gain')} test accuracy, in points and by intervals that hold for all together, against dense both "
            "at its chosen rate and at its best rate for the seeds that report."
        )
    shards, change = tables.get("sorted_minus_alike"), tables.get("change_with_batch")
    if shards is not None:
        words += f" Sorted shards change local steps by: {_listed(shards, 'period')}."
    if change is not None:
        first = change.iloc[0]
        words += (
            f" From batch {first['small']} to {first['large']} the difference to dense changes by: {_listed(change)}."
        )
    return words


def _counted(rows: pd.DataFrame, verb: str) -> str:
    return f"{len(rows)} {verb} ({_listed(rows)})" if len(rows) else f"none {verb}s"


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
    periods = tables.get("minus_shortest_period", pd.DataFrame())
    for shards, own in periods.groupby("shards") if len(periods) else ():
        notes.append(
            f"On shards {shards}, local steps minus those of H = {own['minus'].iloc[0]}: {_listed(own, 'period')}."
        )
    notes += [*_feedback(report[report["schedule"] == CONSTANT], batch), *_same_as_dense(tables, batch)]
    for name, words in (("minus_dense", ""), ("minus_dense_larger_batches", ""), ("minus_dense_decayed", FALLING)):
        table = _accuracy(tables, name)
        for size, own in table.groupby("batch") if len(table) else ():
            notes.append(f"Test accuracy minus that of dense at batch {size}{words}, in points: {_listed(own)}.")
    for name, words in (("minus_dense_at_rates", ""), ("minus_dense_at_rates_decayed", FALLING)):
        table = tables.get(name, pd.DataFrame())
        for size, own in table[table["best"]].groupby("batch") if len(table) else ():
            notes.append(
                f"The same at batch {size}{words} against dense at rate {own['dense_rate'].iloc[0]:g}, its best for the seeds "
                f"that report, which favours dense: {_listed(own)}."
            )
    change = tables.get("change_with_batch_at_best_rate")
    if change is not None:
        notes.append(
            f"Against dense at these rates the difference to dense changes with the batch by: {_listed(change)}."
        )
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


def _same_as_dense(tables: dict[str, pd.DataFrame], batch: int) -> list[str]:
    """A sentence on the conditions that compute what dense computes: how far the choice of rates alone moves a price."""
    prices, rates = _accuracy(tables, "minus_dense"), tables["chosen_rates"].set_index(CELL)[RATE]
    same = prices[prices["condition"].isin(SAME_AS_DENSE)] if len(prices) else prices
    if same.empty:
        return []
    each = ", ".join(
        f"{row['condition']} {in_points(row)} (rate {rates[row['condition'], CONSTANT, batch]:g})"
        for _, row in same.iterrows()
    )
    return [
        "These compute what dense computes, up to rounding, so that their price is that of the choice of rates (dense "
        f"{rates[DENSE, CONSTANT, batch]:g}): {each}. A price of this size says nothing."
    ]


def _feedback(report: pd.DataFrame, batch: int) -> list[str]:
    """A sentence for each compressor that was run with error feedback and without it."""
    names = set(report.loc[report["batch"] == batch, "condition"])
    pairs = [name for name in sorted(names) if f"{name} with error feedback" in names]
    table = paired(
        report, ACCURACY, [({"condition": name}, f"{name} with error feedback", name, batch) for name in pairs]
    )
    if table.empty:
        return []
    return [f"Error feedback adds at batch {batch}, in points of test accuracy: {_listed(table)}."]
