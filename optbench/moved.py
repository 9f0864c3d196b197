"""Modules that have moved since a target of theirs was first published.

A run id is made from the dotted path of every target, and frozen configurations hold that path. Both outlive a move: the id is
made from the path under which the target was first published, and a frozen path leads to where the target is now.
"""

from collections.abc import Mapping
from typing import Any

# First published as -> now.
_MOVED = {
    "optbench.averaging": "optbench.training.averaging",
    "optbench.inits": "optbench.models.inits",
    "optbench.losses": "optbench.objective.losses",
    "optbench.momentum_schedules": "optbench.schedules.momentum",
    "optbench.scaling": "optbench.config.scaling",
}
_PUBLISHED = {now: first for first, now in _MOVED.items()}


def current_target(target: object) -> object:
    """Where the target that was published as ``target`` is now; anything else as it is."""
    return _translated(target, _MOVED)


def published_target(target: object) -> object:
    """Where ``target`` was when it was first published; anything else as it is."""
    return _translated(target, _PUBLISHED)


def with_current_targets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A frozen configuration with every ``_target_`` where it is now; choices among several, such as probes, included."""
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
