"""Modules that have moved since their targets were first published.

A run id is made from the dotted path of every target, and frozen configurations hold that path. Both stay valid after a move:
the id is made from the path under which the target was first published, and a frozen path is translated to the current one.
"""

from collections.abc import Mapping
from typing import Any

# First published path -> current path.
_MOVED = {
    "optbench.averaging": "optbench.training.averaging",
    "optbench.inits": "optbench.models.inits",
    "optbench.losses": "optbench.objective.losses",
    "optbench.momentum_schedules": "optbench.schedules.momentum",
    "optbench.scaling": "optbench.config.scaling",
}
_PUBLISHED = {now: first for first, now in _MOVED.items()}


def current_target(target: object) -> object:
    """The current path of the target first published as ``target``; any other value unchanged."""
    return _translated(target, _MOVED)


def published_target(target: object) -> object:
    """The path under which ``target`` was first published; any other value unchanged."""
    return _translated(target, _PUBLISHED)


def with_current_targets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A frozen configuration with every ``_target_`` as its current path, also in groups of several choices such as probes."""
    return {key: _current(value) for key, value in config.items()}


def _current(choice: Any) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    moved = {"_target_": current_target(choice["_target_"])} if "_target_" in choice else {}
    inner = {
        key: _current(value) for key, value in choice.items() if isinstance(value, Mapping) and "_target_" in value
    }
    return {**choice, **inner, **moved}


def _translated(target: object, table: Mapping[str, str]) -> object:
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    return f"{table[module]}.{name}" if module in table else target
