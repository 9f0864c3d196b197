"""Keys and choices under the names that they had before: what a person writes so is read in the names of now, and said once."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from optbench.config.files import GROUPS, LIST_GROUPS, choices, root_of
from optbench.config.yaml_text import YAMLError
from optbench.errors import UserError
from optbench.moved import current_choice, current_key, mentions, removed, say, sentence

_WORD = re.compile(r"(?P<before>[+~]*)(?P<key>[^=@\s]+)(?P<package>@[^=]*)?(?P<value>=.*)?", re.DOTALL)
_NAME = re.compile(r"[\w.+-]+")
# Keys that are not an experiment's own.
_OF_HYDRA = ("defaults", "hydra")


def current_words(words: Sequence[str]) -> list[str]:
    """Settings, as they are typed, with every key and every choice under its name of now.

    Raises UserError where one of them has a key under its earlier name and another one has it under its name of now, and for
    an option that is gone.
    """
    parts = [_WORD.fullmatch(word) for word in words]
    for word, match in zip(words, parts, strict=True):
        if match is not None and (instead := removed(match["key"])) is not None:
            raise UserError(f"{word}: {instead}")
    names = _named([match["key"] if match else word for word, match in zip(words, parts, strict=True)])
    found = []
    for word, match, name in zip(words, parts, names, strict=True):
        if match is None:
            found.append(word)
            continue
        value = match["value"] and f"={_choices_in(match['key'], match['value'][1:])}"
        found.append(f"{match['before']}{name}{match['package'] or ''}{value or ''}")
    return found


def current_file(group: str, name: str, content: Any) -> Any:
    """The content of the file ``name`` of ``group``, such as an experiment or a probe, under current names.

    Raises UserError where it states a key under both of its names.
    """
    if not isinstance(content, Mapping) or not mentions(str(content)):
        return content
    defaults = {"defaults": _defaults(group, content["defaults"])} if "defaults" in content else {}
    if group in LIST_GROUPS:
        return {**_below(f"{group}.{name}", content), **defaults}
    if group != "experiment":
        return {**content, **defaults}
    own = _settings({key: value for key, value in content.items() if key not in _OF_HYDRA})
    hydra = content.get("hydra")
    sweeper = hydra.get("sweeper") if isinstance(hydra, Mapping) else None
    if isinstance(hydra, Mapping) and isinstance(sweeper, Mapping):
        own["hydra"] = {**hydra, "sweeper": {key: _grid(key, value) for key, value in sweeper.items()}}
    elif "hydra" in content:
        own["hydra"] = hydra
    return {**defaults, **own}


def _named(keys: Sequence[str]) -> list[str]:
    """The names of now of dotted ``keys``; says which of them had another one, unless both of its names are among them."""
    for key in keys:
        if (instead := removed(key)) is not None:
            raise UserError(f"{key}: {instead}")
    found = [_key(key) for key in keys]
    typed: dict[str, str] = {}
    for key, now in zip(keys, found, strict=True):
        other = typed.setdefault(now, key)
        if other != key:
            old = key if key != now else other
            raise UserError(
                f"{old} and {now} are both given: {sentence(_inherited(old))}; accepted: one of them, {now}"
            )
    for key, now in zip(keys, found, strict=True):
        if now != key:
            say(_inherited(key))
    return found


def _key(key: str) -> str:
    inherited = _inherited(key)
    now = current_key(inherited)
    if now == inherited:
        return key
    # An option that a choice has from another one: the choice keeps its name.
    return now if inherited == key else f"{key.rpartition('.')[0]}.{now.rpartition('.')[2]}"


def _inherited(key: str) -> str:
    """``key``, or of an option that a choice inherits, such as probe.finer.probes, that of the choice that it is from."""
    group, _, rest = key.partition(".")
    name, _, option = rest.partition(".")
    if group in LIST_GROUPS and option and name in choices(group):
        # A fault of a file, or of those that it inherits from, is said when it is chosen.
        with suppress(UserError, YAMLError, OSError, UnicodeDecodeError, RecursionError):
            return f"{group}.{root_of(group, name)}.{option}"
    return key


def _choices_in(group: str, value: str) -> str:
    """The names of choices in the text after GROUP=, such as [extremes,trace], in the names of now."""
    if group not in (*GROUPS, *LIST_GROUPS):
        return value
    names = {*_NAME.findall(value)}
    both = next((name for name in names if current_choice(group, name) in names - {name}), None)
    if both is not None:
        raise UserError(f"{group}={value}: {sentence(f'{group}.{both}')}; accepted: one of them")
    return _NAME.sub(lambda match: _choice(group, match[0]), value)


def _choice(group: str, name: str) -> str:
    now = current_choice(group, name)
    if now == name or name in choices(group):  # a file of one's own, which `check_one_file` refuses
        return name
    say(f"{group}.{name}")
    return now


# ---- files ------------------------------------------------------------------------------------------------------------------


def _defaults(group: str, entries: Any) -> Any:
    """The defaults of a file of ``group``: choices of this group by name, or in an experiment {override /GROUP: names}."""
    if not isinstance(entries, list):
        return _default(group, entries)
    return [_default(group, entry) for entry in entries]


def _default(group: str, entry: Any) -> Any:
    if isinstance(entry, str):
        return _NAME.sub(lambda match: _choice(group, match[0]), entry)
    if isinstance(entry, Mapping):
        return {key: _chosen(str(key).split()[-1].lstrip("/"), names) for key, names in entry.items()}
    return entry


def _chosen(group: str, names: Any) -> Any:
    if isinstance(names, list):
        return [_choice(group, name) if isinstance(name, str) else name for name in names]
    return _choice(group, names) if isinstance(names, str) else names


def _settings(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Keys of the front page, and below those of a group of several choices the choices with their options."""
    return {
        now: _below(str(key), value) if key in LIST_GROUPS and isinstance(value, Mapping) else value
        for now, (key, value) in zip(_named([*map(str, settings)]), settings.items(), strict=True)
    }


def _below(place: str, settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Choices of a group, or options of one of them, below the dotted key ``place``."""
    is_group = "." not in place
    depth = place.count(".") + 1
    names = [key.split(".", depth)[depth] for key in _named([f"{place}.{name}" for name in settings])]
    return {
        name: _below(f"{place}.{old}", value) if is_group and isinstance(value, Mapping) else value
        for name, (old, value) in zip(names, settings.items(), strict=True)
    }


def _grid(key: Any, value: Any) -> Any:
    """The value of ``key`` of hydra.sweeper under current names: words in params, and in each of the scales and grids."""
    if not isinstance(value, Mapping):
        return value
    if key == "params":
        return _texts(value)
    return {name: _texts(words) if isinstance(words, Mapping) else words for name, words in value.items()}


def _texts(words: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        now: _choices_in(key, text) if isinstance(text, str) else text
        for now, (key, text) in zip(_named([*map(str, words)]), words.items(), strict=True)
    }
