"""Check that choices that are each valid also fit together."""

from collections.abc import Mapping
from typing import Any

from optbench.config.data_options import check_unused, hint, kind_of, target_of
from optbench.config.derived import batch_plan, learning_rate, training_examples
from optbench.config.durations import BatchPlan
from optbench.config.files import choices
from optbench.config.inheritance import read_choice
from optbench.config.lengths import check_lengths
from optbench.config.run_config import RunConfig
from optbench.config.schema import Duration
from optbench.config.sharding import check_sharding
from optbench.config.transforms import check_transforms
from optbench.errors import UserError


def _info(group: str, name: str) -> Mapping[str, Any]:
    """The ``info`` of a choice; empty if its file cannot be chosen."""
    try:
        found: Mapping[str, Any] = read_choice(group, name).get("info", {})
        return found
    except UserError:
        return {}


def _takes(loss: Mapping[str, Any], target: str, reconstructs: bool) -> bool:
    """True if a loss, by its ``info``, takes targets of this kind, or the inputs if the model reconstructs them."""
    return bool(loss.get("reconstructs")) if reconstructs else target in loss.get("targets", ())


def check_fit(config: RunConfig) -> None:
    """Raise UserError if two choices, each valid by itself, do not fit together."""
    model, dataset, optimizer = config.model, config.dataset, config.optimizer
    chosen = config.text["dataset"]
    kind, target = kind_of(chosen), target_of(chosen)
    accepts = model.info["accepts"]
    if kind not in accepts:
        fitting = [name for name in choices("dataset") if _info("dataset", name).get("kind") in accepts]
        raise UserError(
            f"model={model.name} reads {' or '.join(accepts)}, but dataset={dataset.name} is of kind {kind}{hint(chosen)}; "
            f"datasets that fit: {', '.join(fitting)}"
        )
    check_unused(chosen)
    reconstructs = bool(model.info.get("reconstructs"))
    if "targets" in config.loss.info and not _takes(config.loss.info, target, reconstructs):
        accepted = [name for name in choices("loss") if _takes(_info("loss", name), target, reconstructs)]
        raise UserError(
            f"loss={config.loss.name}: does not fit model={model.name} on dataset={dataset.name}, whose "
            + (f"targets are of kind {target}" if not reconstructs else "target is its input")
            + (f"; accepted: auto, {', '.join(accepted)}" if accepted else "; choose an autoencoder model")
        )
    examples = training_examples(config)
    plan = batch_plan(config)
    if examples is not None and plan.largest > examples:
        grown = " (to which schedule=batch_growth takes it)" if plan.largest > config.batch else ""
        raise UserError(
            f"batch={plan.largest}{grown}: larger than the training set of dataset={dataset.name}, which has {examples} "
            f"examples; accepted: 1 to {examples}"
        )
    _check_shares(config, plan)
    if config.compile and config.checkpointing:
        raise UserError(
            f"model.checkpointing={config.checkpointing}: with compile=true, the compiler itself decides what is computed anew; "
            "accepted: one of the two, model.checkpointing=0 or compile=false"
        )
    _check_communication(config, plan)
    _check_selection(config, target)
    check_sharding(config)
    if model.info.get("batch_norm") and model.options.get("batch_norm", True):
        check_groups(config)
    check_transforms(config)
    if config.precision == "fp16" and (optimizer.info["family"] == "second_order" or not config.evaluates_once):
        raise UserError(
            f"precision=fp16: optimizer={config.optimizer_name} evaluates the objective more than once a step, and loss scaling "
            "is for first-order methods; accepted: fp64, fp32, tf32, bf16"
        )
    if config.clip_norm is not None and optimizer.info.get("gradients") == "none":
        raise UserError(
            f"clip_norm={config.clip_norm}: optimizer={optimizer.name} takes losses alone, no gradient to clip; accepted: null"
        )
    _check_adaptive_batch(config)
    _check_momentum(config)
    learning_rate(config)  # raises UserError for an unknown rule, and for a rate beyond the range of floats
    if examples is not None:
        check_lengths(config, examples)
    budget = config.budget
    if budget.stop_at_target and budget.target is None:
        raise UserError("budget.stop_at_target=true: needs budget.target, a value of budget.target_metric")
    if budget.target is not None and budget.target_metric.endswith("accuracy") and reconstructs:
        raise UserError(
            f"budget.target_metric={budget.target_metric}: a reconstruction has no accuracy; "
            "accepted: validation_loss, train_loss"
        )


def _check_adaptive_batch(config: RunConfig) -> None:
    """Raise UserError for what counts on steps that are known before the run, where the optimizer chooses the batch."""
    optimizer, schedule, ranks = config.optimizer, config.schedule, config.trainer.ranks
    if optimizer.info.get("batch") != "adaptive":
        return
    multiple, most = optimizer.options["batch_multiple"], optimizer.options["maximum_batch"]
    if multiple % ranks:
        raise UserError(
            f"optimizer.batch_multiple={multiple}: {config.trainer} ranks must share every batch equally; accepted: multiples "
            f"of {ranks}"
        )
    if config.batch < 2 or (most is not None and most < config.batch):
        raise UserError(
            f"batch={config.batch}: optimizer={optimizer.name} estimates a variance within it, and lets it grow"
            + (f" to optimizer.maximum_batch={most}" if most is not None else "")
            + f"; accepted: 2 or more{'' if most is None else ', up to that'}"
        )
    values = [each for value in schedule.options.values() for each in (value if isinstance(value, list) else [value])]
    durations = [each for each in values if isinstance(each, Duration) and each.amount > 0]
    if config.budget.limit == "steps":
        fits = schedule.rule != "batch_growth" and all(each.unit in ("steps", "%") for each in durations)
    else:
        fits = schedule.rule in ("constant", "plateau") and not durations
    if not fits:
        raise UserError(
            f"schedule={schedule.name}: counts steps that are known before a run, and with optimizer={optimizer.name} the "
            "batch, and so the steps of an epoch, follow from the run; accepted: schedule=constant or plateau without "
            "warm-up, or, with budget.steps, durations in steps or %"
        )


def _check_shares(config: RunConfig, plan: BatchPlan) -> None:
    world_size = config.trainer.ranks
    for stage in plan.stages:
        if stage.batch % world_size:
            raise UserError(
                f"batch={stage.batch}: {config.trainer} ranks must share it equally; accepted: multiples of {world_size}"
            )


def check_groups(config: RunConfig, examples: int | None = None) -> None:
    """Raise UserError if the groups of batch norm do not fit the batch, its micro-batches, the ranks or the workers."""
    world_size = config.trainer.ranks
    micro = None if config.micro_batch == "auto" else config.micro_batch
    norm = config.ghost_batch_size
    for stage in batch_plan(config, examples).stages:
        if config.communication.target is not None:
            _check_groups_of_worker(config, stage.batch // config.workers)
            continue
        batch = stage.batch
        share = batch // world_size
        group = batch if norm is None else min(norm, batch)
        if group == 1:
            option = f"ghost_batch_size={norm}" if norm == 1 else f"batch={batch}"
            raise UserError(
                f"{option}: model={config.model.name} has batch norm, and one example by itself has no variance to "
                "normalize with; accepted: 2 or more"
            )
        if batch % group == 1:
            raise UserError(
                f"ghost_batch_size={norm}: leaves one example of batch={batch} by itself, which has no variance to normalize "
                f"with; accepted: divisors of {batch}, or others that leave two or more"
            )
        if world_size > 1 and share % group and group % share:
            raise UserError(
                f"ghost_batch_size={norm}: each of {world_size} ranks has {share} examples, which must be whole groups or "
                f"divide one; accepted: divisors or multiples of {share}"
            )
        if micro is not None and micro < share and (group > share or micro % group):
            raise UserError(
                f"micro_batch={micro}: with ghost_batch_size={'null' if norm is None else norm} and {share} examples on each "
                f"rank, micro-batches must be whole groups of batch norm; accepted: multiples of {min(group, share)}"
            )


def _check_groups_of_worker(config: RunConfig, share: int) -> None:
    """Raise UserError unless groups of batch norm are whole parts of a worker's ``share``, and micro-batches whole groups."""
    norm, group = config.ghost_batch_size, config.ghost_batch_size or share
    wide = [size for size in range(2, share + 1) if share % size == 0]
    if group not in wide:
        accepted = f"null (a worker's whole share) or one of {', '.join(map(str, wide))}" if wide else "fewer workers"
        raise UserError(
            f"ghost_batch_size={'null' if norm is None else norm}: each of communication.workers={config.workers} has {share} "
            f"example{'' if share == 1 else 's'}, which must be whole groups of batch norm of two or more; accepted: {accepted}"
        )
    micro = config.micro_batch
    if isinstance(micro, int) and micro < share and micro % group:
        raise UserError(
            f"micro_batch={micro}: with ghost_batch_size={'null' if norm is None else norm} and {share} examples of each worker, "
            f"micro-batches must be whole groups of batch norm; accepted: multiples of {group}"
        )


def _check_communication(config: RunConfig, plan: BatchPlan) -> None:
    """Raise UserError if workers cannot share the batch, or ranks the workers, or if the optimizer needs more than they send."""
    communication, optimizer = config.communication, config.optimizer
    if communication.target is None:
        return
    workers, ranks = config.workers, config.trainer.ranks
    typed = f"communication.workers={workers}"
    if workers % ranks:
        accepted = ", ".join(str(count) for count in range(1, workers + 1) if workers % count == 0)
        raise UserError(
            f"{typed}: {config.trainer} ranks must hold equal numbers of whole workers; accepted: multiples of {ranks}, or "
            f"as many ranks as divide {workers}: {accepted}"
        )
    for stage in plan.stages:
        if stage.batch % workers:
            raise UserError(
                f"{typed}: must have equal shares of batch={stage.batch}; accepted: divisors of {stage.batch}"
            )
    target = target_of(config.text["dataset"])
    if config.sorted_shards and target != "class":
        raise UserError(
            f"communication.shards=sorted: dataset={config.dataset.name} has no class labels to sort examples by (its targets "
            f"are of kind {target}); accepted: alike, or data with one class label for each example"
        )
    if optimizer.stated("evaluation_weights") and communication.name in ("local", "post_local"):
        raise UserError(
            f"communication={communication.name}: optimizer={optimizer.name} has weights of its own for evaluation, and workers "
            "average those that are trained; accepted: dense, or another optimizer"
        )
    if not config.evaluates_once:
        raise UserError(
            f"communication={communication.name}: optimizer={config.optimizer_name} evaluates the objective more than once a "
            "step, and workers send one gradient; accepted: dense, or an optimizer that evaluates it once"
        )
    if config.precision == "fp16":
        raise UserError(
            f"precision=fp16: its loss scaling and communication={communication.name} do not go together; accepted: fp64, "
            "fp32, tf32, bf16, or communication=dense"
        )


def _check_selection(config: RunConfig, target: str) -> None:
    """Raise UserError if subsets of the training set cannot be chosen, or not in these classes, or not by these ranks."""
    selection, dataset = config.selection, config.dataset.name
    if selection.target is None:
        return
    typed = f"selection={selection.name}"
    kind = kind_of(config.text["dataset"])
    if kind in ("noise", "problem", "tokens"):
        raise UserError(
            f"{typed}: dataset={dataset} is of kind {kind} and has no single examples to choose from; accepted: selection=none, "
            "or data of images, tables or sequences"
        )
    if selection.options.get("per_class") and target != "class":
        raise UserError(
            f"selection.per_class=true: dataset={dataset} has no class labels (its targets are of kind {target}); accepted: "
            "selection.per_class=false, or data with one class label for each example"
        )
    if config.communication.target is not None:
        raise UserError(
            f"{typed}: workers of communication={config.communication.name} draw from the whole training set; accepted: "
            "communication=dense, or selection=none"
        )
    if config.trainer.sharding == "fsdp2":
        raise UserError(
            f"{typed}: ranks that divide the weights evaluate batches together only; accepted: trainer.sharding=none or zero1"
        )
    optimizer = config.optimizer
    if optimizer.rule == "aras" or optimizer.options.get("variance_reduction"):
        way = "lets its batch grow by" if optimizer.rule == "aras" else "reduces its variance by"
        raise UserError(
            f"{typed}: optimizer={optimizer.name} {way} the gradients of all examples alike; accepted: selection=none, or an "
            "optimizer that takes the gradients of its batches"
        )
    if config.precision == "fp16" and selection.rule == "adacore":
        raise UserError(f"precision=fp16: {typed} needs second derivatives; accepted: fp64, fp32, tf32, bf16")


def _check_momentum(config: RunConfig) -> None:
    cycles = config.schedule.options.get("cycle_momentum")
    if config.momentum_schedule.rule == "none":
        return
    if cycles:
        raise UserError(
            f"momentum_schedule: schedule={config.schedule.name} cycles the momentum itself; set schedule.cycle_momentum=false"
        )
    if not {"momentum", "beta1"} & set(config.optimizer.options):
        raise UserError(
            f"momentum_schedule={config.momentum_schedule.name}: optimizer={config.optimizer.name} has no momentum; "
            "accepted: none, or an optimizer with an option momentum or beta1"
        )
