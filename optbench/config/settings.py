"""Translate keyword arguments into the words of the command line."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.config.commands import written
from optbench.config.files import GROUPS, LIST_GROUPS
from optbench.errors import UserError

_NAME = re.compile(r"[A-Za-z_]\w*")
_KEY = re.compile(r"[A-Za-z_]\w*([./][A-Za-z_]\w*)*")
_ACCEPTED = (
    "accepted: text, a number, True, False, None, a list or a mapping of these, and in a sweep optbench.grid([...]), a run "
    "for each"
)


@dataclass(frozen=True)
class Grid:
    """Alternatives of one setting; see `grid`."""

    values: tuple[Any, ...]


def grid(values: Iterable[Any]) -> Grid:
    """Alternatives of one setting, for `optbench.sweep`: ``seed=grid(range(3))`` is the word ``seed=0,1,2``.

    A list without `grid` is one value, the same in all runs: ``model={"hidden": [64, 64]}``.
    """
    return Grid(tuple(values))


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """The words for ``settings``: ``budget={"epochs": 3}`` becomes ``budget.epochs=3``, None ``null``, a list ``[a,b]``.

    Text is quoted if Hydra would otherwise read another value. Raises UserError for keys and values that no word can express.
    """
    return [f"{key}={text}" for key, text in _words(settings)]


def _words(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise UserError(
                f"{key!r}: is no key; accepted: names as on the command line, such as batch or budget.epochs"
            )
        yield from _below(key, value)


def _below(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Grid):
        if not value.values:
            raise UserError(f"{key}=optbench.grid([]): has no values; accepted: at least one")
        yield key, ",".join(_text(key, entry) for entry in value.values)
    elif isinstance(value, Mapping) and not _is_option(key):
        for name, entry in value.items():
            if not isinstance(name, str) or not _KEY.fullmatch(name):
                raise UserError(
                    f"{key}={{{name!r}: ...}}: is no name of an option; accepted: those of the command line"
                )
            yield from _below(f"{key}.{name}", entry)
    else:
        # A mapping that is an option may have any names; it is added to the mapping in the choice's file.
        yield f"+{key}" if isinstance(value, Mapping) else key, _text(key, value)


def _is_option(key: str) -> bool:
    """True if ``key`` is an option of a choice, whose value may be a mapping."""
    group, *names = key.split(".")
    return (group in GROUPS and len(names) >= 1) or (group in LIST_GROUPS and len(names) >= 2)


def _text(key: str, value: Any) -> str:
    return written(_plain(key, value))


def _plain(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "tolist") and not isinstance(converted := value.tolist(), type(value)):  # NumPy's and torch's
        return _plain(key, converted)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise UserError(
                    f"{key}={dict(value)!r}: {name!r} is no name; accepted: letters, digits and underscores"
                )
        return {name: _plain(key, entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, range | bytes | bytearray):
        return [_plain(key, entry) for entry in value]
    if hasattr(value, "__fspath__"):
        return str(value)
    raise UserError(f"{key}={value!r}: is of type {type(value).__name__}, which no word says; {_ACCEPTED}")
