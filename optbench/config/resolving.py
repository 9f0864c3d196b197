"""Resolve a composed configuration: check it and fill in the values that follow from it, before anything starts."""

from collections.abc import Mapping
from typing import Any

from optbench.config import places, schema
from optbench.config.abbreviations import unknown_key
from optbench.config.data_files import check_installed, check_validation, identified
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
from optbench.config.inheritance import choice_to_read, read_choice
from optbench.config.offered import check_fixed
from optbench.config.run_config import RunConfig
from optbench.config.shared_parts import SharedParts, without_seed
from optbench.config.target_files import check_target
from optbench.errors import UserError, nearest


def resolve(config: Config, shared: SharedParts | None = None) -> Config:
    """Check a composed configuration and fill in the options of its trial, its loss and the fingerprint of its data.

    shared: for many configurations that are resolved one after another, and have choices in common as objects; the results
    have them in common, too (see `apart`). Raises UserError for the first problem; nothing has started by then.
    """
    if shared is None or "seed" not in config:
        return apart(_resolved(config, shared or SharedParts()))
    # No check and no value depends on the seed, but for its own type.
    schema.check({"seed": config["seed"]}, {"seed": SCIENCE_KEYS["seed"]})
    values, choices_of = without_seed(config)
    resolved = shared.get(("resolved", values), choices_of, lambda: _resolved(config, shared))
    return {**resolved, "seed": config["seed"]}


def apart(config: Config) -> Config:
    """``config`` with choices of its own: an option that is set in one of them is set in no other configuration."""
    return {key: dict(value) if key in GROUPS else value for key, value in config.items()}


def _resolved(config: Config, shared: SharedParts) -> Config:
    keys = {key: value for key, value in config.items() if key not in (*GROUPS, *LIST_GROUPS)}
    for key in keys:
        if key not in SCIENCE_KEYS | MACHINE_KEYS:
            raise UserError(unknown_key(key, {group: _known_options(config.get(group)) for group in GROUPS}))
    schema.check(keys, SCIENCE_KEYS | MACHINE_KEYS)
    config = {**config, **{key: places.folder(config[key], f"{key}=") for key in ("results_dir", "data_dir")}}
    if config["sweep"] is not None:
        places.check_sweep_name(config["sweep"], "sweep=")
    for group in GROUPS:
        choice = config.get(group)
        shared.get(("checked", group), (choice,), lambda group=group, choice=choice: _check_choice(group, choice))  # type: ignore[misc]
    config = dict(config)
    for group in LIST_GROUPS:
        several = config.get(group)
        config[group] = shared.get(
            ("checked", group),
            (several,),
            lambda group=group, several=several: _check_choices(group, several or {}),  # type: ignore[misc]
        )
    config["optimizer"] = _with_trial(config)
    config["dataset"] = shared.get("task", _of_data(config), lambda: _with_task(config))
    config["loss"] = shared.get("loss", _of_data(config), lambda: _loss(config))
    check_installed(config["dataset"])
    for group in ("dataset", "init"):
        check_needed(group, config[group])
    check_validation(config["dataset"])
    check_fit(RunConfig.of(config, shared))
    # Last, because it may read many files.
    place = ("data", config["data_dir"])
    config["dataset"] = shared.get(
        place, (config["dataset"],), lambda: identified(config["dataset"], config["data_dir"])
    )
    return config


def _of_data(config: Mapping[str, Any]) -> tuple[Any, ...]:
    return config["dataset"], config["model"], config["loss"]


def _with_task(config: Mapping[str, Any]) -> Config:
    dataset = dict(config["dataset"])
    choose_task({**config, "dataset": dataset})
    return dataset


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


def _with_trial(config: Mapping[str, Any]) -> Config:
    """The optimizer with the options that the trial draws."""
    optimizer: Config = config["optimizer"]
    if config["trial"] == 0:
        return optimizer
    from optbench.config import tuning

    space = optimizer["info"].get("search_space") or {}
    if not space:
        raise UserError(f"trial={config['trial']}: optimizer={optimizer['name']} declares no search space; use trial=0")
    drawn = tuning.trial_options(space, config["trial"])
    defaults = optimizer
    if optimizer["name"] in choices("optimizer"):
        defaults = choice_to_read("optimizer", optimizer["name"])
    for name, value in drawn.items():
        if optimizer[name] not in (defaults[name], value):
            raise drawn_instead(optimizer["name"], name, optimizer[name], config["trial"])
    optimizer = {**optimizer, **drawn}
    schema.check(options(optimizer), optimizer["info"]["schema"], "optimizer")
    return optimizer


def drawn_instead(optimizer: str, option: str, value: object, trial: int) -> UserError:
    """The error for an option that was given a value although the trial draws it from the search space."""
    return UserError(
        f"optimizer.{option}={value}: trial={trial} draws it from the search space of optimizer={optimizer}; accepted: the "
        f"value with trial=0, the trial without the value, or a choice of your own: a copy of conf/optimizer/{optimizer}.yaml "
        "with another name and another search_space"
    )


def _loss(config: Mapping[str, Any]) -> Config:
    loss: Config = config["loss"]
    return read_choice("loss", automatic_loss(config)) if works_as(loss) == "auto" else loss


def automatic_loss(config: Mapping[str, Any]) -> str:
    """The loss that loss=auto stands for, as its file says: by the kind of the targets, or by the model where it reconstructs."""
    chooses: Mapping[str, str] = read_choice("loss", "auto")["info"]["chooses"]
    model = config["model"]["info"]
    if model.get("reconstructs"):
        return str(model.get("loss", chooses["reconstruction"]))
    return chooses[target_of(config["dataset"])]
