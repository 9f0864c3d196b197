"""Resolving: a composed configuration is checked and completed by what follows from it, before anything starts."""

from collections.abc import Mapping
from typing import Any

from optbench import schema
from optbench.config.files import GROUPS, MACHINE_KEYS, SCIENCE_KEYS, Config, choices, options, read_choice
from optbench.config.fitting import check_fit
from optbench.errors import UserError


def resolve(config: Config) -> Config:
    """Check a composed configuration and fill in what follows from it: the trial, the loss, the budget.

    Raises UserError for the first thing that cannot run; nothing has started by then.
    """
    schema.check({key: value for key, value in config.items() if key not in GROUPS}, SCIENCE_KEYS | MACHINE_KEYS)
    for group in GROUPS:
        _check_choice(group, config.get(group))
    config = {**config, **{group: dict(config[group]) for group in GROUPS}}
    _apply_trial(config)
    _choose_loss(config)
    check_fit(config)
    return config


def _check_choice(group: str, choice: object) -> None:
    known = choices(group)
    accepted = f"accepted: {', '.join(known)}"
    if choice is None:
        raise UserError(f"{group}: missing; must be one choice; {accepted}")
    if not isinstance(choice, Mapping) or "name" not in choice or "info" not in choice:
        raise UserError(f"{group}={choice}: not a choice of this group; {accepted}")
    typed = choice["info"].get("schema", {})
    if "name" not in typed:
        if choice["name"] not in known:
            raise UserError(f"{group}.name={choice['name']}: is fixed; choose with {group}=...; {accepted}")
        # Neither is in the run id, and both would change the numbers.
        if _rules(choice) != _rules(read_choice(group, choice["name"])):
            raise UserError(
                f"{group}.name, {group}.info: are fixed, and differ from those of {group}={choice['name']}; "
                f"choose with {group}=...; {accepted}"
            )
    schema.check(options(choice), typed, group)


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
            raise UserError(
                f"optimizer.{name}={optimizer[name]}: trial={config['trial']} draws it from the search space; "
                "leave one of the two out"
            )
    optimizer.update(drawn)
    schema.check(options(optimizer), optimizer["info"]["schema"], "optimizer")


def _choose_loss(config: Config) -> None:
    if config["loss"]["name"] != "auto":
        return
    if config["model"]["info"].get("reconstructs"):
        name = config["model"]["info"].get("loss", "bernoulli")
    else:
        name = "mse" if config["dataset"]["info"]["target"] == "real" else "cross_entropy"
    config["loss"] = read_choice("loss", name)
