"""All sweeps and all runs of a results folder, for `status` without a name."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from optbench.store import RunDirectory, StoreError, run_directories
from optbench.store.files import read_object
from optbench.store.run_directory import FINISHED
from optbench.sweep.survey import DOING, Survey
from optbench.terminal import number, percent

# More runs than these are shown in groups.
MOST_ROWS = 100
_GROUP_KEYS = ("dataset", "model", "optimizer", "batch")
_CHOICES = ("optimizer", "model", "dataset")
_RESULTS = ("learning_rate", "steps", "train_loss", "test_loss", "test_accuracy", "gap_accuracy", "seconds_training")
_KEYS = ("run_id", "status", "why", "problem", *_CHOICES, "batch", "seed", *_RESULTS)


def read_runs(results_dir: str | Path) -> list[dict[str, Any]]:
    """What is shown of each run in ``results_dir``, in the order of the table; None where a run has no such value.

    `optbench.store.load` reads everything, which takes several times as long. A damaged run has a ``problem``.
    """
    runs = [_read_run(directory) for directory in run_directories(results_dir)]
    # As text where types differ: a damaged file may hold anything.
    order = (*_GROUP_KEYS, "seed")
    return sorted(runs, key=lambda run: [_sortable(run[key]) for key in order])


def _sortable(value: object) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if isinstance(value, int | float) else 0.0, str(value))


def _read_run(directory: RunDirectory) -> dict[str, Any]:
    status = directory.status()
    problems = [] if status.since else [status.why]
    values: Mapping[str, Any] = {}
    if status.state in FINISHED:
        try:
            values = read_object(directory.path / "summary.json")
        except (StoreError, FileNotFoundError) as error:
            problems.append(str(error))
    if not {*_CHOICES, "batch", "seed"} <= values.keys():
        try:
            config = directory.config()
            named = {key: config[key]["name"] for key in _CHOICES}
            values = {**values, **named, "batch": config["batch"], "seed": config["seed"]}
        except (StoreError, KeyError, TypeError) as error:
            problems.append(f"config.yaml is damaged: {error!r}" if not isinstance(error, StoreError) else str(error))
    known = {
        **values,
        "run_id": directory.run_id,
        "status": status.state,
        "why": status.why,
        "problem": "; ".join(problems),
    }
    return {key: known.get(key) for key in _KEYS}


def as_json(results_dir: str, surveys: Sequence[Survey], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document of `status --json`."""
    sweeps = [
        {"name": seen.name, "total": len(seen.runs), "over": seen.is_over, "counts": seen.counts} for seen in surveys
    ]
    return {"results_dir": results_dir, "sweeps": sweeps, "runs": runs}


def show(results_dir: str, surveys: Sequence[Survey], runs: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """A line a sweep; then a line a run, or where there are more than `MOST_ROWS`, a line a group of runs."""
    if not runs and not surveys:
        return [Text(f"no runs in {results_dir}")]
    shown: list[RenderableType] = [_sweep_table(surveys), Text()] if surveys else []
    title = f"{len(runs)} runs in {results_dir}"
    if len(runs) <= MOST_ROWS:
        return [*shown, _run_table(title, runs)]
    return [*shown, _group_table(f"{title}; their results are medians of those that are done", runs)]


def _sweep_table(surveys: Sequence[Survey]) -> Table:
    table = Table()
    table.add_column("sweep", overflow="fold")
    states = [state for state in DOING if state != "done" and any(seen.counts[state] for seen in surveys)]
    for column in ("done", *states):
        table.add_column(column, justify="right")
    for seen in surveys:
        counts = seen.counts
        table.add_row(seen.name, f"{counts['done']}/{len(seen.runs)}", *(str(counts[state] or "") for state in states))
    return table


def _run_table(title: str, runs: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    columns = ["optimizer", "model", "dataset", "batch", "seed", "status", "learning rate", "steps", "train loss",
               "test loss", "test accuracy", "gap", "seconds"]  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] or column == "status" else "right")
    for run in runs:
        table.add_row(
            *(str(run[group] or "–") for group in _CHOICES),
            *(number(run[key]) for key in ("batch", "seed")),
            run["status"],
            *(number(run[key]) for key in ("learning_rate", "steps", "train_loss", "test_loss")),
            *(percent(run[key]) for key in ("test_accuracy", "gap_accuracy")),
            number(run["seconds_training"]),
        )
    return table


def _group_table(title: str, runs: Iterable[Mapping[str, Any]]) -> Table:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[tuple(str("–" if run[key] is None else run[key]) for key in _GROUP_KEYS)].append(run)
    table = Table(title=title, title_justify="left")
    for column in _GROUP_KEYS:
        table.add_column(column, justify="right" if column == "batch" else "left")
    for column in ("runs", "done", "diverged", "failed", "other", "train loss", "test loss", "test accuracy", "gap"):
        table.add_column(column, justify="right")
    for key, members in groups.items():
        done = [run for run in members if run["status"] == "done"]
        counts = [sum(run["status"] == state for run in members) for state in ("done", "diverged", "failed")]
        table.add_row(
            *key,
            *(str(count or "") for count in (len(members), *counts, len(members) - sum(counts))),
            *(number(_median(done, key)) for key in ("train_loss", "test_loss")),
            *(percent(_median(done, key)) for key in ("test_accuracy", "gap_accuracy")),
        )
    return table


def _median(runs: Iterable[Mapping[str, Any]], key: str) -> float | None:
    values = [float(run[key]) for run in runs if isinstance(run[key], int | float)]
    return median(values) if values else None
