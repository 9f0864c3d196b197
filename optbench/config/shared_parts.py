"""Results that depend on parts of configurations, computed once for the cells of a sweep, which share most parts as objects."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from optbench.config.files import GROUPS, LIST_GROUPS

T = TypeVar("T")
_MOST = 50_000


class SharedParts:
    """The results of functions of objects that nobody changes, such as the choices that the cells of a sweep share.

    An object is recognized by its identity, which costs next to nothing; equal objects are computed each by itself.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[tuple[Any, ...], Any]] = {}

    def get(self, name: Hashable, parts: tuple[Any, ...], compute: Callable[[], T]) -> T:
        """``compute()``, or its earlier result for the same ``name`` and the same objects ``parts``."""
        key = (name, *map(id, parts))
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            # The parts are kept, because the identity of an object that is gone may be given to another one.
            known = self._known[key] = (parts, compute())
        found: T = known[1]
        return found


def distinct(configs: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One of those ``configs`` that differ in their seeds alone and share their choices, in the order of the first ones."""
    found: dict[object, Mapping[str, Any]] = {}
    for config in configs:
        values, choices = without_seed(config)
        found.setdefault((values, *map(id, choices)), config)
    return list(found.values())


def without_seed(config: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """All of a composed configuration but its seed, to be recognized: its single values as text, and its choices as objects."""
    groups = (*GROUPS, *LIST_GROUPS)
    values = {key: value for key, value in config.items() if key not in groups and key != "seed"}
    return repr(values), tuple(config.get(group) for group in groups)
