"""Resolve a composed configuration: check it and fill in the values that follow from it, before anything starts."""

from collections.abc import Mapping
from typing import Any

from optbench.config import places, schema
from optbench.config.abbreviations import unknown_key
from optbench.config.data_files import check_installed, check_validation, identify
from optbench.config.data_options import check_needed, choose_task, target_of
from optbench.config.files import (
    GROUPS,
    LIST_GROUPS,
    MACHINE_KEYS,
    SCIENCE_KEYS,
    Config,
    choices,
    is_own,
    options,
    works_as,
)
from optbench.config.fitting import check_fit
from optbench.config.inheritance import read_choice
from optbench.config.offered import check_fixed
from optbench.config.run_config import RunConfig
from optbench.config.target_files import check_target
from optbench.errors import UserError, nearest


def resolve(config: Config) -> Config:
    """Check a composed configuration and fill in the options of its trial, its loss and the fingerprint of its data.

    Raises UserError for the first problem; nothing has started by then.
    """
    keys = {key: value for key, value in config.items() if key not in (*GROUPS, *LIST_GROUPS)}
    for key in keys:
        if key not in SCIENCE_KEYS | MACHINE_KEYS:
            raise UserError(unknown_key(key, {group: _known_options(config.get(group)) for group in GROUPS}))
    schema.check(keys, SCIENCE_KEYS | MACHINE_KEYS)
    config = {**config, **{key: places.folder(config[key], f"{key}=") for key in ("results_dir", "data_dir")}}
    if config["sweep"] is not None:
        places.check_sweep_name(config["sweep"], "sweep=")
    for group in GROUPS:
        _check_choice(group, config.get(group))
    config = {**config, **{group: dict(config[group]) for group in GROUPS}}
    config |= {group: _check_choices(group, config.get(group) or {}) for group in LIST_GROUPS}
    _apply_trial(config)
    choose_task(config)
    _choose_loss(config)
    check_installed(config["dataset"])
    for group in ("dataset", "init"):
        check_needed(group, config[group])
    check_validation(config["dataset"])
    check_fit(RunConfig.of(config))
    identify(config)  # last, because it may read many files
    return config


def _known_options(choice: object) -> list[str]:
    return list(options(choice)) if isinstance(choice, Mapping) and "schema" in (choice.get("info") or ()) else []


def _check_choices(group: str, chosen: object) -> Config:
    """The choices of a group with any number of them, by name, without "none"."""
    known = choices(group)
    if not isinstance(chosen, Mapping):
        raise UserError(f"{group}={chosen}: must be a list of choices; accepted: {', '.join(known)}")
    for name, choice in chosen.items():
        if name not in known:
            raise UserError(f"{group}={name}: no such {group}; {nearest(name, known)}")
        _check_choice(group, choice, f"{group}.{name}")
    return {name: choice for name, choice in chosen.items() if name != "none"}


def _check_choice(group: str, choice: object, where: str | None = None) -> None:
    where = where or group
    if choice is None:
        raise UserError(f"{group}: missing; must be one choice; accepted: {', '.join(choices(group))}")
    if not isinstance(choice, Mapping) or "name" not in choice or "info" not in choice:
        raise UserError(f"{group}={choice}: not a choice of this group; accepted: {', '.join(choices(group))}")
    check_fixed(group, choice, where)
    if is_own(group, choice):
        check_target(choice, where)
    schema.check(options(choice), choice["info"].get("schema", {}), where)


def _apply_trial(config: Config) -> None:
    if config["trial"] == 0:
        return
    from optbench.config import tuning

    optimizer = config["optimizer"]
    space = optimizer["info"].get("search_space") or {}
    if not space:
        raise UserError(f"trial={config['trial']}: optimizer={optimizer['name']} declares no search space; use trial=0")
    drawn = tuning.trial_options(space, config["trial"])
    defaults = read_choice("optimizer", optimizer["name"]) if optimizer["name"] in choices("optimizer") else optimizer
    for name, value in drawn.items():
        if optimizer[name] not in (defaults[name], value):
            raise drawn_instead(optimizer["name"], name, optimizer[name], config["trial"])
    optimizer.update(drawn)
    schema.check(options(optimizer), optimizer["info"]["schema"], "optimizer")


def drawn_instead(optimizer: str, option: str, value: object, trial: int) -> UserError:
    """The error for an option that was given a value although the trial draws it from the search space."""
    return UserError(
        f"optimizer.{option}={value}: trial={trial} draws it from the search space of optimizer={optimizer}; accepted: the "
        f"value with trial=0, the trial without the value, or a choice of your own: a copy of conf/optimizer/{optimizer}.yaml "
        "with another name and another search_space"
    )


def _choose_loss(config: Config) -> None:
    if works_as(config["loss"]) == "auto":
        config["loss"] = read_choice("loss", automatic_loss(config))


def automatic_loss(config: Mapping[str, Any]) -> str:
    """The loss that loss=auto stands for, as its file says: by the kind of the targets, or by the model where it reconstructs."""
    chooses: Mapping[str, str] = read_choice("loss", "auto")["info"]["chooses"]
    model = config["model"]["info"]
    if model.get("reconstructs"):
        return str(model.get("loss", chooses["reconstruction"]))
    return chooses[target_of(config["dataset"])]
