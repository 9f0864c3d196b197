"""Charts of the answer of a search: the surrogate, the pairs of settings, or the rungs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.charts.searched import MOST_PANELS, Looked, is_wide, label_of, metric_label, text_of
from optbench.sweep.search.method import Answer, Pick

_MOST_CURVES = 12


def optima(looked: Looked, answer: Answer, panels: Sequence[str]) -> list[Series]:
    """The optimum of each condition with its interval, for the chart of where the search looked."""
    rows = [row for row in answer.rows if {"optimum", "low", "high"} <= row.keys() and looked.law in row]
    found = []
    for panel in panels:
        own = [row for row in rows if looked.panel(_place(row)) == panel]
        if own:
            optimum, low, high = ([_finite(row[name]) for row in own] for name in ("optimum", "low", "high"))
            found.append(
                Series(
                    label="optimum",
                    x=[looked.row(_place(row)) for row in own],
                    y=optimum,
                    low=low,
                    high=high,
                    kind="points",
                    panel=panel if len(panels) > 1 else None,
                    look=1,
                )
            )
    return found


def surrogate(looked: Looked, answer: Answer) -> list[Chart]:
    """The surrogate with its band beside the runs, for each independent search."""
    over = looked.over
    if over is None:
        return []
    rows = [row for row in answer.surrogate if {over, "loss", "low", "high"} <= row.keys()]
    found = list(dict.fromkeys(looked.panel(_place(row)) for row in rows))
    charts = []
    for number, name in enumerate(found[:MOST_PANELS], start=1):
        own = [row for row in rows if looked.panel(_place(row)) == name]
        conditions = _spread(list(dict.fromkeys(looked.row(_place(row)) for row in own)))
        series = []
        for condition in conditions:
            curve = [row for row in own if looked.row(_place(row)) == condition]
            panel = f"{looked.law} {condition}" if len(conditions) > 1 else None
            series.append(_curve("expected", sorted(curve, key=lambda row: float(row[over])), (over, "loss"), panel))
            runs = [each for each in looked.seen if looked.panel(each.pick) == name and each.state == "done"]
            runs = [each for each in runs if looked.row(each.pick) == condition and each.value is not None]
            series.append(
                Series(
                    label="runs",
                    x=[float(each.pick.cell[over]) for each in runs],
                    y=[_finite(each.value) for each in runs],
                    kind="points",
                    panel=panel,
                    look=1,
                    texts=[text_of(each) for each in runs],
                )
            )
        percent = looked.metric.endswith("accuracy")
        charts.append(
            Chart(
                name="surrogate" if len(found) == 1 else f"surrogate_{number}",
                title="Values that the search expects" + (f": {name}" if len(found) > 1 else ""),
                caption="The mean over seeds that the search expects, with a band that holds it with a probability of 95 %, and "
                "the runs that it trained. It leaves a gap where it expects runs to diverge.",
                x_label=label_of(over),
                y_label=metric_label(looked.metric),
                percent_y=percent,
                log_x=is_wide(float(row[over]) for row in own),
                log_y=not percent and is_wide(row["loss"] for row in own if math.isfinite(row["loss"])),
                columns=3,
                series=series,
            )
        )
    return charts


def _place(row: Mapping[str, Any]) -> Pick:
    """The place of a row of an answer among the cells of the grid."""
    return Pick({key: str(value) for key, value in row.items()}, str(row.get("grid", "")))


def pairs(answer: Answer, metric: str, margin: float | None) -> list[Chart]:
    """The difference of each pair of settings after each number of seeds, with its confidence sequence."""
    rows = [row for row in answer.surrogate if {"pair", "n", "estimate", "low", "high"} <= row.keys()]
    names = list(dict.fromkeys(str(row["pair"]) for row in rows))
    shown = _spread(names)
    if not rows:
        return []
    series = [
        _curve(
            "difference",
            [row for row in rows if str(row["pair"]) == name],
            ("n", "estimate"),
            name if len(shown) > 1 else None,
            band=False,
        )
        for name in shown
    ]
    lines = [Reference(0.0, "no difference")]
    lines += [Reference(sign * margin, "margin") for sign in (-1, 1)] if margin else []
    more = f" {len(shown)} of {len(names)} pairs." if len(names) > len(shown) else ""
    return [
        Chart(
            name="verdicts",
            title="Differences after each number of seeds",
            caption=f"Bars are confidence sequences: they hold however often one looks.{more}",
            x_label="Seeds",
            y_label=f"Difference of {metric_label(metric).lower()}",
            series=series,
            references=lines,
        )
    ]


def rungs(answer: Answer, metric: str) -> list[Chart]:
    """The result of each setting at each rung, for each bracket."""
    rows = [row for row in answer.rows if {"bracket", "setting", "steps", "value", "promoted"} <= row.keys()]
    brackets = list(dict.fromkeys(str(row["bracket"]) for row in rows))
    series = []
    for bracket in brackets[:MOST_PANELS]:
        lines: dict[bool, list[Mapping[str, Any]]] = {False: [], True: []}
        own = [row for row in rows if str(row["bracket"]) == bracket]
        last = max(row["steps"] for row in own)
        for setting in dict.fromkeys(str(row["setting"]) for row in own):
            path = [row for row in own if str(row["setting"]) == setting]
            lines[bool(path[-1]["promoted"]) or path[-1]["steps"] == last] += [*path, {}]
        for went_on, path in lines.items():
            if path:
                series.append(
                    Series(
                        label="to the last rung" if went_on else "stopped",
                        x=[row.get("steps", math.nan) for row in path],
                        y=[math.nan if row.get("value") is None else row["value"] for row in path],
                        panel=bracket if len(brackets) > 1 else None,
                        look=0 if went_on else 6,
                        texts=[str(row.get("setting", "")) for row in path],
                    )
                )
    if not series:
        return []
    percent = metric.endswith("accuracy")
    more = f" The first {MOST_PANELS} of {len(brackets)} brackets." if len(brackets) > MOST_PANELS else ""
    return [
        Chart(
            name="rungs",
            title="Results at the rungs",
            caption=f"A line for each setting, to the rung at which it was stopped; one that diverged has no point there.{more}",
            x_label="Steps",
            y_label=metric_label(metric),
            log_x=True,
            log_y=not percent and is_wide(row["value"] for row in rows if row["value"] is not None),
            percent_y=percent,
            series=series,
        )
    ]


def _curve(
    label: str, rows: Sequence[Mapping[str, Any]], names: tuple[str, str], panel: str | None, band: bool = True
) -> Series:
    x, y, low, high = ([_finite(row[name]) for row in rows] for name in (*names, "low", "high"))
    return Series(label=label, x=x, y=y, low=low, high=high, kind="curve" if band else "line", band=band, panel=panel)


def _finite(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _spread(names: list[str]) -> list[str]:
    """At most `_MOST_CURVES` of the names, among them the first and the last."""
    if len(names) <= _MOST_CURVES:
        return names
    return [names[place * (len(names) - 1) // (_MOST_CURVES - 1)] for place in range(_MOST_CURVES)]
