"""Composing: from the words of the command line to one configuration, by Hydra, with messages for people."""

import re
from collections.abc import Sequence
from typing import Any

from optbench.config.files import (
    GROUPS,
    LIST_GROUPS,
    MACHINE_KEYS,
    SCIENCE_KEYS,
    Config,
    choices,
    conf_dir,
    front_page,
    options,
    read_choice,
)
from optbench.config.resolving import resolve
from optbench.errors import UserError
from optbench.suggestions import nearest


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose the front page with Hydra ``overrides`` (such as "optimizer=adam"), and resolve it.

    Raises UserError for an override that Hydra or a schema refuses.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    check_overrides(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            composed = plain(hydra_compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(explain(error, overrides)) from error
    return resolve(composed)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for what Hydra takes without a word, or refuses without naming it: a group of no or of two choices."""
    for word in overrides:
        group, _, value = word.partition("=")
        if group in GROUPS and (value.strip() in ("", "null") or value.lstrip().startswith("[")):
            raise UserError(f"{word}: must be one choice; accepted: {', '.join(choices(group))}")
        if group in LIST_GROUPS and value.strip() in ("", "null"):
            raise UserError(f"{word}: must be a list of choices; accepted: {_listed(group)}")


def plain(composed: Any) -> Config:
    """A composed OmegaConf node as nested dicts and lists, interpolations resolved."""
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(container, dict)
    container.pop("hydra", None)
    return container  # type: ignore[return-value]


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One message for what Hydra refused: the key, the value and what is accepted."""
    text = str(error)
    if match := re.search(r"Could not (?:find|load) '([\w/]+)/([^/']+)'", text):
        group, name = match[1], match[2]
        return f"{group}={name}: no such {group}; {nearest(name, choices(group))} (`python -m optbench list {group}`)"
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text):
        key = match[1]
        group, _, option = key.partition(".")
        if option and group in LIST_GROUPS:
            return _explain_option(group, key)
        if option and group in GROUPS:
            known = options(read_choice(group, _chosen(group, overrides)))
            return f"{key}: unknown key; {nearest(option, known)} (`python -m optbench list {group} --options`)"
        return f"{key}: unknown key; {nearest(group, [*GROUPS, *LIST_GROUPS, *SCIENCE_KEYS, *MACHINE_KEYS])}"
    if match := re.match(r"Ambiguous value for argument '(.+)'", text):
        group, _, names = match[1].partition("=")
        if group in LIST_GROUPS:
            return f"{match[1]}: several choices are written as a list, in quotes: '{group}=[{names}]'"
        return f"{match[1]}: several values; accepted: one, or with --multirun a run for each"
    in_a_line = " ".join(line.strip() for line in text.splitlines() if line.strip()).split(" See https://")[0]
    if override := getattr(error, "override", None):  # one that Hydra's grammar does not know
        return (
            f"{override}: cannot be read ({in_a_line}); accepted: KEY=VALUE, and in quotes what has brackets or spaces"
        )
    return in_a_line


def _listed(group: str) -> str:
    return f"one, or several as in '{group}=[A,B]', of {', '.join(choices(group))}"


def _explain_option(group: str, key: str) -> str:
    """What is wrong with ``key``, such as probe.spectrum.stepz, an option of a choice among several."""
    _, name, *option = key.split(".")
    if name not in choices(group):
        return f"{key}: no such {group}; {nearest(name, choices(group))} (`python -m optbench list {group}`)"
    known = options(read_choice(group, name))
    if not option or option[0] in known:
        return f"{key}: {name} is not among the chosen; choose it too, as in '{group}=[{name}]'"
    return f"{key}: unknown key; {nearest(option[0], known)} (`python -m optbench list {group} --options`)"


def _chosen(group: str, overrides: Sequence[str]) -> str:
    """The choice of ``group`` that holds with ``overrides``: the last that names it, or else the front page's."""
    names = [entry[group] for entry in front_page()["defaults"] if isinstance(entry, dict) and group in entry]
    names += [word.partition("=")[2] for word in overrides if word.partition("=")[0] == group]
    return next(name for name in reversed(names) if name in choices(group))
