"""The protocol of a study in a few lines, computed from the configurations and the environments of its runs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from optbench.analysis.names import method
from optbench.analysis.report.page import cell
from optbench.config import choices, read_choice, title
from optbench.errors import UserError
from optbench.sweep.search.record import searched_by

_VERSIONS = ("optbench", "torch", "python", "pytorch-lightning", "numpy")
# Of more values than this, the smallest and the largest are named.
_MOST_NAMED = 8
_MOST_OPTIONS = 6
_LEARNING_RATE = "config.optimizer.learning_rate"
_BASE_BATCH = "config.base_batch"


def protocol(
    runs: pd.DataFrame, information: Mapping[str, Any], environments: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Network, data, methods, batches, length, schedule, search, seeds, hardware, versions and code, each as text.

    runs: of `Study.runs`. information: of the plan. environments: of `Study.environments`. What is not recorded is empty.
    """
    facts = {
        "Network": _choices(runs, "model"),
        "Data": _choices(runs, "dataset"),
        "Loss": _choices(runs, "loss"),
        "Methods": ", ".join(dict.fromkeys(str(method(name)) for name in _values(runs, "optimizer"))),
        "Batch sizes": _numbers(_values(runs, "batch")),
        "Length": _length(runs),
        "Schedule": _choices(runs, "schedule"),
        "Search": _search(runs, information),
        "Seeds": _counted(_values(runs, "seed"), "seed"),
    }
    return facts | _machines(environments) | {"Code": _code(information.get("code") or {})}


def _values(runs: pd.DataFrame, column: str) -> list[Any]:
    """The different values of a column, numbers in ascending order."""
    if column not in runs:
        return []
    different = runs[column].dropna().unique()
    found = list(dict.fromkeys(value.item() if hasattr(value, "item") else value for value in different))
    return sorted(found) if all(isinstance(value, int | float) for value in found) else found


def _numbers(values: Sequence[Any]) -> str:
    """Each of a few values, or the smallest and the largest of many."""
    if len(values) <= _MOST_NAMED:
        return ", ".join(cell(value) for value in values)
    return f"{len(values)} values, {cell(values[0])} to {cell(values[-1])}"


def _counted(values: Sequence[Any], noun: str) -> str:
    if not values:
        return ""
    return f"{len(values)} {noun}{'' if len(values) == 1 else 's'} ({_range(values)})"


def _range(values: Sequence[Any]) -> str:
    return ", ".join(map(cell, values)) if len(values) <= _MOST_NAMED else f"{cell(values[0])} to {cell(values[-1])}"


def _choices(runs: pd.DataFrame, group: str) -> str:
    """The choices of a group with the options that are not those of its file; of a model also the number of weights."""
    column = f"config.{group}.name" if f"config.{group}.name" in runs else group
    shown = []
    for name in _values(runs, column):
        own = runs[runs[column] == name]
        words = [*_changed(own, group, str(name)), *(_weights(own) if group == "model" else [])]
        options = f" ({', '.join(words)})" if words else ""
        shown.append(f"{title(group, str(name))}{options}")
    return "; ".join(shown)


def _changed(runs: pd.DataFrame, group: str, name: str) -> list[str]:
    """The options of the runs of one choice that are not those of its file, such as "hidden [32]"."""
    defaults: Mapping[str, Any] = {}
    # A run may come from another installation, with a name that is no choice here.
    if name in choices(group):
        with suppress(UserError):
            defaults = read_choice(group, name)
    changed = []
    for key in sorted(map(str, runs.columns)):
        option = key.removeprefix(f"config.{group}.")
        if option == key or option in ("name", "_target_") or "info" in option.split("."):
            continue
        values = _values(runs, key)
        # An option that the file no longer has, at a value that says "without".
        gone = bool(defaults) and option not in defaults and values in ([0], [False])
        default = defaults.get(option)
        if values and not gone and values != [default] and [*map(str, values)] != [str(default)]:
            few = "/".join(cell(value) for value in values)
            changed.append(f"{option.replace('_', ' ')} {few if len(values) <= _MOST_NAMED else _numbers(values)}")
    left = len(changed) - _MOST_OPTIONS
    return [*changed[:_MOST_OPTIONS], f"{left} more options"] if left > 0 else changed


def _weights(runs: pd.DataFrame) -> list[str]:
    counts = [int(count) for count in _values(runs, "parameters")]  # floats where some runs have none yet
    if not counts:
        return []
    return [f"{counts[0]:,} weights" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} weights"]


def _length(runs: pd.DataFrame) -> str:
    """The epochs or steps that were asked for, and the steps of the runs that are done."""
    steps = "config.budget.steps"
    # A number of steps takes the place of the epochs.
    by_epochs = runs[runs[steps].isna()] if steps in runs else runs
    asked = {"epochs": _values(by_epochs, "config.budget.epochs"), "steps": _values(runs, steps)}
    parts = [f"{_numbers(values)} {unit}" for unit, values in asked.items() if values]
    if any(_values(runs, "config.budget.regime_adaptation")):
        parts.append(f"above batch {_numbers(_values(runs, _BASE_BATCH))} as many steps as there")
    taken = [value for value in _values(runs[runs["status"] == "done"], "steps") if value > 0]
    if taken and taken != asked["steps"]:
        ended = "ended at the target after " if any(_values(runs, "config.budget.stop_at_target")) else ""
        span = f"{taken[0]:,.0f}" if len(taken) == 1 else f"{taken[0]:,.0f} to {taken[-1]:,.0f}"
        parts.append(f"{ended}{span} steps")
    return ", ".join(parts)


def _search(runs: pd.DataFrame, information: Mapping[str, Any]) -> str:
    """The trials and the grid of learning rates, with the search that chose among them."""
    trials, rates = _values(runs, "trial"), _values(runs, f"cell.{_LEARNING_RATE.removeprefix('config.')}")
    parts = []
    if len(trials) > 1:
        parts.append(f"{len(trials)} trials at random of each search space, trial 0 of the defaults")
    if len(rates) > 1:
        parts.append(f"a grid of {len(rates)} learning rates, {rates[0]:.3g} to {rates[-1]:.3g}")
    search = searched_by(information)
    if search is not None:
        parts.append(f"cells chosen by search={search.get('name')}")
    return "; ".join(parts) or "none: every setting is given"


def _machines(environments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Hardware and versions; where there are several, each with the number of its runs."""
    hardware, versions = Counter[str](), Counter[str]()
    for environment in environments:
        runs = environment.get("runs") or 1
        devices = ", ".join(dict.fromkeys(map(str, environment.get("devices") or [])))
        ranks = f", {environment['ranks']} ranks" if (environment.get("ranks") or 1) > 1 else ""
        cores = f"{environment.get('cores')} cores of {environment.get('processor')}"
        is_processor = devices in ("", environment.get("processor"))
        hardware[f"{cores}{ranks}" if is_processor else f"{devices}{ranks}; {cores}"] += runs
        known = environment.get("versions") or {}
        versions[", ".join(f"{name} {known[name]}" for name in _VERSIONS if known.get(name))] += runs
    return {name: _with_runs(found) for name, found in (("Hardware", hardware), ("Versions", versions))}


def _with_runs(found: "Counter[str]") -> str:
    """The texts, and if there are several, the number of runs of each."""
    if len(found) < 2:
        return "".join(found)
    return "; ".join(f"{text} ({runs} run{'' if runs == 1 else 's'})" for text, runs in found.most_common())


def _code(code: Mapping[str, Any]) -> str:
    parts: Iterable[str] = (
        f"commit {code['commit']}" if code.get("commit") else "",
        "with changes that were not committed" if code.get("commit") and code.get("changed") else "",
        f"fingerprint {code['fingerprint']} of the package's files" if code.get("fingerprint") else "",
    )
    return ", ".join(part for part in parts if part)
