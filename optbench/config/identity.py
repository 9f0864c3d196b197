"""The identity of a run: what of its configuration can change the numbers, and the run id made from that."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from optbench.config.derived import budget_limit, ranks
from optbench.config.files import GROUPS, SCIENCE_KEYS, Config, options
from optbench.schema import OptionType

# Where a run trains and who is told of it are no part of its science.
_NOT_SCIENCE = ("launcher", "tracker")


def science(config: Mapping[str, Any]) -> Config:
    """All of ``config`` that can change the numbers, in canonical form."""
    numbers: Config = {key: OptionType.parse(text).canonical(config[key]) for key, text in SCIENCE_KEYS.items()}
    for group in GROUPS:
        if group in _NOT_SCIENCE:
            continue
        choice = config[group]
        typed, left_out = choice["info"]["schema"], choice["info"].get("not_in_run_id", [])
        entry = {key: choice[key] for key in ("_target_", "name") if key in choice and key not in left_out}
        for name, value in options(choice).items():
            if name not in left_out:
                entry[name] = OptionType.parse(typed[name]).canonical(value)
        numbers[group] = entry
    budget = numbers["budget"]
    # Only the limit that holds can change anything.
    holds = budget_limit(budget)
    numbers["budget"] = {
        name: value
        for name, value in budget.items()
        if name == holds or name not in ("name", "steps", "samples", "epochs")
    }
    if numbers["trainer"].get("compression", "none") != "none":
        # What compression loses depends on how many ranks there are.
        numbers["trainer"]["ranks"] = ranks(config)
    return numbers


def run_id(config: Mapping[str, Any]) -> str:
    """Such as ``adam-resnet18-cifar10-b512-s0-3f9a1c27de``: what a reader looks for, and a hash of the science."""
    canonical = json.dumps(science(config), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
    names = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", str(config[group]["name"])) for group in GROUPS[:3])
    trial = f"-t{config['trial']}" if config["trial"] else ""
    return f"{names}-b{config['batch']}-s{config['seed']}{trial}-{digest}"


def to_yaml(config: Mapping[str, Any]) -> str:
    """A resolved configuration as YAML text, in the order of the front page."""
    # The dumper in C, where PyYAML has it, takes a fifth of the time: it is once a run of a sweep.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(dict(config), Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
