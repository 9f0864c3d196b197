"""All sweeps and all runs of a results folder, for `status` without a name."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from optbench import config as configuration
from optbench.cli.fitted_table import FittedTable
from optbench.store import RunDirectory, StoreError
from optbench.store.columns import values
from optbench.store.files import read_object
from optbench.store.index import Look
from optbench.store.notes import columns_of
from optbench.store.reading import ids_of_runs
from optbench.store.run_directory import FINISHED
from optbench.store.run_row import STATUS_WHY
from optbench.sweep.status.survey import PHASES, Survey, in_words
from optbench.system.terminal import number, percent

# With more runs than this, groups are shown.
MOST_ROWS = 100
_GROUP_KEYS = ("dataset", "model", "optimizer", "batch")
_CHOICES = ("optimizer", "model", "dataset")
_RESULTS = ("learning_rate", "steps", "train_loss", "test_loss", "test_accuracy", "gap_accuracy", "seconds_training")
_KEYS = ("run_id", "status", "why", "problem", "tags", *_CHOICES, "batch", "seed", *_RESULTS)


def read_runs(look: Look) -> list[dict[str, Any]]:
    """The displayed values of each run, in the order of the table; None for a value that a run lacks.

    `optbench.store.load` reads everything, which takes several times as long. A damaged run has a ``problem``.
    """
    run_ids = ids_of_runs(look.results_dir)
    known = _known(look, run_ids)
    runs = [
        known[run_id] if run_id in known else _read_run(RunDirectory.at(look.results_dir, run_id)) for run_id in run_ids
    ]
    # Values of different types are compared as text: a damaged file may hold anything.
    order = (*_GROUP_KEYS, "seed")
    return sorted(runs, key=lambda run: [_sortable(run[key]) for key in order])


def _known(look: Look, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The finished runs that the index knows, if their summaries hold all that is shown of their configurations."""
    rows, _ = look.find(run_ids, (*_KEYS, STATUS_WHY))
    if rows is None:
        return {}
    # A value that a summary lacks may be in the column from the configuration.
    own = [frozenset(layout.summary) for layout in rows.layouts]
    whole = [{*_CHOICES, "batch", "seed"} <= names for names in own]
    columns = {key: values(rows, STATUS_WHY if key == "why" else key) for key in _KEYS}
    for key in _RESULTS:
        if not all(key in names for names in own):
            there = [key in own[layout] for layout in rows.table.column("layout").to_pylist()]
            columns[key] = [value if here else None for value, here in zip(columns[key], there, strict=True)]
    return {
        shown[0]: dict(zip(_KEYS, shown, strict=True))
        for shown, layout in zip(
            zip(*columns.values(), strict=True), rows.table.column("layout").to_pylist(), strict=True
        )
        if whole[layout]
    }


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
            named = {key: configuration.name_of(config[key]) for key in _CHOICES}
            named["optimizer"] = configuration.optimizer_name(config)
            values = {**values, **named, "batch": config["batch"], "seed": config["seed"]}
        except (StoreError, KeyError, TypeError) as error:
            problems.append(f"config.yaml is damaged: {error!r}" if not isinstance(error, StoreError) else str(error))
    known = {
        **values,
        "run_id": directory.run_id,
        "status": status.state,
        "why": status.why,
        "problem": "; ".join(problems),
        "tags": columns_of(directory)["tags"],
    }
    return {key: known.get(key) for key in _KEYS}


def as_json(results_dir: str, surveys: Sequence[Survey], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document of `status --json`."""
    sweeps = [
        {"name": seen.name, "total": len(seen.runs), "over": seen.is_over, "counts": seen.counts} for seen in surveys
    ]
    return {"results_dir": results_dir, "sweeps": sweeps, "runs": runs}


def show(
    results_dir: str, surveys: Sequence[Survey], runs: Sequence[Mapping[str, Any]], width: int
) -> list[RenderableType]:
    """One line for each sweep; then one for each run or, with more than `MOST_ROWS` runs, for each group of runs.

    ``width``: of the screen, in characters. Columns that do not fit are left out, the less important ones first.
    """
    if not runs and not surveys:
        return [Text(f"no runs in {results_dir}")]
    shown: list[RenderableType] = [*_sweeps(surveys, width), Text()] if surveys else []
    title = f"{len(runs)} run{'' if len(runs) == 1 else 's'} in {results_dir}"
    if len(runs) <= MOST_ROWS:
        return [*shown, Text(title, style="bold"), *_run_table(runs, width)]
    title += "; their results are medians of those that are done"
    return [*shown, Text(title, style="bold"), *_group_table(runs, width)]


def _sweeps(surveys: Sequence[Survey], width: int) -> list[RenderableType]:
    states = [state for state in PHASES if state != "done" and any(seen.counts[state] for seen in surveys)]
    rows = [
        [seen.name, f"{seen.counts['done']}/{len(seen.runs)}", *(str(seen.counts[state] or "") for state in states)]
        for seen in surveys
    ]
    table = FittedTable(["sweep", "done", *states], rows, left=["sweep"], folded=["sweep"])
    if table.least_width <= width:
        return table.render(width)
    return [Text(f"{seen.name}: {in_words(seen.counts)}") for seen in surveys]


def _run_table(runs: Sequence[Mapping[str, Any]], width: int) -> list[RenderableType]:
    columns = [*_CHOICES, "batch", "seed", "status", "learning rate", "steps", "train loss", "test loss", "test accuracy",
               "gap", "seconds"]  # fmt: skip
    tagged = any(run["tags"] for run in runs)
    columns += ["tags"] * tagged
    rows = [
        [
            *(str(run[group] or "–") for group in _CHOICES),
            *(number(run[key]) for key in ("batch", "seed")),
            run["status"],
            *(number(run[key]) for key in ("learning_rate", "steps", "train_loss", "test_loss")),
            *(percent(run[key]) for key in ("test_accuracy", "gap_accuracy")),
            number(run["seconds_training"]),
            *([run["tags"]] * tagged),
        ]
        for run in runs
    ]
    first_to_go = ["seconds", "steps", "train loss", "gap", "test loss", "learning rate", "seed"]
    left, folded = [*_CHOICES, "status", *["tags"] * tagged], [*_CHOICES, *["tags"] * tagged]
    return FittedTable(columns, rows, left, folded, first_to_go).render(width)


def _group_table(runs: Iterable[Mapping[str, Any]], width: int) -> list[RenderableType]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[tuple(str("–" if run[key] is None else run[key]) for key in _GROUP_KEYS)].append(run)
    columns = [
        *_GROUP_KEYS,
        "runs",
        "done",
        "diverged",
        "failed",
        "other",
        "train loss",
        "test loss",
        "test accuracy",
        "gap",
    ]
    rows = []
    for key, members in groups.items():
        done = [run for run in members if run["status"] == "done"]
        counts = [sum(run["status"] == state for run in members) for state in ("done", "diverged", "failed")]
        rows.append(
            [
                *key,
                *(str(count or "") for count in (len(members), *counts, len(members) - sum(counts))),
                *(number(_median(done, name)) for name in ("train_loss", "test_loss")),
                *(percent(_median(done, name)) for name in ("test_accuracy", "gap_accuracy")),
            ]
        )
    first_to_go = ["train loss", "gap", "test loss", "test accuracy"]
    return FittedTable(columns, rows, _CHOICES, _CHOICES, first_to_go).render(width)


def _median(runs: Iterable[Mapping[str, Any]], key: str) -> float | None:
    values = [float(run[key]) for run in runs if isinstance(run[key], int | float)]
    return median(values) if values else None
