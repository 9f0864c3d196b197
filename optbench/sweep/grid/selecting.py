"""Select cells of an experiment with several grids by words of the command line."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.config import Config
from optbench.errors import UserError
from optbench.sweep.grid.words import Factor, factors_of

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader


class Selection:
    """Words such as optimizer=kfac, each of which keeps the cells that have one of its values."""

    def __init__(self, factors: Iterable[Factor] = ()) -> None:
        self._factors = {factor.key: factor for factor in factors}

    @classmethod
    def split(
        cls, config_loader: "ConfigLoader", arguments: Sequence[str], grids: Mapping[str, Mapping[str, Any]]
    ) -> tuple["Selection", list[str]]:
        """Split ``arguments`` into a selection, for the keys that the ``grids`` set to different values, and the others."""
        keys = {key for grid in grids.values() for key in grid}
        differing = {key for key in keys if len({str(grid.get(key, "not set")) for grid in grids.values()}) > 1}
        selecting = [word for word in arguments if word.partition("=")[0] in differing]
        others = [word for word in arguments if word not in selecting]
        return cls(factors_of(config_loader, selecting) if selecting else ()), others

    @property
    def is_given(self) -> bool:
        """True if there is any word."""
        return bool(self._factors)

    def restrict(self, factors: Sequence[Factor]) -> list[Factor]:
        """The ``factors`` of a grid, reduced to the selected words; empty if the grid has none of them."""
        restricted = []
        for factor in factors:
            if asked := self._factors.get(factor.key):
                kept = tuple(
                    word for word in factor.words if any(_same(word.value, other.value) for other in asked.words)
                )
                factor = dataclasses.replace(factor, words=kept)
            restricted.append(factor)
        return restricted

    def holds(self, composed: Config) -> bool:
        """True if a cell, composed and not resolved, has a selected value for every selected key."""
        return all(
            any(_has(composed, key, word.value) for word in factor.words) for key, factor in self._factors.items()
        )

    def check(self, cells: Sequence[Config], everything: Callable[[], Iterable[Config]]) -> None:
        """Raise UserError, with the values that exist, for a selected value that none of ``cells`` has.

        ``everything``: the cells without this selection, composed and not resolved.
        """
        for key, factor in self._factors.items():
            for word in factor.words:
                if any(_has(cell, key, word.value) for cell in cells):
                    continue
                others = [str(other.override.input_line) for other in self._factors.values() if other is not factor]
                there = dict.fromkeys(
                    _shown(_value(cell, key))
                    for cell in everything()
                    if all(
                        any(_has(cell, name, asked.value) for asked in other.words)
                        for name, other in self._factors.items()
                        if other is not factor
                    )
                )
                beside = f" beside {' '.join(others)}" if others else ""
                accepted = ", ".join(value for value in there if value) or "fewer words"
                raise UserError(
                    f"{word.text}: no grid of the experiment has such a cell{beside}; a key that its grids set selects among "
                    f"their cells; accepted: {accepted}"
                )


_NOT_THERE = object()


def _value(composed: Config, key: str) -> Any:
    """The value of a cell at a key of the command line; for a group, the name of the chosen file."""
    if key in configuration.LIST_GROUPS:
        return sorted({*(composed.get(key) or ())} - {"none"}) or ["none"]
    if key in configuration.GROUPS:
        return configuration.file_of(composed[key])
    value: Any = composed
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _NOT_THERE
        value = value[name]
    return value


def _has(composed: Config, key: str, asked: Any) -> bool:
    if key in configuration.LIST_GROUPS:
        asked = sorted(asked) if isinstance(asked, list) else [asked]
    return _same(_value(composed, key), asked)


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _shown(value: Any) -> str:
    if value is _NOT_THERE:
        return ""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
