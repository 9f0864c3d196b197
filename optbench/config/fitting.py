"""Whether choices that are right by themselves go together."""

from optbench.config.derived import batch_plan, ranks, training_examples
from optbench.config.files import Config, choices, options, read_choice
from optbench.config.lengths import check_lengths
from optbench.errors import UserError
from optbench.horizon import BatchPlan


def check_fit(config: Config) -> None:
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
    if examples is not None:
        check_lengths(config, examples)
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
