"""The gap and the test accuracy against batch size, and the gain of each remedy over the plain large batch."""

from collections.abc import Sequence

import pandas as pd
from gap_conditions import METRIC, PLAIN, conditions, of_best_trials
from gap_differences import SMALL, points, remedies, small_minus_large, told
from gap_sharpness import MEASURE, MEASURES, lines_between, sharpness_notes, solutions

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.laws.gap import METRICS, gap_by_batch
from optbench.analysis.laws.minima import line_chart, measures_chart, ratios
from optbench.analysis.names import method
from optbench.analysis.statistics.selection import select
from optbench.analysis.study import Study

QUESTION = "Do large batches generalize worse than small ones, or are they only tuned worse, and which remedy helps?"
MATCHES = {"epoch": "the same epochs", "step": "the same updates", "train_loss": "the same train loss"}

REPETITIONS = 2000


def analyse(study: Study) -> Findings:
    """Gap and test accuracy at the best trial of every batch, also at matched training, and the remedies paired by seed."""
    runs = study.runs
    if METRIC not in runs or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    runs = runs.assign(condition=conditions(runs))
    plain = runs[runs["condition"] == PLAIN]
    if plain.empty:
        return Findings(QUESTION, "Not enough runs for an answer: none is without a remedy.")
    best = select(plain, ["optimizer", "batch"], METRIC)
    chosen = of_best_trials(plain, best)
    matched = _matched(study, chosen)
    losses, added = small_minus_large(plain, chosen, REPETITIONS), remedies(runs, best, REPETITIONS)
    sharpness, lines = solutions(study, chosen), lines_between(study, chosen)
    sharper = ratios(sharpness, "optimizer", MEASURES)
    charts = [
        _by_batch(best, "gap_accuracy", "Generalization gap in accuracy", "Train minus test accuracy"),
        _by_batch(best, "gap_loss", "Generalization gap in loss", "Test minus train loss"),
        _by_batch(best, "test_accuracy", "Test accuracy", "Test accuracy"),
        _matched_chart(matched),
        _remedies_chart(added),
        measures_chart(
            sharpness, "optimizer", MEASURES, "sharpness", "Sharpness of small- and large-batch solutions", True
        ),
        line_chart(lines, chosen["batch"].min(), chosen["batch"].max(), "optimizer and seed"),
    ]
    tables = {
        "best_trials": best,
        "small_minus_large": losses,
        "matched": matched,
        "remedies": added,
        "sharpness": sharpness,
        "large_over_small_sharpness": sharper,
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    notes = [*_notes(best, matched, added), *sharpness_notes(sharper)]
    return Findings(QUESTION, _answer(losses, added), [c for c in charts if c.series], kept, notes, [MEASURE])


def _matched(study: Study, chosen: pd.DataFrame) -> pd.DataFrame:
    """The differences between batches at equal epochs, equal updates or equal train loss."""
    history = study.histories(["event", "step", "epoch", *METRICS])
    tables = [gap_by_batch(chosen, history, match) for match in MATCHES] if len(chosen) else []  # type: ignore[arg-type]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


# ---- charts -------------------------------------------------------------------------------------------------------------


def _by_batch(best: pd.DataFrame, metric: str, title: str, label: str) -> Chart:
    series = []
    for optimizer, rows in best[best["trial"].notna()].groupby("optimizer"):
        low, high = rows[metric] - rows[f"{metric}_std"], rows[metric] + rows[f"{metric}_std"]
        series.append(Series(label=method(str(optimizer)), x=rows["batch"], y=rows[metric], low=low, high=high))
    return Chart(
        name=metric,
        title=f"{title} against batch size",
        caption="The best trial at every batch by validation accuracy; bars are one standard deviation over seeds.",
        x_label="Batch size (examples)",
        y_label=label,
        log_x=True,
        percent_y=metric.endswith("accuracy"),
        ticks_at_x=True,
        series=series,
    )


def _matched_chart(matched: pd.DataFrame) -> Chart:
    series = []
    if len(matched):
        known = matched[matched["test_accuracy_excess"].notna() & (matched["passed"] > 0)]
        for key, rows in known.groupby(["match", "optimizer"], sort=False):
            match, optimizer = map(str, key)
            panel = f"At {MATCHES[match]}"
            # Losses are drawn downward. The smallest batch has none, and no interval.
            lost = {
                "y": rows["test_accuracy_excess"],
                "low": rows["test_accuracy_excess_high"].where(rows["batch"] > rows["batch"].min()),
                "high": rows["test_accuracy_excess_low"].where(rows["batch"] > rows["batch"].min()),
            }
            points = {name: -100 * values for name, values in lost.items()}
            series.append(Series(label=method(str(optimizer)), x=rows["batch"], panel=panel, **points))
    return Chart(
        name="matched",
        title="Test accuracy against batch size at matched training",
        caption="The best trials. Minus that of the smallest batch of the same optimizer and seed, where all its runs "
        "have passed the same point; 95 % Student intervals.",
        x_label="Batch size (examples)",
        y_label="Test accuracy (points)",
        share_y=False,
        log_x=True,
        ticks_at_x=True,
        series=series,
        references=[Reference(0.0)],
    )


def _remedies_chart(added: pd.DataFrame) -> Chart:
    series = []
    if len(added):
        for way, rows in added[added["seeds"] > 0].groupby("chosen"):
            series.append(
                Series(
                    label=str(way),
                    x=rows["remedy"],
                    y=100 * rows["difference"],
                    kind="points",
                    low=100 * rows["low"],
                    high=100 * rows["high"],
                )
            )
    return Chart(
        name="remedies",
        title="What the remedies add to the plain large batch",
        caption="Differences of test accuracy to momentum SGD at the large batch, paired by seed; 95 % Student intervals, for "
        "the settings found.",
        y_label="Test accuracy gained (points)",
        horizontal=True,
        series=series,
        references=[Reference(0.0)],
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(losses: pd.DataFrame, added: pd.DataFrame) -> str:
    rows = losses[(losses["metric"] == "test_accuracy") & (losses["seeds"] > 0)] if len(losses) else losses
    if rows.empty:
        return "Not enough runs for an answer: no optimizer has seeds that are done at two batch sizes."
    each = [f"{row['optimizer']} {points(row)}" for _, row in rows.iterrows()]
    sizes = f"batch {rows['small'].min()} instead of {rows['large'].max()}"
    words = (
        f"With the best trial at every batch, {sizes} changes test accuracy by: {'; '.join(each)}. "
        f"Differences told from zero: {told(rows)}."
    )
    known = added[(added["remedy"] != SMALL) & (added["seeds"] > 0)] if len(added) else added
    if known.empty:
        return f"{words} Not enough runs for the remedies."
    best = []
    for way, own in known.groupby("chosen", sort=False):
        top = own.iloc[int(own["difference"].argmax())]
        best.append(
            f"with the {way}, {top['remedy']} adds the most, {points(top)} (told from zero, each alone: {told(own)})"
        )
    return f"{words} Of the remedies at batch {known['batch'].iloc[0]}, {'; '.join(best)}."


def _notes(best: pd.DataFrame, matched: pd.DataFrame, added: pd.DataFrame) -> Sequence[str]:
    notes = [
        "For the settings found, intervals are 95 % Student intervals of differences paired by seed: they say what these "
        "settings do with other seeds. For new searches of the same space and size, trials and seeds are resampled and the best "
        "trial is chosen again. Such a difference is undecided if its interval and the percentiles of the resamples disagree "
        "about zero. There is no correction for the number of differences, and what lies inside an interval has not been ruled "
        "out."
    ]
    missing = best[best["trial"].isna()]
    if len(missing):
        cells = ", ".join(f"{row['optimizer']} at batch {row['batch']}" for _, row in missing.iterrows())
        notes.append(f"No trial has come to a result that can be used: {cells}.")
    if edge := int(best["at_edge"].sum()):
        notes.append(f"At {edge} of {len(best)} points the best trial lies at an edge of the search space: widen it.")
    for match, words in MATCHES.items() if len(matched) else ():
        own = matched[(matched["match"] == match) & (matched["done"] > 0)]
        lost = int((own["passed"] < own["done"]).sum())
        if lost:
            notes.append(
                f"At {words}, {lost} of {len(own)} points lack runs, whose evaluations do not span the common value."
            )
    if len(added):
        small = added[(added["remedy"] == SMALL) & (added["seeds"] > 0)]
        for _, row in small.iterrows():
            notes.append(
                f"What there is to win ({row['chosen']}): batch {row['batch']} gains {points(row)} over the plain large batch."
            )
        if lost := int(added["pairs_diverged"].sum()):
            notes.append(
                f"{lost} pairs of runs with a remedy and without have no difference, since one of them diverged."
            )
    return notes
