"""Resolving: a composed configuration is checked and completed by what follows from it, before anything starts."""

from collections.abc import Mapping
from typing import Any

from optbench import schema
from optbench.config.files import GROUPS, LIST_GROUPS, MACHINE_KEYS, SCIENCE_KEYS, Config, choices, options, read_choice
from optbench.config.fitting import check_fit
from optbench.errors import UserError
from optbench.suggestions import nearest


def resolve(config: Config) -> Config:
    """Check a composed configuration and fill in what follows from it: the trial, the loss, the budget.

    Raises UserError for the first thing that cannot run; nothing has started by then.
    """
    keys = {key: value for key, value in config.items() if key not in (*GROUPS, *LIST_GROUPS)}
    schema.check(keys, SCIENCE_KEYS | MACHINE_KEYS)
    for group in GROUPS:
        _check_choice(group, config.get(group))
    config = {**config, **{group: dict(config[group]) for group in GROUPS}}
    config |= {group: _check_choices(group, config.get(group) or {}) for group in LIST_GROUPS}
    _apply_trial(config)
    _choose_loss(config)
    check_fit(config)
    return config


def _check_choices(group: str, chosen: object) -> Config:
    """The choices of a group that takes any number of them, by name and without "none"."""
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
    known = choices(group)
    accepted = f"accepted: {', '.join(known)}"
    if choice is None:
        raise UserError(f"{group}: missing; must be one choice; {accepted}")
    if not isinstance(choice, Mapping) or "name" not in choice or "info" not in choice:
        raise UserError(f"{group}={choice}: not a choice of this group; {accepted}")
    typed = choice["info"].get("schema", {})
    if "name" not in typed:
        if choice["name"] not in known:
            raise UserError(f"{where}.name={choice['name']}: is fixed; choose with {group}=...; {accepted}")
        # Neither is in the run id, and both would change the numbers.
        if _rules(choice) != _rules(read_choice(group, choice["name"])):
            raise UserError(
                f"{where}.name, {where}.info: are fixed, and differ from those of {group}={choice['name']}; "
                f"choose with {group}=...; {accepted}"
            )
    schema.check(options(choice), typed, where)


def _rules(choice: Mapping[str, Any]) -> Config:
    """What a choice's info decides; the rest of it explains."""
    return {name: value for name, value in choice["info"].items() if name not in ("about", "source")}


def _apply_trial(config: Config) -> None:
    if config["trial"] == 0:
        return
    from optbench import tuning

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
    """The error for an option of the search space that was given a value beside a trial, which draws one."""
    return UserError(
        f"optimizer.{option}={value}: trial={trial} draws it from the search space of optimizer={optimizer}; accepted: the "
        f"value with trial=0, the trial without the value, or a choice of your own: a copy of conf/optimizer/{optimizer}.yaml "
        "with another name and another search_space"
    )


def _choose_loss(config: Config) -> None:
    if config["loss"]["name"] != "auto":
        return
    if config["model"]["info"].get("reconstructs"):
        name = config["model"]["info"].get("loss", "bernoulli")
    else:
        name = "mse" if config["dataset"]["info"]["target"] == "real" else "cross_entropy"
    config["loss"] = read_choice("loss", name)
