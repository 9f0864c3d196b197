"""The choices that this installation offers, and which of them a choice in a configuration is.

A choice says by ``_target_`` what is imported and called, and by ``info`` what may be set and what fits it. Both are the
file's to say. Whoever holds a configuration, composed or read from a results folder, asks here for the file's own words.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from optbench.config.files import Config, choices, file_of
from optbench.config.inheritance import read_choice
from optbench.errors import UserError

# What a choice's info decides; the rest of it explains.
_EXPLAINS = ("title", "about", "source")


def offered(group: str, choice: Mapping[str, Any]) -> Config | None:
    """The choice among those of ``group`` in conf/ that ``choice`` comes from, as its file and those it inherits state it.

    One whose name is an option, as the zoo's is, is known by its target where it does not say its file. None where there is no
    such choice.
    """
    known = choices(group)
    file = file_of(choice) if isinstance(choice.get("info"), Mapping) else str(choice.get("name"))
    found = read_choice(group, file) if file in known else None
    if found is not None and found.get("_target_") == choice.get("_target_"):
        return found
    for other in known:
        # A file that cannot be read is not the one that this choice was made of.
        with suppress(UserError):
            free = read_choice(group, other)
            if _is_named_freely(free) and free.get("_target_") == choice.get("_target_"):
                return free
    return found


def check_fixed(group: str, choice: Mapping[str, Any], where: str) -> Config:
    """Raise UserError unless name, target and info of ``choice`` are those of a choice that is offered; returns that.

    where: the dotted path of the choice, such as "probe.spectrum", for the message.
    """
    accepted = f"accepted: {', '.join(choices(group))}"
    found = offered(group, choice)
    if found is None:
        raise UserError(f"{where}.name={choice.get('name')}: is fixed; choose with {group}=...; {accepted}")
    if choice.get("_target_") != found.get("_target_"):
        raise UserError(
            f"{where}._target_={choice.get('_target_')}: is fixed; choose with {group}=..., or write a choice of your own "
            f"that names it, {group}/NAME.yaml in a folder that --config-dir or OPTBENCH_CONF names; {accepted}"
        )
    # Not in the run id, and it would change the numbers.
    if _rules(choice.get("info")) != _rules(found.get("info")):
        raise UserError(
            f"{where}.name, {where}.info: are fixed, and differ from those of {group}={choice.get('name')}; "
            f"choose with {group}=...; {accepted}"
        )
    return found


def _is_named_freely(choice: Mapping[str, Any]) -> bool:
    info = choice.get("info")
    return isinstance(info, Mapping) and "name" in (info.get("schema") or {})


def _rules(info: object) -> object:
    return {name: value for name, value in info.items() if name not in _EXPLAINS} if isinstance(info, Mapping) else info
