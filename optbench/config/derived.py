"""Values derived from a configuration: the number of training examples, the length of the run, the learning rate."""

import math
from collections.abc import Sequence

from optbench.config import scaling
from optbench.config.durations import MOST, BatchPlan, Evaluations, GrowingPlan, Horizon, in_samples
from optbench.config.files import choices
from optbench.config.inheritance import choice_to_read
from optbench.config.run_config import RunConfig
from optbench.errors import UserError


def training_examples(config: RunConfig) -> int | None:
    """The size of the training set, as the dataset's file declares it; None if only the data themselves show it."""
    chosen, info = config.dataset.options, config.dataset.info
    limit: int | None = chosen.get("train_limit")
    declared = info.get("size", {}).get("train")
    if declared is None or any(chosen[name] != default for name, default in info.get("size_at", {}).items()):
        return limit
    examples = int(declared)
    # A frozen configuration may name a dataset whose file is not installed here.
    if chosen.get("validation") is not None and config.dataset.name in choices("dataset"):
        # The declared size holds for the default validation set; a smaller one leaves more examples for training.
        examples += int(choice_to_read("dataset", config.dataset.name).get("validation") or 0) - chosen["validation"]
    for name in info.get("size_from", []):
        examples = int(chosen[name])
    return examples if limit is None else min(limit, examples)


def batch_plan(config: RunConfig, examples: int | None = None) -> BatchPlan:
    """The batch of every step: ``batch``; or growing, at the milestones of schedule=batch_growth, or as the optimizer asks."""
    if config.optimizer.info.get("batch") == "adaptive":
        options = config.optimizer.options
        most = examples or training_examples(config) or config.batch
        return GrowingPlan(config.batch, options["batch_multiple"], min(options["maximum_batch"] or most, most))
    if config.schedule.rule != "batch_growth":
        return BatchPlan(config.batch)
    size = examples or training_examples(config)
    if size is None:
        raise UserError("schedule=batch_growth: needs a dataset whose size its configuration states")
    growing = config.schedule.options
    milestones, batches, batch = [], [], config.batch
    for duration in growing["milestones"]:
        if duration.unit not in ("epochs", "samples"):
            raise UserError(f"schedule.milestones={duration.typed}: must be in epochs or samples, such as 30epochs")
        grown = batch * growing["growth"]
        if grown > MOST and growing["maximum"] is None:
            raise UserError(
                f"schedule.growth={growing['growth']}: takes batch={batch} beyond {MOST:.0e} examples; accepted: less, or a "
                "schedule.maximum"
            )
        larger = int(min(grown, MOST))
        if growing["maximum"] is None or larger <= growing["maximum"]:
            batch = larger
        milestones.append(int(in_samples(duration, size, config.stretch if duration.unit == "epochs" else 1)))
        batches.append(batch)
    return BatchPlan(config.batch, milestones, batches)


def epochs_asked_for(config: RunConfig) -> float | None:
    """The budget in epochs, regime adaptation included; None if the budget is given in steps or samples."""
    budget = config.budget
    return budget.epochs * config.stretch if budget.limit == "epochs" and budget.epochs is not None else None


def horizon(config: RunConfig, examples: int) -> Horizon:
    """The length of the run, given the number of training ``examples``."""
    return Horizon.of(config.budget, batch_plan(config, examples), examples, config.stretch)


def evaluations(config: RunConfig, run: Horizon) -> Evaluations:
    """The steps at which the run is evaluated."""
    return Evaluations.of(run, config.eval_every)


def rungs(config: RunConfig, shares: Sequence[float]) -> tuple[int, ...]:
    """The steps at which a search pauses the run: the first evaluations after these ``shares`` of its steps, ascending.

    Raises UserError for a run whose length its configuration does not state, and if two shares end at one evaluation, or one
    at the end of the run.
    """
    examples = training_examples(config)
    if examples is None:
        raise UserError(
            f"dataset={config.dataset.name}: its configuration does not state its size, so that the length of a run is not known "
            "before it is read; accepted for a search with rungs: another dataset, or a dataset.train_limit"
        )
    run = horizon(config, examples)
    evaluated, found = evaluations(config, run), [0]
    for share in shares:
        step = evaluated.from_step(math.ceil(share * run.steps - 1e-9))
        if not found[-1] < step < run.steps:
            every = f"every {evaluated.every}, " if isinstance(evaluated.every, int) else ""
            raise UserError(
                f"eval_every={config.eval_every.typed}: a run of {run.steps} steps is evaluated {every}too seldom for rungs at "
                f"the shares {', '.join(f'{each:.3g}' for each in shares)} of it; accepted: more evaluations, such as "
                f"eval_every={100 * min(shares):.3g}%, or fewer rungs (search.rungs, search.first)"
            )
        found.append(step)
    return tuple(found[1:])


def learning_rate(config: RunConfig) -> tuple[float | None, str]:
    """The effective base learning rate after scaling (None: the optimizer's own default), and the rule.

    Raises UserError if the rate must be scaled and is not known, or if scaling=auto has no rule.
    """
    rule, optimizer = config.scaling, config.optimizer
    base = optimizer.options.get("learning_rate")
    if base is not None:
        return scaling.learning_rate(rule, base, config.batch, config.base_batch, optimizer)
    if scaling.applied_rule(rule, optimizer) != "none" and config.batch != config.base_batch:
        raise UserError(
            f"scaling={rule.name}: optimizer={optimizer.name} has no learning rate here that could be scaled from "
            f"base_batch={config.base_batch} to batch={config.batch}; accepted: scaling=none, or a number as "
            "optimizer.learning_rate"
        )
    return None, "none"
