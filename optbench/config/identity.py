"""The identity of a run: the part of its configuration that can change the results, and the run id made from it."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from optbench.config import scaling
from optbench.config.durations import Budget
from optbench.config.files import (
    ASIDE_GROUPS,
    GROUPS,
    SCIENCE_KEYS,
    Config,
    file_of,
    known_as,
    left_out_of_run_id,
    name_of,
    optimizer_name,
    options,
    transforms_of,
)
from optbench.config.run_config import Choice, Devices
from optbench.config.schema import OptionType
from optbench.config.shared_parts import SharedParts, without_seed
from optbench.moved import published_key, published_target

# The run id is the name of the run's directory, which may have 255 bytes.
_LONGEST_SLUG = 150


def science(config: Mapping[str, Any], shared: SharedParts | None = None) -> Config:
    """All of ``config`` that can change the numbers, in canonical form: under the names that were published first.

    ``shared``: as for `resolve`.
    """
    shared = shared or SharedParts()
    numbers: Config = {
        published_key(key): OptionType.parse(text).canonical(config[key]) for key, text in SCIENCE_KEYS.items()
    }
    for group in GROUPS:
        if group in ASIDE_GROUPS:
            continue
        if (group == "communication" and _is_dense(config)) or (group == "selection" and _uses_all(config)):
            continue
        choice = config[group]
        entry = shared.get(("science", group), (choice,), lambda group=group, choice=choice: _entry(group, choice))  # type: ignore[misc]
        numbers[group] = dict(entry)  # of which some are changed below
    # Absent without any, as in the configurations of versions that had none.
    if transforms := transforms_of(config):
        numbers["transform"] = {str(each["name"]): _entry("transform", each) for each in transforms}
    rule = scaling.rule_beside_family(
        Choice.of("scaling", config["scaling"]), Choice.of("optimizer", config["optimizer"])
    )
    if rule is not None and config["batch"] != config["base_batch"]:
        numbers["scaling"]["rule"] = rule
    budget = numbers["budget"]
    # Only the limit in effect can change the results.
    holds = Budget.of(config["budget"]).limit
    numbers["budget"] = {
        name: value
        for name, value in budget.items()
        if name == holds or name not in ("name", "steps", "samples", "epochs")
    }
    # An option of earlier versions, which `communication` replaces. Frozen configurations may hold it; what it lost depended
    # on the number of ranks.
    if numbers["trainer"].setdefault("compression", "none") != "none":
        numbers["trainer"]["ranks"] = Devices.of(config["trainer"]).ranks
    return numbers


def _entry(group: str, choice: Mapping[str, Any]) -> Config:
    """The part of the science that is the choice of ``group``."""
    typed, left_out = choice["info"]["schema"], left_out_of_run_id(group, choice)
    entry: Config = {key: choice[key] for key in ("_target_", "name") if key in choice and key not in left_out}
    if "_target_" in entry:
        entry["_target_"] = published_target(entry["_target_"])
    if known_as(choice) != str(choice["name"]):
        entry["choice"] = file_of(choice)
    for name, value in options(choice).items():
        if name not in left_out:
            entry[name] = OptionType.parse(typed[name]).canonical(value)
    if choice.get("fingerprint") is not None and "fingerprint" not in typed:
        entry["fingerprint"] = choice["fingerprint"]  # for data without an official hash
    return entry


def _is_dense(config: Mapping[str, Any]) -> bool:
    """True if workers send whole gradients, as they always did before there was the group; their number then has no effect."""
    return "communication" not in config or config["communication"].get("name") == "dense"


def _uses_all(config: Mapping[str, Any]) -> bool:
    """True if training uses all examples, as it always did before there was the group."""
    return "selection" not in config or config["selection"].get("name") == "none"


def run_id(config: Mapping[str, Any], shared: SharedParts | None = None) -> str:
    """The run id, such as ``adam-resnet18-cifar10-b512-s0-3f9a1c27de``: the main choices, and a hash of the science.

    ``shared``: as for `resolve`.
    """
    optimizer = "+".join(map(_plain, optimizer_name(config).split("+")))
    names = "-".join([optimizer, *(_plain(name_of(config[group])) for group in GROUPS[1:3])])[:_LONGEST_SLUG]
    trial = f"-t{config['trial']}" if config["trial"] else ""
    return f"{names}-b{config['batch']}-s{config['seed']}{trial}-{_digest(_science(config, shared))}"


def _science(config: Mapping[str, Any], shared: SharedParts | None) -> Config:
    if shared is None:
        return science(config)
    values, choices = without_seed(config)
    numbers = shared.get(("science", values), choices, lambda: science(config, shared))
    return {**numbers, "seed": config["seed"]}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name)


def setting(config: Mapping[str, Any]) -> str:
    """A hash of the science without the seed: runs whose results may be averaged have equal hashes, and no others."""
    return _digest({key: value for key, value in science(config).items() if key != "seed"})


def _digest(numbers: Config) -> str:
    canonical = json.dumps(numbers, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]
