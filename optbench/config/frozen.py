"""Configurations frozen in results folders: checked like typed ones, whoever made the folder.

A frozen configuration was resolved when the run was planned, by this installation or by another one. It names code to
call, so that it is not trusted: its choices must be among those that this installation offers, their targets and rules
are taken from here, every value is checked against its type, and the run id must be the folder's name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from optbench.config import schema
from optbench.config.composing import compose
from optbench.config.files import (
    ASIDE_GROUPS,
    GROUPS,
    LIST_GROUPS,
    MACHINE_KEYS,
    SCIENCE_KEYS,
    Config,
    front_page,
    left_out_of_run_id,
    options,
)
from optbench.config.fitting import check_fit
from optbench.config.identity import run_id as run_id_of
from optbench.config.inheritance import read_choice
from optbench.config.offered import offered
from optbench.config.run_config import RunConfig
from optbench.errors import UserError, nearest
from optbench.moved import removed

# The text that a script or a command line may take from a results folder of unknown origin.
_PLAIN_WORD = re.compile(r"[\w.,:+@%&|*\[\]()=-]*")


class FrozenRun(Protocol):
    """The part of `optbench.store.RunDirectory` that `thaw` needs."""

    @property
    def run_id(self) -> str:
        """The name of its directory."""

    @property
    def results_dir(self) -> Path:
        """The results folder that contains the directory."""

    def config(self) -> dict[str, Any]:
        """The configuration as it was frozen."""


def thaw(run: FrozenRun) -> Config:
    """The frozen configuration of ``run``, checked, ready to train or measure the run.

    The targets and the ``info`` of the choices are those of this installation; the results folder is the one in which the
    run was found, whatever the configuration states. The rest is as it was frozen.

    Raises UserError, naming the run and the key, if the configuration could not have been typed here, or belongs to
    another run.
    """
    run_id = run.run_id
    try:
        thawed = _checked(run.config())
        check_fit(RunConfig.of(thawed))
        known_as = run_id_of(thawed)
    except UserError as error:
        raise UserError(
            f"run {run_id}: its frozen configuration does not hold here: {error}. It was made with another version of "
            "optbench or with choices that this installation lacks, or was changed since"
        ) from error
    if known_as != run_id:
        raise UserError(
            f"run {run_id}: its frozen configuration is that of the run {known_as}; accepted: a run directory under its own "
            "name, with the configuration that it was planned with"
        )
    return {**thawed, "results_dir": str(run.results_dir)}


def thaw_to_measure(run: FrozenRun, composed: Mapping[str, Any]) -> Config:
    """The configuration for measuring ``run`` here: its own, with the probes and the data folder of ``composed``.

    The data folder is this user's, because the run may have been trained on another machine. Raises UserError as `thaw`
    does.
    """
    return {**thaw(run), "probe": composed["probe"], "data_dir": composed["data_dir"]}


def _checked(config: object) -> Config:
    if not isinstance(config, Mapping):
        raise UserError(f"a {type(config).__name__} is no configuration")
    known = [*SCIENCE_KEYS, *MACHINE_KEYS, *GROUPS, *LIST_GROUPS]
    for key in config:
        if key not in known:
            raise UserError(f"{key}: unknown key; {nearest(str(key), known)}")
    defaults = front_page()
    machine = {key: config.get(key, defaults[key]) for key in MACHINE_KEYS}
    keys = {key: config[key] for key in SCIENCE_KEYS if key in config} | machine
    schema.check(keys, SCIENCE_KEYS | MACHINE_KEYS)
    thawed: Config = dict(keys)
    if "communication" not in config:  # frozen by a version without this group, whose workers sent whole gradients
        config = {**config, "communication": read_choice("communication", "dense")}
    if "selection" not in config:  # frozen by a version that trained on all examples
        config = {**config, "selection": read_choice("selection", "none")}
    if "search" not in config:  # frozen by a version that trained whole grids only
        config = {**config, "search": read_choice("search", "grid")}
    for group in GROUPS:
        thawed[group] = _choice(group, config.get(group), group)
    for group in LIST_GROUPS:
        chosen = config.get(group, {})
        if not isinstance(chosen, Mapping):
            raise UserError(f"{group}={chosen}: must be choices by name")
        thawed[group] = {str(name): _choice(group, choice, f"{group}.{name}") for name, choice in chosen.items()}
    # In the order of the frozen configuration.
    return {**{key: thawed[key] for key in config}, **thawed}


def _choice(group: str, choice: object, where: str) -> Config:
    if not isinstance(choice, Mapping):
        raise UserError(f"{where}={choice}: must be one choice")
    found = offered(group, choice)
    if found is None:
        raise UserError(
            f"{where}={choice.get('name')}: there is no such {group} here; accepted: what `python -m optbench list "
            f"{group}` shows; a choice of your own is found in the folders that --config-dir or OPTBENCH_CONF names"
        )
    if choice.get("_target_") != found.get("_target_"):
        raise UserError(
            f"{where}._target_={choice.get('_target_')}: is not what {group}={choice.get('name')} calls here, which is "
            f"{found.get('_target_')}"
        )
    for name in options(choice) if isinstance(choice.get("info"), Mapping) else ():
        if (instead := removed(f"{group}.{name}")) is not None:
            raise UserError(f"{where}.{name}={choice[name]}: {instead}")
    info = found["info"]
    left_out = options(found) if group in ASIDE_GROUPS else left_out_of_run_id(group, found)
    filled = {name: found[name] for name in left_out if name in found and name not in choice}
    thawed: Config = {**choice, **filled, "info": info}
    schema.check(options(thawed), info.get("schema", {}), where)
    return thawed


def settle(group: str, frozen: object, words: Sequence[str], command: str) -> Config:
    """The launcher or tracker (``group``) that ``command`` uses: the choice that a results folder names, within limits.

    A results folder may come from anybody. It must not decide what runs on a cluster or to whom a tracker sends: the
    options that a choice's file lists as ``info.by_hand`` (without such a list, all that hold text) are taken from this
    installation, or from ``words``, the settings typed by the user, such as "launcher.partition=gpu".

    Raises UserError, with the words to type, if the folder asks for something else.
    """
    if not isinstance(frozen, Mapping):
        raise UserError(f"{command}: the results folder names no {group}; accepted: {group}=NAME after it")
    own = tuple(word for word in words if re.split(r"[.=]", word)[0] == group)
    text = json.dumps(frozen, sort_keys=True, default=str)
    return dict(_settled(group, text, own, command))


@lru_cache(maxsize=64)  # nearly all runs of a sweep have the same
def _settled(group: str, text: str, words: tuple[str, ...], command: str) -> Config:
    frozen: Config = json.loads(text)
    if any(word.startswith(f"{group}=") for word in words):
        chosen: Config = compose(list(words))[group]
        if chosen.get("name") != frozen.get("name"):
            return chosen
    try:
        frozen = _choice(group, frozen, group)
    except UserError as error:
        raise UserError(f"{command}: the results folder asks for {error}") from error
    name = frozen["name"]
    here: Config = compose([f"{group}={name}", *(word for word in words if not word.startswith(f"{group}="))])[group]
    typed = {word.partition("=")[0] for word in words}
    info = frozen["info"]
    by_hand = info.get("by_hand", [option for option in options(here) if _holds_text(info["schema"][option])])
    differing = []
    for option in options(here):
        if f"{group}.{option}" in typed or frozen[option] == here[option]:
            continue
        if option in by_hand or not _is_plain(frozen[option]):
            differing.append(f"{group}.{option}={_spelled(frozen[option])}")
        else:
            here[option] = frozen[option]
    if differing:
        own = " ".join(f"{word.partition('=')[0]}={_spelled(here[word.partition('=')[0].partition('.')[2]])}"
                       for word in differing)  # fmt: skip
        raise UserError(
            f"{command}: the results folder asks for {' '.join(differing)}, which it does not decide; accepted: these words "
            f"after the command, quoted, if you want them, or {own}"
        )
    return here


def _holds_text(kind: str) -> bool:
    return any(word in kind.split() for word in ("str", "mapping", "list"))


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, str) or _PLAIN_WORD.fullmatch(value) is not None


def _spelled(value: Any) -> str:
    if value is None:
        return "null"
    return value if isinstance(value, str) and value and _is_plain(value) else json.dumps(value)
