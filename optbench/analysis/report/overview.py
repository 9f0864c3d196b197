"""The findings of a sweep without its own analysis: the best setting of every cell, its curves, and results along the axes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Series, Values
from optbench.analysis.findings import Findings
from optbench.analysis.frames import outcomes
from optbench.analysis.names import is_of_methods, method
from optbench.analysis.report.page import cell, heading
from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.selection import RESULTS, select
from optbench.analysis.statistics.settings import (
    MixedSettings,
    distinguishing,
    seeds_only,
    setting_columns,
    settings_of,
    varied,
)
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better
from optbench.sweep.search.goal import metric_of
from optbench.sweep.search.record import searched_by

# The axes that vary within a cell; the other axes of a sweep make the cells.
_TRIED = ("trial", "optimizer.learning_rate")
_MOST_CURVES, _MOST_AXES = 8, 8
# Points of single runs in a figure: more are a cloud in which none can be clicked, and make the page heavy.
_MOST_POINTS = 2000
# A ratio of the largest to the smallest value above which an axis is logarithmic.
_WIDE = 8
# A style that no method has among the first ones.
_GREY_LOOK = 3


def overview(study: Study) -> Findings:
    """The best setting of every cell by validation, with its test result, its spread over seeds, and the diverged runs.

    A cell is a point of the grid without seed, trial and learning rate, which vary within the cell. The settings of a search are
    compared by the result that it searched.
    """
    runs = study.runs
    question = f"What came out of the sweep {study.plan.name}?"
    ended = runs[runs["status"].isin(["done", "diverged"])]
    metric = _metric(ended, searched_by(study.information))
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
    reported = ("test_accuracy", metric.replace("validation", "test")) if metric.startswith("validation") else ()
    result = next((name for name in reported if name in results), metric)
    table = best[[column for column in best if not best[column].isna().all() and column not in ("edges", "tied")]]
    charts = [_chart(best, by, result)] if by and result in best else []
    charts += _axis_charts(runs, by, settings, metric, result, drawn=_against(best, by) if by else None)
    chosen = _best_runs(runs, best, by, settings, metric)
    charts += _curves(study, chosen, metric)
    tables = {"best_settings": table, "best_hyperparameters": _hyperparameters(runs, chosen, by)}
    kept = {name: frame for name, frame in tables.items() if len(frame)}
    answer = _answer(runs, best, by, settings, metric, result)
    return Findings(question, answer, charts, kept, notes, is_general=True)


def _best_runs(
    runs: pd.DataFrame, best: pd.DataFrame, by: list[str], settings: list[str], metric: str
) -> dict[str, pd.DataFrame]:
    """The done runs of the best setting of each cell, by the words of the cell, the best cell first."""
    column = f"selection_{metric}"
    possible = best[np.isfinite(best[column])].sort_values(
        column, ascending=not higher_is_better(metric), kind="stable"
    )
    found = {}
    for row in possible.to_dict("records"):
        own = runs[_equal(runs, row, [*by, *settings]) & (runs["status"] == "done")]
        if len(own):
            found[_words(row, by or settings)] = own
    return found


def _equal(runs: pd.DataFrame, row: Mapping[Any, Any], names: list[str]) -> pd.Series:
    """True for the runs that have the values of ``row`` in the columns ``names``."""
    chosen = pd.Series(True, index=runs.index)
    for name in names:
        chosen &= runs[name].isna() if _missing(row[name]) else runs[name] == row[name]
    return chosen


def _hyperparameters(runs: pd.DataFrame, chosen: Mapping[str, pd.DataFrame], by: list[str]) -> pd.DataFrame:
    """The settings of the best runs of each cell that differ between the runs of the sweep, a row for each cell."""
    columns = [name for name in varied(runs, setting_columns(runs)) if name != "config.seed"]
    rows = [
        {**{name: own[name].iloc[0] for name in by}, **{name: own[name].iloc[0] for name in columns}}
        for own in chosen.values()
    ]
    frame = pd.DataFrame(rows).rename(columns=lambda name: str(name).removeprefix("config.").removeprefix("cell."))
    # Of an axis and its setting in the configuration, one is enough.
    frame = frame.loc[:, ~frame.columns.duplicated()].drop(columns=[f"{name}.name" for name in by], errors="ignore")
    return frame[[name for name in frame if not frame[name].isna().all()]]


def _curves(study: Study, chosen: Mapping[str, pd.DataFrame], metric: str) -> list[Chart]:
    """The train loss and the metric along the best runs of the best cells: the mean over seeds, and their range."""
    shown = dict(list(chosen.items())[:_MOST_CURVES])
    names = list(dict.fromkeys(["train_loss", metric]))
    run_ids = [run_id for own in shown.values() for run_id in own["run_id"]]
    history = study.histories(["step", *names], run_ids)
    series = []
    for name in names if "step" in history else ():
        title = name.replace("_", " ").capitalize()
        for label, own in shown.items() if name in history else ():
            rows = history[history["run_id"].isin(own["run_id"]) & history[name].notna()]
            steps = rows.groupby("step")[name].agg(["mean", "min", "max", "size"])
            # A step that some of the seeds did not evaluate would be a mean over others.
            steps = steps[steps["size"] == steps["size"].max()]
            if len(steps):
                bounds = {"low": steps["min"], "high": steps["max"], "band": True} if len(own) > 1 else {}
                series.append(Series(label=label, x=steps.index, y=steps["mean"], kind="curve", panel=title, **bounds))
    if not series:
        return []
    few = (
        f"The best {len(shown)} of {len(chosen)} cells"
        if len(shown) < len(chosen)
        else "The best setting of every cell"
    )
    title = metric.replace("_", " ").capitalize()
    accuracy = {title: Values(label=title, percent=True)} if metric.endswith("accuracy") else {}
    return [
        Chart(
            name="learning_curves",
            title="Learning curves of the best settings",
            caption=f"{few}: mean over seeds, bands from the smallest to the largest.",
            x_label="Step",
            share_y=False,
            values=accuracy,
            series=series,
        )
    ]


def _axis_charts(
    runs: pd.DataFrame, by: list[str], settings: list[str], metric: str, result: str, drawn: str | None
) -> list[Chart]:
    """A figure for each axis of the sweep but ``drawn``: the results of runs, and that of the best setting at each value."""
    charts = []
    axes = [name for name in [*by, *settings] if name not in ("optimizer", "trial", drawn) and runs[name].nunique() > 1]
    compared = ["optimizer"] if "optimizer" in by else []
    for axis in axes[:_MOST_AXES]:
        others = [name for name in [*by, *settings] if name not in (axis, *compared)] or ["trial"]
        if others == ["trial"] and "trial" not in runs:
            continue
        best = select(runs, [*compared, axis], metric, [result], others)
        best = best[np.isfinite(best[result])]
        done = runs[(runs["status"] == "done") & runs[result].notna() & runs[axis].notna()]
        numeric = runs[axis].dtype.kind in "iuf"
        series = []
        for label, own in best.groupby(compared[0]) if compared else [("best setting", best)]:
            name = str(method(label)) if compared else str(label)
            rows = own.sort_values(axis) if numeric else own
            spread = {"low": rows[result] - rows[f"{result}_std"], "high": rows[result] + rows[f"{result}_std"]}
            x = rows[axis] if numeric else [cell(value) for value in rows[axis]]
            series.append(Series(label=name, x=x, y=rows[result], kind="line" if numeric else "points", **spread))
        drawn_runs = done.sample(_MOST_POINTS, random_state=0) if len(done) > _MOST_POINTS else done
        few = f"{_MOST_POINTS:,} of {len(done):,} runs, drawn at random"
        series.append(
            Series(
                label="every run" if drawn_runs is done else few,
                x=drawn_runs[axis] if numeric else [cell(value) for value in drawn_runs[axis]],
                y=drawn_runs[result],
                kind="points",
                hollow=True,
                look=_GREY_LOOK,
                runs=list(drawn_runs["run_id"]),
            )
        )
        label = axis.removeprefix("cell.")
        positive = numeric and bool((runs[axis].dropna() > 0).all())
        charts.append(
            Chart(
                name=f"against_{label.replace('.', '_')}",
                title=f"{result.replace('_', ' ').capitalize()} against {heading(label.rpartition('.')[2])}",
                caption="Lines: the setting that is best on validation at each value; bars are a standard deviation over seeds.",
                x_label=heading(label.rpartition(".")[2]).capitalize(),
                y_label="Accuracy" if result.endswith("accuracy") else "Loss",
                percent_y=result.endswith("accuracy"),
                log_x=positive and runs[axis].max() > _WIDE * runs[axis].min(),
                ticks_at_x=numeric and runs[axis].nunique() <= _MOST_AXES,
                series=series,
            )
        )
    return charts


def _mixed(runs: pd.DataFrame, by: list[str]) -> list[str]:
    try:
        seeds_only(runs, by)
    except MixedSettings as error:
        return [f"Settings are kept apart: {error}."]
    return []


def _metric(ended: pd.DataFrame, searched: Mapping[str, object] | None) -> str | None:
    """The result by which settings are chosen: the goal of a search, or else that on validation, or else the training loss."""
    by_default = ("validation_accuracy", "validation_loss", "train_loss")
    names = by_default if searched is None else (metric_of(searched), "train_loss")
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
    chosen = _equal(runs, row.to_dict(), [*by, *settings])
    values = outcomes(runs[chosen & (runs["status"] == "done")], result).to_numpy(float)
    values = values[np.isfinite(values)]
    where = _words(row.to_dict(), by or settings)
    ended = runs["status"].isin(("done", "diverged"))
    count, noun = (len(best), "cell") if by else (len(runs[ended][settings].drop_duplicates()), "setting")
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


def _against(best: pd.DataFrame, by: list[str]) -> str | None:
    """The numeric axis of the figure of the best settings, preferably the batch; None if there is none."""
    numeric = [name for name in by if best[name].dtype.kind in "iuf" and best[name].nunique() > 1]
    return "batch" if "batch" in numeric else next(iter(numeric), None)


def _chart(best: pd.DataFrame, by: list[str], result: str) -> Chart:
    """The result of the best setting of each cell against a numeric axis, preferably the batch, or else against the cells."""
    against = _against(best, by)
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
