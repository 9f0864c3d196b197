"""The table of runs on a study's page, to sort and filter, with the settings and the curves of each run."""

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.charts.styles import look
from optbench.analysis.names import is_of_methods, method
from optbench.analysis.report.page import is_fraction
from optbench.analysis.statistics.settings import setting_columns, varied
from optbench.config import CommandWriter
from optbench.store import RunDirectory, StoreError

# The approximate number of points of all curves on a page, and the smallest and largest number for a run.
_POINTS = 80_000
_FEWEST, _MOST = 8, 80
#: With more runs than this, a page is larger than 2 MB, and shows so many of them.
MOST_SHOWN, SHOWN_OF_MORE = 3000, 1000
_DIGITS, _DIGITS_OF_A_CURVE = 7, 4
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


def as_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with all of their results and settings, except settings of the machine, for a file."""
    of_configuration = {column for column in runs.columns if str(column).startswith("config.")}
    own = set(setting_columns(runs, probes=True))
    kept = [column for column in runs.columns if column not in of_configuration or column in own]
    return runs[[column for column in kept if not runs[column].isna().all()]]


def shown(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs on the page: all, or of more than `MOST_SHOWN` a part, evenly spaced; their file has all."""
    if len(runs) <= MOST_SHOWN:
        return runs
    return runs.iloc[np.linspace(0, len(runs) - 1, SHOWN_OF_MORE).round().astype(int)]


def data(runs: pd.DataFrame, results_dir: str | Path, folder: Path) -> dict[str, Any]:
    """The data of the table of runs for page.js, column by column, which takes a third of the space of rows.

    "columns" of the table and the "values" in each; "settings", those in which the runs differ; "files", the files that
    each run in ``results_dir`` has. folder: the folder of the page, from which links lead to the files.
    """
    cell = varied(runs, [str(name) for name in runs.columns if str(name).startswith("cell.")])
    # A value of the cell that is also a column of the frame is shown once.
    identity = varied(
        runs, [name for name in ("optimizer", "model", "dataset", "batch", "seed", "trial") if name in runs]
    )
    cell = [column for column in cell if column.removeprefix("cell.") not in identity]
    metrics = [name for name in _METRICS if name in runs and runs[name].notna().any()]
    columns = ["run_id", "state", *identity, *cell, *metrics]
    if (runs["why"] != "").any():
        columns.append("why")
    values = [
        _column(runs[name].map(method, na_action="ignore") if is_of_methods(name) else runs[name]) for name in columns
    ]
    chosen = varied(runs, setting_columns(runs, probes=True))
    return {
        "columns": [
            {
                "key": name,
                "label": name.removeprefix("cell.").replace("_", " ") if name != "run_id" else "run",
                "number": all(value is None or _is_number(value) for value in column),
                "percent": is_fraction(name, runs[name]),
            }
            for name, column in zip(columns, values, strict=True)
        ],
        "values": values,
        # A setting that only another optimizer has is missing for this run.
        "settings": {name.removeprefix("config."): _column(runs[name]) for name in chosen},
        "files": _files(list(runs["run_id"]), Path(results_dir), folder),
    }


def commands(runs: Sequence[RunDirectory]) -> list[str | None]:
    """For each run the command that runs it alone; None if its configuration cannot be read, or has unknown choices."""
    configs: list[Mapping[str, Any] | None] = []
    for run in runs:
        try:
            configs.append(run.config())
        except StoreError:
            configs.append(None)
    written = CommandWriter()
    found: list[str | None] = []
    for config in configs:
        try:
            words = None if config is None else written.words(config)
        except (KeyError, TypeError, AttributeError):
            words = None
        found.append(None if words is None else shlex.join(["python", "-m", "optbench", *words]))
    return found


def curves(runs: pd.DataFrame, histories: pd.DataFrame) -> dict[str, Any] | None:
    """The losses and accuracies of the runs at evaluations, thinned so that all runs together stay small.

    "lengths": the number of points of each run. "values": the points of all runs, one after another, by name: "step" and
    those of CURVES that any run has. None if no run has any.
    """
    names = [name for name in CURVES if name in histories and histories[name].notna().any()]
    if not names or "step" not in histories:
        return None
    most = int(np.clip(_POINTS / (len(names) * max(1, len(runs))), _FEWEST, _MOST))
    rows = histories.loc[histories[names].notna().any(axis=1), ["run_id", "step", *names]]
    place = pd.Index(runs["run_id"]).get_indexer(pd.Index(rows["run_id"]))
    order = np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
    there = np.bincount(place[order], minlength=len(runs))
    lengths = np.minimum(there, most)
    # The first and the last point of each run, and others spaced as evenly as possible between them.
    number = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    apart = (there - 1) / np.maximum(lengths - 1, 1)
    chosen = np.floor(number * np.repeat(apart, lengths) + 0.5).astype(int)
    kept = rows.iloc[order[np.repeat(np.cumsum(there) - there, lengths) + chosen]]
    values = {name: [_short(value, _DIGITS_OF_A_CURVE) for value in kept[name].tolist()] for name in ("step", *names)}
    return {"lengths": lengths.tolist(), "values": values}


def curves_as_table(run_ids: Sequence[str], curves: Mapping[str, Any] | None) -> pd.DataFrame:
    """The result of `curves` for these runs as a table: a row for each point, with run_id, step, losses and accuracies."""
    if curves is None:
        return pd.DataFrame({"run_id": pd.Series(dtype=str), "step": pd.Series(dtype=float)})
    return pd.DataFrame({
        "run_id": np.repeat(np.array(run_ids, dtype=object), curves["lengths"]),
        **{name: pd.Series(values, dtype=float) for name, values in curves["values"].items()},
    })  # fmt: skip


def curves_of_table(run_ids: Sequence[str], table: pd.DataFrame) -> dict[str, Any] | None:
    """The inverse of `curves_as_table` for these runs."""
    if table.empty:
        return None
    place = pd.Index(run_ids).get_indexer(pd.Index(table["run_id"]))
    order = np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
    kept, lengths = table.iloc[order], np.bincount(place[order], minlength=len(run_ids))
    names = [name for name in ("step", *CURVES) if name in table]
    values = {name: [_short(value, _DIGITS_OF_A_CURVE) for value in kept[name].tolist()] for name in names}
    return {"lengths": lengths.tolist(), "values": values}


def curve_figure() -> dict[str, Any]:
    """The layout of the figure of a run's curves and the style of each: losses at the left, accuracies at the right."""
    import plotly.graph_objects as go

    from optbench.analysis.charts.template import TEMPLATE

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
            # Its own ticks: at those of the losses an accuracy would not have round values.
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
    """A value of a frame as JSON data: None if it is missing; infinity as text."""
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


def _short(value: Any, digits: int) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.{digits}g}")


def _column(values: pd.Series) -> list[Any]:
    """The values as JSON data; numbers have more digits than the table shows."""
    found = [plain(value) for value in values.tolist()]
    return [_short(value, _DIGITS) if isinstance(value, float) else value for value in found]


def _files(run_ids: Sequence[str], results_dir: Path, folder: Path) -> dict[str, Any] | None:
    """The folder of the runs as an address, the names of their files, and for each run the files that it has, as bits."""
    from urllib.parse import quote

    there = [_there(RunDirectory.at(results_dir, run_id)) for run_id in run_ids]
    if not any(there):
        return None
    runs = RunDirectory.at(results_dir, run_ids[0]).path.parent
    address = Path(os.path.relpath(runs.resolve(), folder.resolve())).as_posix()
    return {"folder": quote(address), "names": _FILES, "there": there}


def _there(directory: RunDirectory) -> int:
    try:
        with os.scandir(directory.path) as entries:
            names = {entry.name for entry in entries}
    except OSError:
        return 0
    return sum(1 << bit for bit, (_, name) in enumerate(_FILES) if name in names)


def differences(configs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The settings in which configurations differ: one row for each setting, one column for each configuration."""
    from optbench.store.files import flatten

    frame = pd.DataFrame(
        [{f"config.{key}": value for key, value in flatten(config).items()} for config in configs.values()]
    )
    columns = varied(frame, setting_columns(frame, probes=True))
    table = frame[columns].astype(object).where(frame[columns].notna(), None).T
    table.columns = list(configs)
    table.insert(0, "setting", [column.removeprefix("config.") for column in columns])
    return table.reset_index(drop=True)
