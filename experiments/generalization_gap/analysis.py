"""The gap and the test accuracy against batch size, and the gain of each remedy over the plain large batch."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from gap_conditions import METRIC, PLAIN, conditions, of_best_trials
from gap_sharpness import MEASURE, MEASURES, lines_between, sharpness_notes, solutions

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.laws.gap import METRICS, gap_by_batch
from optbench.analysis.laws.minima import line_chart, measures_chart, ratios
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.pairs import differences_by_seed
from optbench.analysis.statistics.selection import select
from optbench.analysis.study import Study

QUESTION = "Do large batches generalize worse than small ones, or are they only tuned worse, and which remedy helps?"
SMALL = "small batch"
#: The ways to choose the trial of a remedy.
KEPT, TUNED = "trial of the small batch", "best trial at the large batch"
#: These scale the rate of the small batch's trial, and are not tuned again.
RULES = ("linear scaling", "square-root scaling")
MATCHES = {"epoch": "the same epochs", "step": "the same updates", "train_loss": "the same train loss"}


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
    losses, remedies = _losses(chosen), _remedies(runs, best)
    sharpness, lines = solutions(study, chosen), lines_between(study, chosen)
    sharper = ratios(sharpness, "optimizer", MEASURES)
    charts = [
        _by_batch(best, "gap_accuracy", "Generalization gap in accuracy", "Train minus test accuracy"),
        _by_batch(best, "gap_loss", "Generalization gap in loss", "Test minus train loss"),
        _by_batch(best, "test_accuracy", "Test accuracy", "Test accuracy"),
        _matched_chart(matched),
        _remedies_chart(remedies),
        measures_chart(
            sharpness, "optimizer", MEASURES, "sharpness", "Sharpness of small- and large-batch solutions", True
        ),
        line_chart(lines, chosen["batch"].min(), chosen["batch"].max(), "optimizer and seed"),
    ]
    tables = {
        "best_trials": best,
        "small_minus_large": losses,
        "matched": matched,
        "remedies": remedies,
        "sharpness": sharpness,
        "large_over_small_sharpness": sharper,
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    notes = [*_notes(best, matched, remedies), *sharpness_notes(sharper)]
    return Findings(QUESTION, _answer(losses, remedies), [c for c in charts if c.series], kept, notes, [MEASURE])


def _mean(differences: pd.Series) -> Interval:
    return student(differences[np.isfinite(differences)].to_numpy(float))


def _losses(chosen: pd.DataFrame) -> pd.DataFrame:
    """For every optimizer, the test accuracy and the gap of the smallest batch minus those of the largest, by seed."""
    rows = []
    for optimizer, own in chosen.groupby("optimizer"):
        small, large = own["batch"].min(), own["batch"].max()
        if small == large:
            continue
        for metric in ("test_accuracy", "gap_accuracy", "gap_loss"):
            pairs = differences_by_seed(own, metric, "batch", small, large, match=("seed",))
            found = _mean(pairs["difference"])
            row = {
                "optimizer": optimizer,
                "metric": metric,
                "small": small,
                "large": large,
                "difference": found.estimate,
            }
            seeds = int(np.isfinite(pairs["difference"]).sum())
            rows.append(row | {"low": found.low, "high": found.high, "seeds": seeds})
    return pd.DataFrame(rows)


def _matched(study: Study, chosen: pd.DataFrame) -> pd.DataFrame:
    """The differences between batches at equal epochs, equal updates or equal train loss."""
    history = study.histories(["event", "step", "epoch", *METRICS])
    tables = [gap_by_batch(chosen, history, match) for match in MATCHES] if len(chosen) else []  # type: ignore[arg-type]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _remedies(runs: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of every remedy minus that of the plain large batch, paired by seed, by both ways to choose the trial."""
    momentum = best[(best["optimizer"] == "momentum") & best["trial"].notna()].sort_values("batch")
    own = runs[runs["optimizer"].isin(["momentum", "lars"])]
    if momentum.empty or own.empty:
        return pd.DataFrame()
    small, large = own["batch"].min(), own["batch"].max()
    at_large, at_small = own[own["batch"] == large], own[(own["batch"] == small) & (own["condition"] == PLAIN)]
    frame = pd.concat([at_large, at_small.assign(condition=SMALL)])
    tuned = (
        select(frame, ["condition"], METRIC, ["test_accuracy"]).dropna(subset="trial").set_index("condition")["trial"]
    )
    rows = []
    for way in (KEPT, TUNED):
        if (SMALL if way == KEPT else PLAIN) not in tuned:
            continue
        for condition in dict.fromkeys(frame["condition"]):
            unfit = condition == "LARS" if way == KEPT else condition in RULES
            if condition == PLAIN or unfit or condition not in tuned:
                continue
            trials = {name: tuned[SMALL] if way == KEPT else tuned[name] for name in (condition, PLAIN)}
            picked = frame[frame["trial"] == frame["condition"].map(trials)]
            values = picked[(picked["condition"] == condition) & (picked["status"] == "done")]["test_accuracy"]
            pairs = differences_by_seed(picked, "test_accuracy", "condition", condition, PLAIN, match=("seed",))
            found, finite = _mean(pairs["difference"]), np.isfinite(pairs["difference"])
            row = {
                "remedy": condition,
                "chosen": way,
                "trial": int(trials[condition]),
                "batch": small if condition == SMALL else large,
            }
            row |= {"test_accuracy": values.mean(), "difference": found.estimate, "low": found.low, "high": found.high}
            rows.append(row | {"seeds": int(finite.sum()), "pairs_diverged": int((~finite).sum())})
    return pd.DataFrame(rows)


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


def _remedies_chart(remedies: pd.DataFrame) -> Chart:
    series = []
    if len(remedies):
        for way, rows in remedies[remedies["seeds"] > 0].groupby("chosen"):
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
        caption="Differences of test accuracy to momentum SGD at the large batch, paired by seed; 95 % Student intervals.",
        y_label="Test accuracy gained (points)",
        horizontal=True,
        series=series,
        references=[Reference(0.0)],
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _points(row: pd.Series) -> str:
    if math.isnan(row["low"]):
        return f"{100 * row['difference']:+.2f} points (one seed: no interval)"
    return f"{100 * row['difference']:+.2f} points [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"


def _answer(losses: pd.DataFrame, remedies: pd.DataFrame) -> str:
    rows = losses[(losses["metric"] == "test_accuracy") & (losses["seeds"] > 0)] if len(losses) else losses
    if rows.empty:
        return "Not enough runs for an answer: no optimizer has seeds that are done at two batch sizes."
    each = [f"{row['optimizer']} {_points(row)}" for _, row in rows.iterrows()]
    sizes = f"batch {rows['small'].min()} instead of {rows['large'].max()}"
    words = f"With the best trial at every batch, {sizes} changes test accuracy by: {', '.join(each)}."
    known = remedies[(remedies["remedy"] != SMALL) & (remedies["seeds"] > 0)] if len(remedies) else remedies
    if known.empty:
        return f"{words} Not enough runs for the remedies."
    best = []
    for way, rows in known.groupby("chosen", sort=False):
        top, helpful = rows.iloc[int(rows["difference"].argmax())], int((rows["low"] > 0).sum())
        best.append(
            f"with the {way}, {top['remedy']} adds the most, {_points(top)}, and {helpful} of {len(rows)} have an interval above "
            "zero, each alone"
        )
    return f"{words} Of the remedies at batch {known['batch'].iloc[0]}, {'; '.join(best)}."


def _notes(best: pd.DataFrame, matched: pd.DataFrame, remedies: pd.DataFrame) -> Sequence[str]:
    notes = [
        "Intervals are 95 % Student intervals of differences paired by seed, without a correction for their number, and "
        "without the chance of the choice of trials. What lies inside an interval has not been ruled out."
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
    if len(remedies):
        small = remedies[(remedies["remedy"] == SMALL) & (remedies["seeds"] > 0)]
        for _, row in small.iterrows():
            notes.append(
                f"What there is to win ({row['chosen']}): batch {row['batch']} gains {_points(row)} over the plain large batch."
            )
        if lost := int(remedies["pairs_diverged"].sum()):
            notes.append(
                f"{lost} pairs of runs with a remedy and without have no difference, since one of them diverged."
            )
    return notes
