"""The row of one run in the frame of `optbench.store.load`: what its files say, as flat mappings."""

import json
from dataclasses import dataclass
from typing import Any

from optbench.errors import UserError
from optbench.moved import current_column
from optbench.store.files import StoreError, flatten, read_object
from optbench.store.notes import columns_of
from optbench.store.run_directory import FINISHED, RunDirectory

#: The columns that every run has, and those that exist only if any run has them.
BASE = ("run_id", "status", "why", "since", "problem")
NOTED = ("tags", "note")
#: In no frame: what status.json alone says of why; environment.json without what is of one run only, as JSON text; and, as JSON
#: text, commit and changes of each code that has trained the run. No file has such names.
STATUS_WHY, ENVIRONMENT, COMMITS = ":why", ":environment", ":commits"
_OF_ONE_RUN = ("host", "command", "code")
# Values of the configuration that a summary repeats, with their keys in the configuration. They are columns in this order,
# also for runs without a summary.
_NAMED = {
    "optimizer": ("optimizer", "name"),
    "model": ("model", "name"),
    "dataset": ("dataset", "name"),
    "batch": ("batch",),
    "seed": ("seed",),
    "trial": ("trial",),
    "base_learning_rate": ("optimizer", "learning_rate"),
}


@dataclass(frozen=True)
class Row:
    """One run.

    base: the columns of `BASE` and `NOTED`, and those in no frame. summary, config: the columns from there, in their order; a
    list in ``config`` is its JSON text, ``summary`` holds none.
    """

    base: dict[str, Any]
    summary: dict[str, Any]
    config: dict[str, Any]


def read_row(run: RunDirectory) -> Row:
    """The row of ``run``, read from its files; what cannot be read is named in the column problem."""
    status = run.status()
    problems = []
    if not status.since:
        problems.append(str(status.why))
    summary: dict[str, Any] = {}
    if status.state in FINISHED:
        try:
            summary = summary_columns(read_object(run.path / "summary.json"))
        except FileNotFoundError:
            problems.append(f"{run.path / 'summary.json'} is absent")
        except StoreError as error:
            problems.append(str(error))
    config: dict[str, Any] = {}
    try:
        config = _columns(run.config())
    except StoreError as error:
        problems.append(str(error))
    # The reason for a divergence is in the summary.
    why = status.why or str(summary.get("why") or "")
    base = dict(zip(BASE, (run.run_id, status.state, why, status.since, "; ".join(problems)), strict=True))
    base |= {STATUS_WHY: status.why, **_recorded(run), **columns_of(run)}
    for key in [key for key, value in summary.items() if isinstance(value, list) or (value is None and key in config)]:
        del summary[key]
    return Row(base, summary, config)


def environment_of(run: RunDirectory) -> tuple[dict[str, Any] | None, list[str]]:
    """The environment of a run without what is of one run only, and its `commits_of`; None and none if it is not recorded."""
    try:
        environment = read_object(run.path / "environment.json")
    except (FileNotFoundError, StoreError):
        return None, []
    return {key: value for key, value in environment.items() if key not in _OF_ONE_RUN}, commits_of(environment)


def _recorded(run: RunDirectory) -> dict[str, str]:
    environment, commits = environment_of(run)
    return {} if environment is None else {ENVIRONMENT: json.dumps(environment), COMMITS: json.dumps(commits)}


def vintages_in(environment: dict[str, Any]) -> list[dict[str, Any]]:
    """The codes that have trained a run, oldest first, from its environment.json."""
    found = environment.get("code")
    known = found if isinstance(found, list) else []
    return [each for each in known if isinstance(each, dict) and isinstance(each.get("fingerprint"), str)]


def commits_of(environment: dict[str, Any]) -> list[str]:
    """The commits of these codes, to ten digits; "with changes" where files were changed."""
    return [
        f"{str(each['commit'])[:10]}{' with changes' if each.get('changed') else ''}"
        for each in vintages_in(environment)
        if each.get("commit")
    ]


def summary_columns(summary: dict[str, Any]) -> dict[str, Any]:
    """The content of a summary.json as columns: nested mappings flattened with dots, in the names of now."""
    return {current_column(name): value for name, value in flatten(summary).items()}


def _columns(config: dict[str, Any]) -> dict[str, Any]:
    """The columns of a run that come from its configuration."""
    columns = {name: value for name, keys in _NAMED.items() if (value := _at(config, *keys)) is not None}
    if _at(config, "transform"):
        from optbench.config import optimizer_name

        columns["optimizer"] = optimizer_name(config)
    if _at(config, "dataset", "info", "named_by"):
        from optbench.config import name_of

        columns["dataset"] = name_of(config["dataset"])
    columns |= _derived(config)
    if (classes := _at(config, "dataset", "info", "size", "classes")) is not None:
        columns["classes"] = classes
    if space := _at(config, "optimizer", "info", "search_space"):
        columns["search_space"] = json.dumps(space, ensure_ascii=False, default=str)
    for key, value in flatten(_without_info(config), "config.").items():
        # default=str: YAML has dates, JSON does not.
        columns[key] = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list) else value
    return columns


def _without_info(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_info(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key != "info"
    }


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _derived(config: dict[str, Any]) -> dict[str, Any]:
    """The setting and the scaled learning rate; empty if the configuration is incomplete."""
    from optbench.config import RunConfig, learning_rate, setting

    try:
        rate, rule = learning_rate(RunConfig.of(config))
        found = {"learning_rate": rate, "scaling_rule": rule, "setting": setting(config)}
    except (UserError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return {}  # of an older version, damaged, or written by hand
    return {key: value for key, value in found.items() if value is not None}
