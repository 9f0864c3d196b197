"""Configurations: composed by Hydra, checked against each choice's own schema, resolved, and named by a run id.

A configuration here is a plain nested mapping. Everything in it that can change the numbers is its *science*; the run id
is a readable slug and a hash of that and of nothing else, so the same science on other hardware has the same id.
"""

import copy
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from optbench import scaling, schema
from optbench.errors import UserError
from optbench.horizon import BatchPlan, Horizon, in_samples
from optbench.schema import Duration, OptionType
from optbench.suggestions import nearest

Config = dict[str, Any]

GROUPS = (
    "optimizer",
    "model",
    "dataset",
    "loss",
    "schedule",
    "momentum_schedule",
    "scaling",
    "init",
    "averaging",
    "budget",
    "trainer",
    "launcher",
    "tracker",
)
# Where a run trains and who is told of it are no part of its science.
_NOT_SCIENCE = ("launcher", "tracker")

# The types of the keys on the front page, conf/config.yaml, that are not groups.
SCIENCE_KEYS = {
    "batch": "int >= 1",
    "base_batch": "int >= 1",
    "seed": "int >= 0",
    "trial": "int >= 0",
    "norm_batch": "int >= 1 or null",
    "clip_norm": "float > 0 or null",
    "precision": "one of fp64, fp32, tf32, bf16, fp16",
    "eval_every": "duration > 0",
    "evaluate_train": "int >= 1 or null",
    "divergence_factor": "float > 1 or null",
}
MACHINE_KEYS = {
    "micro_batch": "int >= 1 or null",
    "compile": "bool",
    "log_every": "int >= 1",
    "checkpoint_every": "duration > 0 or null",
    "results_dir": "str",
    "data_dir": "str",
    "force": "bool",
    "retry": "one of none, failed, diverged, all",
    "sweep": "str or null",
    "dry_run": "bool",
    "progress": "bool",
}
_FIXED = ("_target_", "name", "info")  # in every choice, and not options of it


def conf_dir() -> Path:
    """The folder of choices: $OPTBENCH_CONF, or the checkout's conf/, or the one packaged in a wheel."""
    package = Path(__file__).resolve().parent
    if "OPTBENCH_CONF" in os.environ:
        return Path(os.environ["OPTBENCH_CONF"]).resolve()
    checkout = package.parent / "conf"
    # An editable install may hold a stale packaged copy too, so the checkout comes first.
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


# What the files and folders below conf/ held when they were last read, for a sweep reads them once for each of its runs.
_READ: dict[Path, tuple[tuple[int, int, int], Any]] = {}
_CLOCK_NANOSECONDS = 2_000_000_000


def _unless_read(path: Path, read: Callable[[], Any]) -> Any:
    """What ``read()`` returns, or returned while ``path`` was as it is now; not to be changed by the caller."""
    try:
        status = path.stat()
    except OSError:
        return read()
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    known = _READ.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    content = read()
    # What changed just now may change again at the same tick of the file system's clock.
    if time.time_ns() - status.st_mtime_ns > _CLOCK_NANOSECONDS:
        _READ[path] = (stamp, content)
    return content


def choices(group: str) -> dict[str, Path]:
    """The choices of ``group`` by name, each with its file."""
    folder = conf_dir() / group
    known = _unless_read(folder, lambda: {path.stem: path for path in sorted(folder.glob("*.yaml"))})
    return dict(known)


def read_choice(group: str, name: str) -> Config:
    """One choice as its file states it, not composed with anything."""
    return _read_yaml(conf_dir() / group / f"{name}.yaml")


def front_page() -> Config:
    """conf/config.yaml as it stands, not composed."""
    return _read_yaml(conf_dir() / "config.yaml")


def _read_yaml(path: Path) -> Config:
    # The parser in C, where PyYAML has it, takes milliseconds less a file.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return copy.deepcopy(_unless_read(path, lambda: yaml.load(path.read_text(encoding="utf-8"), Loader=loader)))


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
    if match := re.search(r"Could not find '([\w/]+)/([^/']+)'", text):
        group, name = match[1], match[2]
        return f"{group}={name}: no such {group}; {nearest(name, choices(group))} (`python -m optbench list {group}`)"
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text):
        key = match[1]
        group, _, option = key.partition(".")
        if option and group in GROUPS:
            known = options(read_choice(group, _chosen(group, overrides)))
            return f"{key}: unknown key; {nearest(option, known)} (`python -m optbench list {group} --options`)"
        return f"{key}: unknown key; {nearest(group, [*GROUPS, *SCIENCE_KEYS, *MACHINE_KEYS])}"
    if match := re.match(r"Ambiguous value for argument '(.+)'", text):
        return f"{match[1]}: several values; accepted: one, or with --multirun a run for each"
    in_a_line = " ".join(line.strip() for line in text.splitlines() if line.strip()).split(" See https://")[0]
    if override := getattr(error, "override", None):  # one that Hydra's grammar does not know
        return (
            f"{override}: cannot be read ({in_a_line}); accepted: KEY=VALUE, and in quotes what has brackets or spaces"
        )
    return in_a_line


def _chosen(group: str, overrides: Sequence[str]) -> str:
    """The choice of ``group`` that holds with ``overrides``: the last that names it, or else the front page's."""
    names = [entry[group] for entry in front_page()["defaults"] if isinstance(entry, dict) and group in entry]
    names += [word.partition("=")[2] for word in overrides if word.partition("=")[0] == group]
    return next(name for name in reversed(names) if name in choices(group))


# ---- checking and resolving -----------------------------------------------------------------------------------------


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
    _check_fit(config)
    return config


def options(choice: Mapping[str, Any]) -> Config:
    """The options of a choice: all but its target, name and info (a name that is an option, as in the zoo, stays)."""
    typed = choice["info"]["schema"]
    return {name: value for name, value in choice.items() if name in typed or name not in _FIXED}


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


def _check_fit(config: Config) -> None:
    """Raise UserError where two choices, each right by itself, do not go together."""
    model, dataset, optimizer = config["model"], config["dataset"], config["optimizer"]
    kind, target = dataset["info"]["kind"], dataset["info"]["target"]
    accepts = model["info"]["accepts"]
    if kind not in accepts:
        fitting = [name for name in choices("dataset") if read_choice("dataset", name)["info"]["kind"] in accepts]
        raise UserError(
            f"model={model['name']} reads {' or '.join(accepts)}, but dataset={dataset['name']} is of kind {kind}; "
            f"datasets that fit: {', '.join(fitting)}"
        )
    reconstructs = bool(model["info"].get("reconstructs"))
    fits = {
        "cross_entropy": not reconstructs and target in ("class", "class_per_step"),
        "mse": reconstructs or target == "real",
        "bernoulli": reconstructs,
    }
    loss = config["loss"]["name"]
    if not fits.get(loss, True):
        accepted = [name for name, right in fits.items() if right]
        raise UserError(
            f"loss={loss}: does not fit model={model['name']} on dataset={dataset['name']}, whose "
            + (f"targets are of kind {target}" if not reconstructs else "target is its input")
            + (f"; accepted: auto, {', '.join(accepted)}" if accepted else "; choose an autoencoder model")
        )
    examples = training_examples(config)
    plan = batch_plan(config)
    if examples is not None and plan.largest > examples:
        grown = " (to which schedule=batch_growth takes it)" if plan.largest > config["batch"] else ""
        raise UserError(
            f"batch={plan.largest}{grown}: larger than the training set of dataset={dataset['name']}, which has {examples} "
            f"examples; accepted: 1 to {examples}"
        )
    _check_division(config, plan)
    if config["precision"] == "fp16" and (
        optimizer["info"]["family"] == "second_order" or optimizer["info"].get("evaluations") == "several"
    ):
        raise UserError(
            f"precision=fp16: optimizer={optimizer['name']} evaluates the objective more than once a step, and loss scaling "
            "is for first-order methods; accepted: fp64, fp32, tf32, bf16"
        )
    _check_momentum(config)
    if config["budget"]["stop_at_target"] and config["budget"]["target"] is None:
        raise UserError("budget.stop_at_target=true: needs budget.target, a value of budget.target_metric")
    budget = config["budget"]
    if budget["target"] is not None and budget["target_metric"].endswith("accuracy") and reconstructs:
        raise UserError(
            f"budget.target_metric={budget['target_metric']}: a reconstruction has no accuracy; "
            "accepted: validation_loss, train_loss"
        )


def _check_division(config: Config, plan: BatchPlan) -> None:
    world_size = ranks(config)
    micro, norm = config["micro_batch"], config["norm_batch"]
    grouped = bool(config["model"]["info"].get("batch_norm"))
    for stage in plan.stages:
        batch = stage.batch
        if batch % world_size:
            raise UserError(
                f"batch={batch}: trainer.devices={config['trainer']['devices']} x trainer.num_nodes="
                f"{config['trainer']['num_nodes']} ranks must share it equally; accepted: multiples of {world_size}"
            )
        if not grouped:
            continue
        share = batch // world_size
        group = batch if norm is None else min(norm, batch)
        if batch % group == 1:
            raise UserError(
                f"norm_batch={norm}: leaves one example of batch={batch} by itself, which has no variance to normalize with; "
                f"accepted: divisors of {batch}, or others that leave two or more"
            )
        if world_size > 1 and share % group and group % share:
            raise UserError(
                f"norm_batch={norm}: each of {world_size} ranks has {share} examples, which must be whole groups or divide one; "
                f"accepted: divisors or multiples of {share}"
            )
        if micro is not None and micro < share and (group > share or micro % group):
            raise UserError(
                f"micro_batch={micro}: with norm_batch={'null' if norm is None else norm} and {share} examples on each rank, "
                f"micro-batches must be whole groups of batch norm; accepted: multiples of {min(group, share)}"
            )


def _check_momentum(config: Config) -> None:
    cycles = config["schedule"].get("cycle_momentum") and config["schedule"]["name"] == "one_cycle"
    if config["momentum_schedule"]["name"] == "none":
        return
    if cycles:
        raise UserError(
            "momentum_schedule: schedule=one_cycle cycles the momentum itself; set schedule.cycle_momentum=false"
        )
    known = options(config["optimizer"])
    if not {"momentum", "beta1"} & set(known):
        raise UserError(
            f"momentum_schedule={config['momentum_schedule']['name']}: optimizer={config['optimizer']['name']} has no momentum; "
            "accepted: none, or an optimizer with an option momentum or beta1"
        )


# ---- what follows from a configuration --------------------------------------------------------------------------------


def ranks(config: Mapping[str, Any]) -> int:
    """How many processes train one run together."""
    return config["trainer"]["devices"] * config["trainer"]["num_nodes"]


def training_examples(config: Mapping[str, Any]) -> int | None:
    """The size of the training set, as the dataset's file declares it; None where only its files can tell."""
    dataset = config["dataset"]
    declared = dataset["info"].get("size", {}).get("train")
    if declared is None:
        return dataset.get("train_limit")
    if any(dataset[name] != default for name, default in dataset["info"].get("size_at", {}).items()):
        return dataset.get("train_limit")
    examples = int(declared)
    if dataset.get("validation") is not None:
        # The declared size is that at the default validation set; what validation does not take, training has.
        examples += int(read_choice("dataset", dataset["name"]).get("validation") or 0) - dataset["validation"]
    for name in dataset["info"].get("size_from", []):
        examples = int(dataset[name])
    limit = dataset.get("train_limit")
    return examples if limit is None else min(limit, examples)


def batch_plan(config: Mapping[str, Any], examples: int | None = None) -> BatchPlan:
    """The batch of every step: ``batch``, or growing at the milestones of schedule=batch_growth."""
    schedule = config["schedule"]
    if schedule["name"] != "batch_growth":
        return BatchPlan(config["batch"])
    size = examples or training_examples(config)
    if size is None:
        raise UserError("schedule=batch_growth: needs a dataset whose size its configuration states")
    milestones, batches, batch = [], [], config["batch"]
    stretch = _stretch(config)
    for value in schedule["milestones"]:
        duration = Duration.parse(value)
        if duration.unit not in ("epochs", "samples"):
            raise UserError(f"schedule.milestones={value}: must be in epochs or samples, such as 30epochs")
        larger = int(batch * schedule["growth"])
        if schedule["maximum"] is None or larger <= schedule["maximum"]:
            batch = larger
        milestones.append(int(in_samples(duration, size, stretch if duration.unit == "epochs" else 1)))
        batches.append(batch)
    return BatchPlan(config["batch"], milestones, batches)


def horizon(config: Mapping[str, Any], examples: int) -> Horizon:
    """How long the run is, given the number of training ``examples``."""
    return Horizon.of(config["budget"], batch_plan(config, examples), examples, _stretch(config))


def _stretch(config: Mapping[str, Any]) -> int:
    # Regime adaptation gives a larger batch as many updates as the base batch had.
    return -(-config["batch"] // config["base_batch"]) if config["budget"]["regime_adaptation"] else 1


def learning_rate(config: Mapping[str, Any]) -> tuple[float | None, str]:
    """The effective base learning rate after scaling (None where the optimizer's own default holds), and the rule."""
    base = config["optimizer"].get("learning_rate")
    if base is None:
        return None, "none"
    family = config["optimizer"]["info"]["family"]
    return scaling.learning_rate(config["scaling"], base, config["batch"], config["base_batch"], family)


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
    holds = next(unit for unit in ("steps", "samples", "epochs") if budget[unit] is not None)
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
