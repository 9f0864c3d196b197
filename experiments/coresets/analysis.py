"""Training on chosen tenths of the examples: accuracy, error of the gradient, examples that were used, and both clocks."""

import numpy as np
import pandas as pd
from coreset_claims import SELECTION, claims

from optbench.analysis.charts.chart import Chart
from optbench.analysis.charts.layout import Series
from optbench.analysis.findings import Findings
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

QUESTION = "Does a tenth of the examples, chosen by CRAIG or AdaCore, beat a random tenth in accuracy, and all examples in time?"
NAMES = {"none": "all examples", "random": "random", "craig": "CRAIG", "adacore": "AdaCore"}
MODELS = {"logreg": "Softmax regression", "mlp": "784-128-10"}
ERRORS = {"last_layer_error": "last layer", "gradient_error": "all parameters"}
VALUES = (
    "test_accuracy",
    "last_layer_error",
    "gradient_error",
    "distinct",
    "seconds_training",
    "seconds_selection",
    "seconds_to_reach",
)


def analyse(study: Study) -> Findings:
    """Means over seeds for every selection, and differences and ratios of pairs of runs with one seed."""
    table = points(study)
    if not len(table):
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    means, pairs = settings(table), comparisons(table)
    charts = [_accuracies(study, table), _errors(means)]
    tables = {"settings": means, "comparisons": pairs, "points": table}
    charts = [chart for chart in charts if chart.series]
    return Findings(
        QUESTION,
        _answer(pairs, table),
        charts,
        {name: each for name, each in tables.items() if len(each)},
        _notes(study, table, pairs),
        claims=claims(study.runs, pairs, NAMES),
    )


def _done(study: Study) -> pd.DataFrame:
    runs = study.runs[study.runs["status"] == "done"]
    return seeds_only(runs, ["model", SELECTION]) if len(runs) else runs


def points(study: Study) -> pd.DataFrame:
    """One row for each run that is done; errors are means over the measurements of the probe, at subsets of all ages.

    seconds_to_reach: for subsets, the seconds of training in which the run on all examples with this seed first evaluates to at
    least the final test accuracy of the subset; NaN if it never does.
    """
    runs = _done(study)
    if runs.empty:
        return pd.DataFrame()
    history = study.histories(["event", "step", "seconds", "test_accuracy"])
    history = history[history["event"] == "evaluation"]
    rows = []
    for _, run in runs.iterrows():
        name = str(run[SELECTION])
        row = {"model": str(run["model"]), "selection": name, "seed": int(run["seed"])}
        row |= {"test_accuracy": float(run["test_accuracy"]), "seconds_training": float(run["seconds_training"])}
        measured = study.measurements(run["run_id"], "coreset")
        row |= {
            error: float(np.mean([each.values[error] for each in measured])) if measured else np.nan for error in ERRORS
        }
        row["seconds_selection"] = float(run["seconds_selection"]) if name != "none" else 0.0
        row["distinct"] = float(run["distinct_examples"]) if name != "none" else np.nan
        whole = runs[(runs["model"] == run["model"]) & (runs["seed"] == run["seed"]) & (runs[SELECTION] == "none")]
        row["seconds_to_reach"] = np.nan
        if len(whole) and name != "none":
            own = history[history["run_id"] == whole.iloc[0]["run_id"]]
            reached = own[own["test_accuracy"] >= row["test_accuracy"]]["seconds"]
            row["seconds_to_reach"] = float(reached.min()) if len(reached) else np.nan
        rows.append(row)
    order = {name: place for place, name in enumerate(NAMES)}
    return pd.DataFrame(rows).sort_values(
        ["model", "selection", "seed"],
        key=lambda each: each.map(order) if each.name == "selection" else each,
        ignore_index=True,
    )


def settings(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, with the Student interval of the test accuracy."""
    rows = []
    for (model, name), own in table.groupby(["model", "selection"], sort=False):
        accuracy = student(own["test_accuracy"])
        row = {"model": model, "selection": NAMES[str(name)], "seeds": len(own)}
        row |= {"low": accuracy.low, "high": accuracy.high}
        rows.append(row | {value: float(own[value].mean()) for value in VALUES})
    return pd.DataFrame(rows)


def comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, pair of selections and value: Student's interval over seeds, of differences or ratios of pairs.

    positive: the pairs in which the difference is above 0, or the ratio above 1. least, most: the mean without one of the seeds.
    """
    rows = []
    for model, own in table.groupby("model", sort=False):
        for one, other in (
            ("craig", "random"),
            ("adacore", "random"),
            ("adacore", "craig"),
            ("random", "none"),
            ("craig", "none"),
            ("adacore", "none"),
        ):
            both = own[own["selection"] == one].merge(
                own[own["selection"] == other], on="seed", suffixes=("", "_other")
            )
            values = {"test_accuracy": both["test_accuracy"] - both["test_accuracy_other"]}
            if other != "none":
                values |= {error: both[error] / both[f"{error}_other"] for error in ERRORS}
            else:
                both = both.dropna(subset=["seconds_to_reach"])
                values["speed_up"] = both["seconds_to_reach"] / (both["seconds_training"] + both["seconds_selection"])
            for value, each in values.items():
                if not len(each):
                    continue
                found = student(each)
                left = [each.drop(place).mean() for place in each.index] if len(each) > 1 else [np.nan]
                row = {"model": model, "one": one, "other": other, "value": value, "seeds": len(each)}
                row |= {"mean": found.estimate, "low": found.low, "high": found.high}
                row["positive"] = int((each > (0 if value == "test_accuracy" else 1)).sum())
                rows.append(row | {"least": float(np.min(left)), "most": float(np.max(left))})
    return pd.DataFrame(rows)


# ---- words --------------------------------------------------------------------------------------------------------------


def _row(pairs: pd.DataFrame, model: str, one: str, other: str, value: str) -> pd.Series | None:
    if pairs.empty:
        return None
    chosen = (pairs["model"] == model) & (pairs["one"] == one) & (pairs["other"] == other) & (pairs["value"] == value)
    return pairs[chosen].iloc[0] if chosen.any() else None


def _interval(row: pd.Series, factor: float = 1.0) -> Interval:
    return Interval(*(factor * row[name] for name in ("mean", "low", "high")))


def _answer(pairs: pd.DataFrame, table: pd.DataFrame) -> str:
    words = []
    for model in pairs["model"].unique() if len(pairs) else ():
        parts = [
            f"{NAMES[one]} {_interval(row, 100):+.1f}"
            for one in ("craig", "adacore")
            if (row := _row(pairs, model, one, "random", "test_accuracy")) is not None
        ]
        if parts:
            words.append(
                f"{MODELS.get(model, model)}, points of test accuracy above a random tenth: {', '.join(parts)}."
            )
    if words:
        words += [note.partition(". ")[2] for note in _clocks(table)]
    return " ".join(words) or "Not enough runs for an answer: no two selections have a seed in common."


def _notes(study: Study, table: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    notes = [
        "What a number estimates: the mean over seeds, each of which draws the initial weights and the order of the examples, "
        "for one training set, rate, size of subsets and number of gradients. Intervals are Student's (95 %), each for itself; "
        "with three seeds they are wide. Seconds are those of a busy machine, and say little but their order of magnitude.",
        "AdaCore is a reconstruction: coordinates, average and defaults are ours (docs/methods/selection.md).",
        *_criterion(
            pairs,
            1,
            "the error of the last layer's gradient is below that of a random tenth",
            "last_layer_error",
            (("craig", "random"), ("adacore", "random")),
            1.0,
            below=True,
        ),
        *_criterion(
            pairs,
            2,
            "the test accuracy is above that of a random tenth",
            "test_accuracy",
            (("craig", "random"), ("adacore", "random")),
            0.0,
        ),
        *_criterion(
            pairs, 3, "AdaCore has a higher test accuracy than CRAIG", "test_accuracy", (("adacore", "craig"),), 0.0
        ),
        *_clocks(table),
    ]
    for model in table["model"].unique():
        rows = [(one, _row(pairs, model, one, "none", "test_accuracy")) for one in ("random", "craig", "adacore")]
        listed = ", ".join(f"{NAMES[one]} {_interval(row, 100):+.1f}" for one, row in rows if row is not None)
        if listed:
            notes.append(
                f"{MODELS.get(model, model)}, points of test accuracy above all examples at equal gradients: {listed}."
            )
    if diverged := int((study.runs["status"] == "diverged").sum()):
        notes.append(f"{diverged} runs diverged and are left out.")
    return notes


def _clocks(table: pd.DataFrame) -> list[str]:
    """Criterion 4, with the pairs in which all examples never reach the accuracy, and the bounds that these have."""
    notes = []
    subsets = table[table["selection"].isin(["craig", "adacore"])]
    whole = table[table["selection"] == "none"][["model", "seed", "seconds_training"]]
    both = subsets.merge(whole, on=["model", "seed"], suffixes=("", "_all"))
    both["total"] = both["seconds_training"] + both["seconds_selection"]
    if len(both):
        reached = both.dropna(subset=["seconds_to_reach"])
        faster = int((reached["seconds_to_reach"] > reached["total"]).sum())
        times = both["total"] / both["seconds_training_all"]
        verdict = (
            "does not hold" if faster < len(reached) else "is not established" if len(reached) < len(both) else "holds"
        )
        notes.append(
            "Criterion 4, CRAIG and AdaCore reach their accuracy in less time than all examples, selection included: "
            f"{verdict}. All examples reach the accuracy of CRAIG or AdaCore within the same number of gradients in "
            f"{len(reached)} of {len(both)} pairs, and the subset is faster in {faster} of these. Subsets take "
            f"{times.min():.0f} to {times.max():.0f} times the seconds of the whole run on all examples, which could train as "
            "many times longer."
        )
    return notes


def _criterion(
    pairs: pd.DataFrame,
    number: int,
    words: str,
    value: str,
    compared: tuple[tuple[str, str], ...],
    bound: float,
    below: bool = False,
) -> list[str]:
    """Holds if the whole interval is on the right side in all comparisons, is undecided if no interval is on the wrong one."""
    rows = (
        pairs[
            (pairs["value"] == value)
            & np.array([pair in compared for pair in zip(pairs["one"], pairs["other"], strict=True)], dtype=bool)
        ]
        if len(pairs)
        else pairs
    )
    if not len(rows) or rows["low"].isna().any():
        return []
    sign = -1 if below else 1
    good = (rows["high"] < bound) if below else (rows["low"] > bound)
    bad = (rows["low"] > bound) if below else (rows["high"] < bound)
    verdict = (
        "holds"
        if good.all()
        else "does not hold"
        if bad.any() or (sign * (rows["mean"] - bound) <= 0).all()
        else "is not established"
    )
    factor, form = (100, "+.1f") if value == "test_accuracy" else (1, ".2f")
    listed = "; ".join(
        f"{MODELS.get(row['model'], row['model'])}, {NAMES[row['one']]} against {NAMES[row['other']]}: "
        f"{_interval(row, factor):{form}} ({factor * row['least']:{form}} to {factor * row['most']:{form}} without one seed)"
        for _, row in rows.iterrows()
    )
    kind = "points" if value == "test_accuracy" else "ratios"
    return [f"Criterion {number}, {words}: {verdict}, in {kind}. {listed}."]


# ---- charts -------------------------------------------------------------------------------------------------------------


def _accuracies(study: Study, table: pd.DataFrame) -> Chart:
    history = study.histories(["event", "step", "test_accuracy"])
    history = history[history["event"] == "evaluation"].merge(_done(study)[["run_id", "model", SELECTION]], on="run_id")
    series = []
    for model in table["model"].unique():
        for look, (name, label) in enumerate(NAMES.items()):
            own = history[(history["model"] == model) & (history[SELECTION] == name)].groupby("step")["test_accuracy"]
            if len(own):
                series.append(
                    Series(
                        label=label,
                        x=own.mean().index.tolist(),
                        y=own.mean(),
                        low=own.min(),
                        high=own.max(),
                        panel=MODELS.get(model, model),
                        look=look,
                    )
                )
    return Chart(
        name="accuracy",
        title="Test accuracy by the number of steps",
        caption="Means over seeds with their range, at equal numbers of gradients.",
        x_label="steps",
        y_label="test accuracy",
        percent_y=True,
        series=series,
    )


def _errors(means: pd.DataFrame) -> Chart:
    series = [
        Series(
            label=label,
            x=list(own["selection"]),
            y=own[error],
            kind="bars",
            panel=MODELS.get(str(model), str(model)),
            look=look,
        )
        for model, own in means[means["selection"] != NAMES["none"]].groupby("model", sort=False)
        for look, (error, label) in enumerate(ERRORS.items())
    ]
    return Chart(
        name="errors",
        title="Error of the gradient of the subset",
        caption="Relative to the gradient of all training examples; means over seeds and over training, at subsets of all ages.",
        y_label="relative error",
        series=series,
    )
