"""Find the choice of this installation from which a choice in a configuration comes.

``_target_`` of a choice names the code that is imported and called, and ``info`` the options that may be set and the
choices that fit it. Only the choice's file decides both. Code with a configuration, composed or read from a results
folder, gets them here.
"""

import copy
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from optbench.config.files import Config, choices, file_of, is_offered
from optbench.config.inheritance import choice_to_read
from optbench.errors import UserError

# The parts of a choice's info that have an effect; the others are descriptions.
_EXPLAINS = ("title", "about", "source")


def offered(group: str, choice: Mapping[str, Any]) -> Config | None:
    """The choice of ``group`` in conf/ from which ``choice`` comes, composed from its file and those it inherits.

    A choice whose name is an option, as in the zoo, is found by its target if it does not state its file. None if there is
    no such choice.
    """
    return copy.deepcopy(_offered(group, choice))


def _offered(group: str, choice: Mapping[str, Any]) -> Config | None:
    file = file_of(choice) if isinstance(choice.get("info"), Mapping) else str(choice.get("name"))
    found = choice_to_read(group, file) if is_offered(group, file) else None
    if found is not None and found.get("_target_") == choice.get("_target_"):
        return found
    for other in choices(group):
        # This choice cannot come from a file that cannot be read.
        with suppress(UserError):
            free = choice_to_read(group, other)
            if _is_named_freely(free) and free.get("_target_") == choice.get("_target_"):
                return free
    return found


def check_fixed(group: str, choice: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless name, target and info of ``choice`` equal those of an offered choice.

    where: the dotted path of the choice, such as "probe.spectrum", for the message.
    """
    found = _offered(group, choice)
    rules = _rules(choice.get("info"))
    if found is not None and choice.get("_target_") == found.get("_target_") and rules == _rules(found.get("info")):
        return
    accepted = f"accepted: {', '.join(choices(group))}"
    if found is None:
        raise UserError(f"{where}.name={choice.get('name')}: is fixed; choose with {group}=...; {accepted}")
    if choice.get("_target_") != found.get("_target_"):
        raise UserError(
            f"{where}._target_={choice.get('_target_')}: is fixed; choose with {group}=..., or write a choice of your own "
            f"that names it, {group}/NAME.yaml in a folder that --config-dir or OPTBENCH_CONF names; {accepted}"
        )
    # The info is not in the run id, and a change would change the results.
    raise UserError(
        f"{where}.name, {where}.info: are fixed, and differ from those of {group}={choice.get('name')}; "
        f"choose with {group}=...; {accepted}"
    )


def _is_named_freely(choice: Mapping[str, Any]) -> bool:
    info = choice.get("info")
    return isinstance(info, Mapping) and "name" in (info.get("schema") or {})


def _rules(info: object) -> object:
    return {name: value for name, value in info.items() if name not in _EXPLAINS} if isinstance(info, Mapping) else info
