"""Names that have changed since they were first published: of targets, of keys and options, and of choices; and removed options.

Run ids are made from names, and frozen configurations, histories and tables hold them. They outlive a change: ids are made from
the name that was published first, and an earlier name leads to that of now wherever it is read.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

# Modules and targets: first published as -> now.
_TARGETS = {
    "optbench.averaging": "optbench.training.averaging",
    "optbench.inits": "optbench.models.inits",
    "optbench.losses": "optbench.objective.losses",
    "optbench.momentum_schedules": "optbench.schedules.momentum",
    "optbench.probes.extremes.Extremes": "optbench.probes.eigenvalues.Eigenvalues",
    "optbench.scaling": "optbench.config.scaling",
}
_PUBLISHED_TARGETS = {now: first for first, now in _TARGETS.items()}
# Words of the command line: first published as -> now. GROUP=NAME is a choice, and with it the place of its options; an option
# of a choice is also one of those that inherit from it.
_WORDS = {
    "graphs": "cached_graphs",
    "norm_batch": "ghost_batch_size",
    "probe.batch_hessian.probes": "probe.batch_hessian.vectors",
    "probe.spectrum.probes": "probe.spectrum.vectors",
    "probe=extremes": "probe=eigenvalues",
}
_KEYS = {first.replace("=", "."): now.replace("=", ".") for first, now in _WORDS.items()}
_PUBLISHED_KEYS = {now: first for first, now in _KEYS.items()}
# Options that are gone: the value with which they had no effect, and what to write instead of another one.
_REMOVED = {
    "trainer.compression": (
        "none",
        "is no option any more: what workers send is science, and devices are not; accepted: communication=fp16 "
        "communication.workers=N, or communication=bf16, or nothing instead of none",
    )
}
_NAMES = tuple(first.rpartition(".")[2] for first in (*_KEYS, *_REMOVED))
# What the probes that have another name now have written: a prefix of columns.
_PREFIXES = {
    f"{first.partition('=')[2]}_": f"{now.partition('=')[2]}_"
    for first, now in _WORDS.items()
    if first.startswith("probe=")
}
_SAID: set[str] = set()


# ---- targets ----------------------------------------------------------------------------------------------------------------


def current_target(target: object) -> object:
    """The current path of the target first published as ``target``; any other value unchanged."""
    return _translated(target, _TARGETS)


def published_target(target: object) -> object:
    """The path under which ``target`` was first published; any other value unchanged."""
    return _translated(target, _PUBLISHED_TARGETS)


def _translated(target: object, table: Mapping[str, str]) -> object:
    if not isinstance(target, str):
        return target
    module, _, name = target.rpartition(".")
    return f"{table[module]}.{name}" if module in table else table.get(target, target)


# ---- keys and choices -------------------------------------------------------------------------------------------------------


def current_key(key: str) -> str:
    """The dotted key of the command line that was published as ``key``, such as probe.eigenvalues.steps; others as they are."""
    return _renamed(key, _KEYS)


def published_key(key: str) -> str:
    """The dotted ``key`` under its first published name; other keys unchanged."""
    return _renamed(key, _PUBLISHED_KEYS)


def _renamed(key: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def removed(key: str) -> str | None:
    """For an option ``key`` that is gone, the rest of a sentence that begins with it and says what to write instead."""
    return _REMOVED[key][1] if key in _REMOVED else None


def current_choice(group: str, name: str) -> str:
    """The choice of ``group`` that was published as ``name``; others as they are."""
    return _WORDS.get(f"{group}={name}", f"{group}={name}").partition("=")[2]


def published_choice(group: str, name: str) -> str:
    """The first published name of the choice ``name`` of ``group``; other names unchanged."""
    return next((first.partition("=")[2] for first, now in _WORDS.items() if now == f"{group}={name}"), name)


def mentions(text: str) -> bool:
    """True if ``text`` may hold a key or a choice under its first name, which nearly no file does."""
    return any(name in text for name in _NAMES)


def sentence(key: str) -> str:
    """The sentence about a ``key`` under its first name, such as "norm_batch is now ghost_batch_size"."""
    place = next(first for first in _KEYS if key == first or key.startswith(f"{first}."))
    return next(f"{first} is now {now}" for first, now in _WORDS.items() if first.replace("=", ".") == place)


def say(key: str) -> None:
    """Print the `sentence` of ``key``, once in a process."""
    line = sentence(key)
    if line not in _SAID:
        _SAID.add(line)
        print(f"optbench: {line}", file=sys.stderr)


# ---- what was written under earlier names -----------------------------------------------------------------------------------


def with_current_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A frozen configuration with every target, key and choice under its name of now.

    Options that are gone are left out where they had no effect. Where they had one they stay, because the run id depends on them.

    Raises ValueError where it has a key under both names.
    """
    renamed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(key, str):
            _set(renamed, current_key(key), _group(key, value) if isinstance(value, Mapping) else value)
        else:
            renamed[key] = value
    for place, (idle, _) in _REMOVED.items():
        group, _, option = place.partition(".")
        choice = renamed.get(group)
        if isinstance(choice, Mapping) and choice.get(option) == idle:
            renamed[group] = _without(choice, option)
    return renamed


def _without(choice: Mapping[str, Any], option: str) -> dict[str, Any]:
    """``choice`` without ``option``, and without its type."""
    kept = {name: value for name, value in choice.items() if name != option}
    info = kept.get("info")
    if isinstance(info, Mapping) and isinstance(info.get("schema"), Mapping):
        typed = {name: kind for name, kind in info["schema"].items() if name != option}
        kept["info"] = {**info, "schema": typed}
    return kept


def _group(group: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A choice, or several by their names, of ``group``."""
    if "info" in value or "_target_" in value:
        return _choice(group, str(value.get("name")), value)
    renamed: dict[str, Any] = {}
    for name, choice in value.items():
        if isinstance(choice, Mapping):
            _set(renamed, current_choice(group, str(name)), _choice(group, str(name), choice))
        else:
            renamed[name] = choice
    return renamed


def _choice(group: str, name: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(choice)
    if "_target_" in found:
        found["_target_"] = current_target(found["_target_"])
    if isinstance(found.get("name"), str):
        found["name"] = current_choice(group, found["name"])
    info = found.get("info")
    if isinstance(info, Mapping) and "inherits" in info:
        name = str(info["inherits"])
        found["info"] = info = {**info, "inherits": current_choice(group, name)}
    path = f"{group}.{current_choice(group, name)}."
    if not any(first.startswith(path) for first in _KEYS):
        return found
    if isinstance(info, Mapping) and isinstance(info.get("schema"), Mapping):
        found["info"] = {**info, "schema": _with_options(path, info["schema"])}
    return _with_options(path, found)


def _with_options(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in options.items():
        _set(renamed, current_key(f"{path}{name}").removeprefix(path) if isinstance(name, str) else name, value)
    return renamed


def _set(renamed: dict[str, Any], key: str, value: Any) -> None:
    if key in renamed:
        raise ValueError(f"{key} is there twice, under its name of now and an earlier one")
    renamed[key] = value


def current_column(column: str) -> str:
    """The column of a table or a history that was published as ``column``: config.KEY, cell.KEY, or what a probe measured."""
    for place in ("config.", "cell."):
        if column.startswith(place):
            return place + current_key(column.removeprefix(place))
    for first, now in _PREFIXES.items():
        if column.startswith(first):
            return now + column.removeprefix(first)
    return column


def with_earlier_columns(columns: Iterable[str]) -> list[str]:
    """``columns``, each followed by what it was called when it was first published, where that differs."""
    published = {now: first for first, now in _PREFIXES.items()}
    found = []
    for column in columns:
        found.append(column)
        found += [first + column.removeprefix(now) for now, first in published.items() if column.startswith(now)]
    return list(dict.fromkeys(found))
