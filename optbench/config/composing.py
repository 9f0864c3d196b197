"""Compose one configuration from the words of the command line with Hydra, and explain Hydra's errors."""

import errno
import re
from collections.abc import Sequence
from typing import Any

from optbench.config.abbreviations import full_keys, unknown_key
from optbench.config.chosen import Chosen
from optbench.config.files import (
    GROUPS,
    LIST_GROUPS,
    Config,
    choices,
    front_page,
    is_fragment,
    options,
)
from optbench.config.inheritance import check_choice, read_choice
from optbench.config.renamed import current_words
from optbench.config.resolving import resolve
from optbench.config.search_path import conf_dir, look_where_told
from optbench.config.yaml_text import YAMLError
from optbench.errors import UserError, nearest

# Other launchers and sweepers of Hydra. They would call the training once a cell, and only one cell would be trained.
_OF_OTHERS = ("hydra/sweeper", "hydra/launcher", "hydra.sweeper._target_", "hydra.launcher")
# The keys that Hydra and the bench read from a node that is called.
_CALLED = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
# The keys of Hydra that may be set. The others decide what Hydra imports and calls, and where it writes.
_OF_HYDRA = ("hydra.job.name", "hydra.searchpath", "hydra.verbose")


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose the front page with Hydra ``overrides`` (such as "optimizer=adam"), and resolve it.

    Raises UserError for an override that Hydra or a schema refuses.
    """
    return resolve(composed(overrides))


def composed(overrides: Sequence[str] = ()) -> Config:
    """The front page with Hydra ``overrides``, as they ask for it: neither checked nor completed by `resolve`.

    Raises UserError for an override that Hydra refuses.
    """
    look_where_told(overrides)
    overrides = current_words(overrides)
    check_overrides(overrides)
    try:
        return _composed(overrides)
    except refusals() as error:
        raise UserError(explain(error, overrides)) from error


def _composed(overrides: Sequence[str]) -> Config:
    """The front page composed by Hydra with ``overrides``; every choice has the name of its file."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        node = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
        return Chosen.take_from(node).named(plain(node))


def refusals() -> tuple[type[Exception], ...]:
    """The exceptions that Hydra raises for a mistake of the user; `explain` turns them into a message."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    return (HydraException, OmegaConfBaseException, YAMLError, OSError, RecursionError, ValueError)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for overrides that Hydra accepts silently, or refuses without naming them.

    These are a group with no choice or with two, and keys that only a choice's file may set: its target and its info.
    """
    for word in overrides:
        group, _, value = word.partition("=")
        if group.lstrip("+~").startswith(_OF_OTHERS):
            launchers = " or ".join(choices("launcher"))
            raise UserError(
                f"{word}: optbench plans and starts its sweeps itself; accepted: -m with launcher={launchers}"
            )
        _check_key(word)
        if group in (*GROUPS, *LIST_GROUPS) and (
            part := next(filter(is_fragment, re.findall(r"[\w.-]+", value)), None)
        ):
            raise UserError(
                f"{word}: {part}: is a part of choices, and none itself; accepted: {', '.join(choices(group))}"
            )
        if group in GROUPS and (value.strip() in ("", "null") or value.lstrip().startswith("[")):
            raise UserError(f"{word}: must be one choice; accepted: {', '.join(choices(group))}")
        if group in LIST_GROUPS and value.strip() in ("", "null"):
            raise UserError(f"{word}: must be a list of choices; accepted: {_listed(group)}")
        if group in LIST_GROUPS:
            _check_once(word, value)


def _check_once(word: str, value: str) -> None:
    """Raise UserError for a list of choices that names one of them twice, of which Hydra drops one."""
    for names in re.findall(r"\[([^\[\]]*)\]", value):
        listed = re.findall(r"[\w.-]+", names)
        if twice := next((name for name in listed if listed.count(name) > 1), None):
            raise UserError(f"{word}: {twice} is there twice; accepted: each once")


def _check_key(word: str) -> None:
    """Raise UserError if ``word`` sets a target or the info of a choice, which only its file may set, or a key of Hydra's own."""
    key = word.partition("=")[0].lstrip("+~").strip()
    parts = re.split(r"[./@:]", key)
    group = parts[0]
    if group == "hydra" and key not in _OF_HYDRA:
        raise UserError(f"{word}: is not to be set here; accepted of Hydra's own: {', '.join(_OF_HYDRA)}")
    if any(part in _CALLED for part in parts) or (group in (*GROUPS, *LIST_GROUPS) and "info" in parts[1:3]):
        raise UserError(
            f"{word}: is fixed by the file of the choice; choose with {group}=..., or write a choice of your own, "
            f"{group}/NAME.yaml in a folder that --config-dir or OPTBENCH_CONF names"
        )


def plain(composed: Any) -> Config:
    """A composed OmegaConf node as nested dicts and lists, with interpolations resolved."""
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(container, dict)
    container.pop("hydra", None)
    return container  # type: ignore[return-value]


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """The message for an error of Hydra: the key, the value and what is accepted."""
    from omegaconf.errors import InterpolationResolutionError

    text = str(error)
    if isinstance(error, InterpolationResolutionError) and error.full_key:
        return f"{error.full_key}{_as_written(error)}: does not resolve ({text.splitlines()[0]})"
    if isinstance(error, RecursionError):
        return "the defaults of a choice lead back to itself; `python -m optbench list` names the file"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and overrides:
        return f"{max(overrides, key=len)}: is too long for the name of a choice or an option"
    if match := re.search(r"Could not (?:find|load) '([\w/]+)/([^/']+)'", text):
        group, name = match[1], match[2]
        return f"{group}={name}: no such {group}; {nearest(name, choices(group))} (`python -m optbench list {group}`)"
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text):
        key = match[1]
        group, _, option = key.partition(".")
        if option and group in LIST_GROUPS:
            return _explain_option(group, key)
        if option and group in GROUPS:
            known = _options(group, _chosen(group, overrides))
            found = full_keys(key, {group: known})
            hint = f"did you mean {' or '.join(found)}?" if found else nearest(option, known)
            return f"{key}: unknown key; {hint} (`python -m optbench list {group} --options`)"
        return unknown_key(key, {group: _options(group, _chosen(group, overrides)) for group in GROUPS})
    if match := re.match(r"Ambiguous value for argument '(.+)'", text):
        group, _, names = match[1].partition("=")
        if group in LIST_GROUPS:
            return f"{match[1]}: several choices are written as a list, in quotes: '{group}=[{names}]'"
        return f"{match[1]}: several values; accepted: one, or with --multirun a run for each"
    in_a_line = " ".join(line.strip() for line in text.splitlines() if line.strip()).split(" See https://")[0]
    if override := getattr(error, "override", None):  # outside Hydra's grammar
        return (
            f"{override}: cannot be read ({in_a_line}); accepted: KEY=VALUE, and in quotes what has brackets or spaces"
        )
    return in_a_line


def _as_written(error: Any) -> str:
    """The interpolation that OmegaConf could not resolve, as "=${...}"; empty if it cannot be found."""
    try:
        return f"={error.parent_node._get_node(error.key)._value()}"
    except AttributeError:
        return ""


def _listed(group: str) -> str:
    return f"one, or several as in '{group}=[A,B]', of {', '.join(choices(group))}"


def _options(group: str, name: str) -> Config:
    check_choice(group, name)
    return options(read_choice(group, name))


def _explain_option(group: str, key: str) -> str:
    """The message for a wrong ``key`` of a group with several choices, such as probe.spectrum.stepz."""
    _, name, *option = key.split(".")
    if name not in choices(group):
        return f"{key}: no such {group}; {nearest(name, choices(group))} (`python -m optbench list {group}`)"
    known = _options(group, name)
    if not option or option[0] in known:
        return f"{key}: {name} is not among the chosen; choose it too, as in '{group}=[{name}]'"
    return f"{key}: unknown key; {nearest(option[0], known)} (`python -m optbench list {group} --options`)"


def _chosen(group: str, overrides: Sequence[str]) -> str:
    """The choice of ``group`` under ``overrides``: the last one named there, otherwise the front page's."""
    names = [entry[group] for entry in front_page()["defaults"] if isinstance(entry, dict) and group in entry]
    names += [word.partition("=")[2] for word in overrides if word.partition("=")[0] == group]
    return str(next(name for name in reversed(names) if name in choices(group)))
