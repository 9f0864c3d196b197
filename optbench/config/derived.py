"""What follows from a configuration: how many ranks and examples it has, how long it is, its learning rate."""

from collections.abc import Mapping
from typing import Any

from optbench import scaling
from optbench.config.files import read_choice
from optbench.errors import UserError
from optbench.horizon import BatchPlan, Horizon, in_samples
from optbench.schema import Duration


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


def budget_limit(budget: Mapping[str, Any]) -> str:
    """Which of the limits of a budget holds: its steps, or else its samples, or else its epochs."""
    return next(unit for unit in ("steps", "samples", "epochs") if budget[unit] is not None)


def epochs_asked_for(config: Mapping[str, Any]) -> float | None:
    """The epochs that the budget is given in, regime adaptation included; None where it is given in steps or samples."""
    budget = config["budget"]
    return budget["epochs"] * _stretch(config) if budget_limit(budget) == "epochs" else None


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
