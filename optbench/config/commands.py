"""The command that runs one configuration again: one word for each value that differs from the front page."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from optbench.config.files import (
    ASIDE_GROUPS,
    GROUPS,
    LIST_GROUPS,
    SCIENCE_KEYS,
    Config,
    choices,
    file_of,
    front_page,
    options,
)
from optbench.config.inheritance import read_choice
from optbench.config.resolving import automatic_loss
from optbench.errors import UserError

# Of the machine's keys, those that can change the last digits of results or the rows of the history.
_OF_THE_MACHINE = ("micro_batch", "cached_graphs", "compile", "channels_last", "evaluate_test", "log_every")
_PLAIN = re.compile(r"[A-Za-z][\w./+-]*|\d+(?:\.\d+)?(?:epochs?|samples?|steps?|%)")
_MEANS_SOMETHING_ELSE = re.compile(r"(?i)null|true|false|inf|nan")


def command_of(config: Mapping[str, Any]) -> list[str]:
    """The words after `python -m optbench` that compose to a configuration with the run id of ``config``, a resolved one.

    Such as ["optimizer=adam", "batch=512", "trial=3"]: the choices, options and keys that differ from the front page and the
    choices' files of this installation. Options that a trial draws are left out, and so is a loss that loss=auto chooses.
    """
    return CommandWriter().words(config)


class CommandWriter:
    """`command_of` for many configurations: every file of conf/ is read once."""

    def __init__(self) -> None:
        self._page = front_page()
        entries = [entry for entry in self._page["defaults"] if isinstance(entry, dict)]
        self._first = {group: name for entry in entries for group, name in entry.items()}
        self._files: dict[str, dict[str, Config]] = {}

    def words(self, config: Mapping[str, Any]) -> list[str]:
        """As `command_of`. Raises KeyError if ``config`` is not a resolved configuration."""
        return [*self._choices(config), *self._keys(config)]

    def _keys(self, config: Mapping[str, Any]) -> Iterator[str]:
        for key in (*SCIENCE_KEYS, *_OF_THE_MACHINE):
            if key in config and config[key] != self._page[key]:
                yield f"{key}={written(config[key])}"

    def _choices(self, config: Mapping[str, Any]) -> Iterator[str]:
        for group in GROUPS:
            if group in ASIDE_GROUPS:
                continue
            choice = config[group]
            name = _file(choice, self._stated(group))
            changed = list(_options(group, choice, self._stated(group).get(name, {}), config["trial"]))
            automatic = group == "loss" and self._first[group] == "auto" and name == automatic_loss(config)
            if name != self._first[group] and (changed or not automatic):
                yield f"{group}={name}"
            yield from changed
        for group in LIST_GROUPS:
            chosen = config.get(group) or {}
            if chosen:
                yield f"{group}=[{','.join(chosen)}]"
            for name, choice in chosen.items():
                yield from _options(f"{group}.{name}", choice, self._stated(group).get(name, {}), 0)

    def _stated(self, group: str) -> dict[str, Config]:
        if group not in self._files:
            self._files[group] = dict(_readable(group))
        return self._files[group]


def _readable(group: str) -> Iterator[tuple[str, Config]]:
    for name in choices(group):
        with suppress(UserError):  # no configuration comes from a file that cannot be read
            yield name, read_choice(group, name)


def _file(choice: Mapping[str, Any], files: Mapping[str, Config]) -> str:
    """The name of the choice's file; if its name is an option and it states no file, the file that has its target."""
    name = file_of(choice)
    if "name" in choice["info"]["schema"] and "choice" not in choice["info"]:
        for other, file in files.items():
            if "name" in file["info"].get("schema", {}) and file.get("_target_") == choice.get("_target_"):
                return other
    return name


def _options(where: str, choice: Mapping[str, Any], file: Mapping[str, Any], trial: int) -> Iterator[str]:
    drawn = (choice["info"].get("search_space") or {}) if where == "optimizer" and trial else {}
    for option, value in options(choice).items():
        if option not in drawn and (option not in file or file[option] != value):
            yield f"{where}.{option}={written(value)}"


def written(value: Any) -> str:
    """``value`` in Hydra's syntax, so that Hydra reads the same value again."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(entry)}" for key, entry in value.items()) + "}"
    text = str(value)
    if _PLAIN.fullmatch(text) and not _MEANS_SOMETHING_ELSE.fullmatch(text):
        return text
    # Hydra reads a backslash as an escape only before a quote.
    inner = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", text)
    return "'" + re.sub(r"(\\+)$", lambda match: match[1] * 2, inner) + "'"
