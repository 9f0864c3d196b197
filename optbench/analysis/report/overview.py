"""The findings of a sweep without its own analysis: the best trial of every cell, and the results against the axes."""

import math
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.findings import Findings
from optbench.analysis.frames import outcomes
from optbench.analysis.names import is_of_methods, method
from optbench.analysis.report.page import cell, heading
from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.selection import RESULTS, select
from optbench.analysis.statistics.settings import MixedSettings, distinguishing, seeds_only, settings_of, varied
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better
from optbench.sweep.search.record import searched_by

# The axes that vary within a cell; the other axes of a sweep make the cells.
_TRIED = ("trial", "optimizer.learning_rate")


def overview(study: Study) -> Findings:
    """The best setting of every cell by validation, with its test result, its spread over seeds, and the diverged runs.

    A cell is a point of the grid without seed, trial and learning rate, which vary within the cell.
    """
    runs = study.runs
    question = f"What came out of the sweep {study.plan.name}?"
    ended = runs[runs["status"].isin(["done", "diverged"])]
    metric = _metric(ended)
    if metric is None:
        return Findings(question, "No run has come to a result yet.")
    by, settings = _axes(runs, [*_TRIED, *_drawn(study)])
    runs, notes = runs.assign(setting=settings_of(runs)), _mixed(runs, [*by, *settings])
    for column in distinguishing(runs, [*by, *settings]):
        axis = column.removeprefix("cell.")
        by = [column if name == axis else name for name in by] if axis in by else [*by, column]
    once = seeds_only(runs, [*by, *settings])
    if again := len(runs) - len(once):
        notes.append(f"{again} of {len(runs)} runs are of the setting and seed of another one: each seed counts once.")
    runs = once
    results = [name for name in RESULTS if name in ended and ended[name].notna().any()]
    best = select(runs, by, metric, results, settings)
    result = metric.replace("validation", "test") if metric.replace("validation", "test") in results else metric
    table = best[[column for column in best if not best[column].isna().all() and column not in ("edges", "tied")]]
    charts = [_chart(best, by, result)] if by and result in best else []
    return Findings(
        question, _answer(runs, best, by, settings, metric, result), charts, {"best_settings": table}, notes
    )


def _mixed(runs: pd.DataFrame, by: list[str]) -> list[str]:
    try:
        seeds_only(runs, by)
    except MixedSettings as error:
        return [f"Settings are kept apart: {error}."]
    return []


def _metric(ended: pd.DataFrame) -> str | None:
    names = ("validation_accuracy", "validation_loss", "train_loss")
    return next((name for name in names if name in ended and ended[name].notna().any()), None)


def _drawn(study: Study) -> list[str]:
    """The options that a search set besides the axes of the grid; their values vary within a cell, as those of trials do."""
    axes = study.information.get("axes")
    if not isinstance(axes, dict) or searched_by(study.information) is None:
        return []
    return list(dict.fromkeys(key for cell in study.cells.values() for key in cell if key not in axes))


def _axes(runs: pd.DataFrame, tried: list[str]) -> tuple[list[str], list[str]]:
    """The columns that make a cell, and those that vary within it."""
    axes = varied(runs, [str(name) for name in runs.columns if str(name).startswith("cell.")])
    own = {f"cell.{name}": name for name in ("optimizer", "model", "dataset", "batch", "trial") if name in runs}
    named = [own.get(axis, axis) for axis in axes if axis != "cell.seed"]
    settings = [name for name in named if name.removeprefix("cell.") in tried]
    by = [name for name in named if name not in settings]
    if "optimizer" in by:
        by = ["optimizer", *(name for name in by if name != "optimizer")]
    return by, settings or ["trial"]


def _answer(
    runs: pd.DataFrame, best: pd.DataFrame, by: list[str], settings: list[str], metric: str, result: str
) -> str:
    column = f"selection_{metric}"
    possible = best[np.isfinite(best[column])]
    if possible.empty:
        return "No cell of the grid has a setting of which every run came to a result."
    row = possible.loc[possible[column].idxmax() if higher_is_better(metric) else possible[column].idxmin()]
    chosen = pd.Series(True, index=runs.index)
    for name in [*by, *settings]:
        chosen &= runs[name].isna() if _missing(row[name]) else runs[name] == row[name]
    values = outcomes(runs[chosen & (runs["status"] == "done")], result).to_numpy(float)
    values = values[np.isfinite(values)]
    where = _words(row.to_dict(), by or settings)
    count, noun = (len(best), "cell") if by else (len(runs[settings].drop_duplicates()), "setting")
    cells = f"{count} {noun}{'' if count == 1 else 's'}"
    words = f"By {metric.replace('_', ' ')} the best of {cells} is {where}: {result.replace('_', ' ')} "
    if len(values) < 2:
        return words + f"{_shown(float(row[result]), result)}, of one seed: no interval can be given."
    interval = student(values)
    # Student's interval may extend beyond the range of accuracies.
    least, most = (0.0, 1.0) if result.endswith("accuracy") else (-math.inf, math.inf)
    bounds = f"[{_shown(max(interval.low, least), result)}, {_shown(min(interval.high, most), result)}]"
    seeds = f"95 % by Student's t over {len(values)} seeds, which also chose the setting"
    return words + f"{_shown(interval.estimate, result)} {bounds} ({seeds})."


def _missing(value: object) -> bool:
    return bool(pd.isna(value))  # type: ignore[call-overload]


def _shown(value: float, metric: str) -> str:
    return f"{100 * value:.2f} %" if metric.endswith("accuracy") else f"{value:.4g}"


def _chart(best: pd.DataFrame, by: list[str], result: str) -> Chart:
    """The result of the best setting of each cell against a numeric axis, preferably the batch, or else against the cells."""
    numeric = [name for name in by if best[name].dtype.kind in "iuf" and best[name].nunique() > 1]
    against = "batch" if "batch" in numeric else next(iter(numeric), None)
    others = [name for name in by if name != against]
    if best.groupby(others, dropna=False).ngroups > 14 if others else False:
        against, others = None, by
    accuracy = result.endswith("accuracy")
    spread = best[f"{result}_std"]
    columns = {"y": best[result], "low": best[result] - spread, "high": best[result] + spread}
    table = best.assign(**{f"_{name}": values for name, values in columns.items()})
    table = table[np.isfinite(table["_y"])]
    table["_label"] = [_words(row, others) for row in table.to_dict("records")]
    series = []
    if against is None:
        series.append(Series(label=result.replace("_", " "), x=table["_label"], y=table["_y"], low=table["_low"],
                             high=table["_high"], kind="points"))  # fmt: skip
    else:
        for label, rows in table.sort_values(against).groupby("_label", sort=False):
            series.append(Series(label=str(label), x=rows[against], y=rows["_y"], low=rows["_low"], high=rows["_high"]))
    positive = against is not None and (table[against].dropna() > 0).all()
    return Chart(
        name="best_settings",
        title=f"{result.replace('_', ' ').capitalize()} of the best setting of every cell",
        caption="The setting is chosen on validation; bars are one standard deviation over seeds, where there are several.",
        horizontal=against is None,
        x_label={"batch": "Batch size (examples)", None: ""}.get(against, str(against).removeprefix("cell.")),
        y_label="Accuracy" if accuracy else "Loss",
        percent_y=accuracy,
        log_x=bool(positive),
        ticks_at_x=against is not None,
        series=series,
    )


def _words(row: dict[str, Any], names: list[str]) -> str:
    named = ("optimizer", "model", "dataset")
    shown = []
    for name in names:
        if not _missing(row[name]):
            value = cell(method(row[name]) if is_of_methods(name) else row[name])
            shown.append(value if name.removeprefix("cell.") in named else f"{heading(name)} {value}")
    return ", ".join(shown) or "all"
