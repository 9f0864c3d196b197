"""The runs of a study as a page shows them: a table to sort and filter, and behind each row its settings and its curves."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.figures.pages import TEMPLATE
from optbench.analysis.layout import look
from optbench.config import MACHINE_KEYS
from optbench.store import RunDirectory

# All curves of a page together have about so many points; a run has at least, and at most, as many as these.
_POINTS = 80_000
_FEWEST, _MOST = 8, 80
CURVES = ("train_loss", "validation_loss", "test_loss", "validation_accuracy", "test_accuracy")
_METRICS = (
    "learning_rate",
    "steps",
    "train_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "gap_loss",
    "gap_accuracy",
    "steps_to_target",
    "seconds_training",
)
_FILES = (("history", "history.jsonl"), ("configuration", "config.yaml"), ("log", "log.txt"))
_OF_A_CHOICE = ("_target_", "info")


def settings(runs: pd.DataFrame) -> list[str]:
    """The columns of the configuration that are settings: neither the machine's, nor what describes a choice."""
    machine = {*MACHINE_KEYS, "trainer", "tracker", "launcher"}
    found = []
    for column in map(str, runs.columns):
        keys = column.split(".")
        if keys[0] == "config" and len(keys) > 1 and keys[1] not in machine and not {*keys} & {*_OF_A_CHOICE}:
            found.append(column)
    return found


def varied(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns in which the runs differ."""
    return [column for column in columns if runs[column].map(repr).nunique() > 1]


def as_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with all of their results and settings, for a file: without the settings of the machine."""
    of_configuration = {column for column in runs.columns if str(column).startswith("config.")}
    kept = [column for column in runs.columns if column not in of_configuration or column in set(settings(runs))]
    return runs[[column for column in kept if not runs[column].isna().all()]]


def data(runs: pd.DataFrame, directories: Sequence[RunDirectory], folder: Path) -> dict[str, Any]:
    """What page.js and run_table.js need of the runs: columns, rows, details (the settings in which they differ), links.

    folder: where the page is to lie; links lead from there to those files of a run that exist.
    """
    cell = varied(runs, [str(name) for name in runs.columns if str(name).startswith("cell.")])
    # What a cell says that the frame has under its own name is shown once.
    identity = varied(
        runs, [name for name in ("optimizer", "model", "dataset", "batch", "seed", "trial") if name in runs]
    )
    cell = [column for column in cell if column.removeprefix("cell.") not in identity]
    metrics = [name for name in _METRICS if name in runs and runs[name].notna().any()]
    columns = ["run_id", "state", *identity, *cell, *metrics]
    if (runs["why"] != "").any():
        columns.append("why")
    rows = [[plain(value) for value in row] for row in runs[columns].itertuples(index=False)]
    numbers = [all(row[place] is None or _is_number(row[place]) for row in rows) for place in range(len(columns))]
    details = varied(runs, settings(runs))
    # By the run's own values: a setting that another optimizer has is none of this one.
    texts = [
        {
            name.removeprefix("config."): plain(value)
            for name, value in zip(details, row, strict=True)
            if plain(value) is not None
        }
        for row in runs[details].itertuples(index=False)
    ]
    links = [_links(directory, folder) for directory in directories]
    return {
        "columns": [
            {
                "key": name,
                "label": name.removeprefix("cell.").replace("_", " ") if name != "run_id" else "run",
                "number": number,
            }
            for name, number in zip(columns, numbers, strict=True)
        ],
        "rows": rows,
        "details": texts if details else [{} for _ in rows],
        "links": links if any(links) else None,
    }


def curves(runs: pd.DataFrame, histories: pd.DataFrame) -> list[dict[str, list[Any]] | None]:
    """For each run its losses and accuracies at evaluations, thinned so that all runs together stay small."""
    names = [name for name in CURVES if name in histories and histories[name].notna().any()]
    if not names or "step" not in histories:
        return [None] * len(runs)
    most = int(np.clip(_POINTS / (len(names) * max(1, len(runs))), _FEWEST, _MOST))
    rows = histories.loc[histories[names].notna().any(axis=1), ["run_id", "step", *names]]
    found = {}
    for run_id, of_run in rows.groupby("run_id", sort=False):
        kept = of_run.iloc[np.unique(np.linspace(0, len(of_run) - 1, min(most, len(of_run))).round().astype(int))]
        found[run_id] = {
            name: [_short(value) for value in kept[name]] for name in ("step", *names) if kept[name].notna().any()
        }
    return [found.get(run_id) for run_id in runs["run_id"]]


def curve_figure() -> dict[str, Any]:
    """The layout of the figure of a run's curves and the look of each: losses at the left, accuracies at the right."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": TEMPLATE, "height": 320, "margin": {"l": 60, "r": 60, "t": 30, "b": 50}})
    figure.update_layout(
        xaxis={"title": {"text": "Step"}},
        yaxis={"title": {"text": "Loss"}},
        yaxis2={
            "title": {"text": "Accuracy"},
            "overlaying": "y",
            "side": "right",
            "tickformat": ".2~%",
            "showgrid": False,
            # Not at the ticks of the losses, where an accuracy has no round values.
            "tickmode": "auto",
        },
    )
    looks = {}
    for index, name in enumerate(CURVES):
        style = look(index)
        line = {"color": style.colour, "dash": style.plotly_dash, "width": 2}
        marker = {"color": style.colour, "symbol": style.symbol, "size": 5}
        looks[name] = {"type": "scatter", "mode": "lines+markers", "line": line, "marker": marker}
    return {"layout": json.loads(figure.to_json())["layout"], "looks": looks}


def plain(value: Any) -> Any:
    """A value of a frame as JSON has it: None where it is missing; infinity as text."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    return str(value)


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in ("∞", "−∞")


def _short(value: Any) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.5g}")


def _links(directory: RunDirectory, folder: Path) -> list[tuple[str, str]]:
    from urllib.parse import quote

    try:
        with os.scandir(directory.path) as entries:
            there = {entry.name for entry in entries}
    except OSError:
        return []
    base = os.path.relpath(directory.path.resolve(), folder.resolve())
    return [(label, quote(f"{base}/{name}")) for label, name in _FILES if name in there]


def differences(configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The settings in which configurations differ: one row a setting, one column a configuration."""
    from optbench.store.files import flatten

    frame = pd.DataFrame(
        [{f"config.{key}": value for key, value in flatten(config).items()} for config in configs.values()]
    )
    columns = varied(frame, settings(frame))
    table = frame[columns].astype(object).where(frame[columns].notna(), None).T
    table.columns = list(configs)
    table.insert(0, "setting", [column.removeprefix("config.") for column in columns])
    return table.reset_index(drop=True)
