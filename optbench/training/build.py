"""Build the objects of a run from its configuration: data, model, task, recorder, trainer."""

import inspect
import logging
import math
import os
import warnings
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import nn

from optbench import communication, optimizers, randomness, schedules, selection
from optbench import config as configuration
from optbench.config.durations import Horizon
from optbench.config.run_config import Choice, RunConfig
from optbench.config.targets import load_target
from optbench.data.checks import check as check_data
from optbench.data.order import SampleOrder
from optbench.data.raw import RawData
from optbench.data.source import Augmentation, BatchSource
from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models import checkpointing, layers, model_size
from optbench.models.converting import converted
from optbench.objective import Execution, LossScale, losses
from optbench.probes import SCHEDULE_OPTIONS, Probe, Probes, ProbeSchedule, ScheduledProbe
from optbench.schedules import momentum
from optbench.store import RunDirectory
from optbench.system.signals import Stop
from optbench.training import sharding
from optbench.training.averaging import build as build_average
from optbench.training.evaluation import Evaluator
from optbench.training.measured import Measured
from optbench.training.meeting import Meeting
from optbench.training.ranks import Cluster, Ranks
from optbench.training.recorder import Audience, Recorder
from optbench.training.task import Recipe, Task

# A model that is at most this factor larger than with its default options is not measured before it is built.
_CERTAINLY_FITS = 64.0
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def load_data(config: RunConfig) -> RawData:
    """Load the dataset and check it.

    Raises UserError if its files are missing, are not those with which the run was planned or hold unusable data, and if
    the batch is larger than the training set.
    """
    dataset = Choice.of("dataset", configuration.data_files.verify(config.text))
    given = dataset.without("augment", *dataset.info.get("augmentation", []))
    raw: RawData = load_target(dataset)(config.data_dir, **given)
    check_data(raw, dataset.name)
    examples = len(raw.train.inputs)
    batch = configuration.batch_plan(config, examples).largest
    if batch > examples:
        raise UserError(
            f"batch={batch}: larger than the training set, which has {examples} examples; accepted: 1 to {examples}"
        )
    return raw


def build_model(config: RunConfig, raw: RawData) -> nn.Module:
    """The model with its initial weights, on the CPU; equal on every machine and rank."""
    return _initial_model(config, raw.spec)


def check_size(config: RunConfig, spec: DataSpec, make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """Raise UserError for a model that cannot fit into the memory of the device that trains it, before it is built."""
    choice = config.model
    # The measurement takes a part of the time of building, and optbench's models fit with their default options.
    if str(choice.target).startswith("optbench.") and _growth(choice) <= _CERTAINLY_FITS:
        return
    gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    architecture = load_target(choice, nn.Module)
    divided = sharding.kind(config.trainer.sharding, config.trainer.ranks)
    model_size.check(
        lambda: architecture(spec, **choice.options),
        model_size.described(choice),
        torch.device("cuda" if gpu else "cpu"),
        # The model is built whole, and then divided.
        max(divided.tensors_held(model_size.state_copies(make_optimizer), config.trainer.ranks), 1.0) - 2,
    )


def _growth(model: Choice) -> float:
    """The largest factor by which the options of ``model`` enlarge it relative to the defaults; infinite if unknown."""
    if model.name not in configuration.choices("model"):
        return math.inf
    defaults, factor = configuration.options(configuration.read_choice("model", model.name)), 1.0
    for name, value in model.options.items():
        now, then = (sum(of) if isinstance(of, list) else of for of in (value, defaults.get(name)))
        if isinstance(now, int) and not isinstance(now, bool) and now != then:
            # Squared, because a width enters both dimensions of a matrix.
            factor *= max(now / then, 1.0) ** 2 if isinstance(then, int) and then > 0 else math.inf
    return factor


def _initial_model(config: RunConfig, spec: DataSpec) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.key(config.seed, "weights"))
        architecture = load_target(config.model, nn.Module)
        model: nn.Module = converted(architecture(spec, **config.model.options))
        generator = randomness.generator(config.seed, "init")
        initialize: Callable[..., None] = load_target(config.init)
        # Only weights that are read from a run need the folder.
        given = {"results_dir": config.results_dir} if "results_dir" in inspect.signature(initialize).parameters else {}
        initialize(model, generator, **config.init.options, **given)
    return model


def build_task(config: RunConfig, raw: RawData, stop: Stop | None = None) -> Task:
    """The task that trains ``config`` on ``raw`` from step 0 until ``stop``; raises UserError if it cannot be built."""
    order = None
    if config.sorted_shards:
        order = SampleOrder.sorted_by_label(raw.train.targets, config.workers, config.seed)
    source = BatchSource(
        raw,
        config.seed,
        augmentation=Augmentation.of(config.dataset.options),
        normalize=config.dataset.options.get("normalize", True),
        reconstruct=bool(config.model.info.get("reconstructs")),
        dtype=torch.float64 if config.precision == "fp64" else torch.float32,
        order=order,
        channels_last=config.channels_last,
    )
    # The size of some datasets is known only from their files.
    configuration.check_lengths(config, len(raw.train.inputs))
    horizon = configuration.horizon(config, len(raw.train.inputs))
    rate, _ = configuration.learning_rate(config)
    averaging = config.averaging.in_steps(horizon)
    exchanged, chosen = config.communication.in_steps(horizon), config.optimizer.in_steps(horizon)
    transforms = [each.in_steps(horizon) for each in config.transforms]

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return optimizers.build(chosen, model, rate, config.seed, transforms)

    check_size(config, raw.spec, make_optimizer)
    recipe = Recipe(
        loss=losses.build(config.loss),
        make_optimizer=make_optimizer,
        horizon=horizon,
        schedule=schedules.build(config.schedule.in_steps(horizon, stretch=True), horizon.steps, config.batch),
        momentum_schedule=momentum.build(config.momentum_schedule.in_steps(horizon), horizon.steps),
        selection=_selection(config, raw, horizon),
        make_average=lambda model: build_average(averaging, model),
        make_communication=lambda shapes: communication.build(exchanged, shapes, config.seed),
        ghost_batch_size=config.ghost_batch_size,
        seed=config.seed,
        execution=Execution(
            micro_batch=None if config.micro_batch == "auto" else config.micro_batch,
            adjustable=config.micro_batch == "auto",
            dtype=_DTYPES.get(config.precision),
            loss_scale=LossScale() if config.precision == "fp16" else None,
            clip_norm=config.clip_norm,
            cached_graphs=config.cached_graphs,
        ),
        compile=config.compile,
        sharding=config.trainer.sharding,
    )
    model = build_model(config, raw).to(source.dtype)
    checkpointing.divide(model, config.checkpointing)
    if layers.batch_norms(model):  # even if its file does not state it
        configuration.check_groups(config, len(raw.train.inputs))
    return Task(model, source, recipe, stop)


def _selection(config: RunConfig, raw: RawData, horizon: Horizon) -> selection.Selection | None:
    """The selection of ``config``; raises UserError for a batch that is larger than its subsets."""
    chosen = selection.build(config.selection.in_steps(horizon), config.seed)
    if chosen is not None:
        size = sum(count for _, count in chosen.counts(raw.train.targets))
        if horizon.plan.largest > size:
            raise UserError(
                f"batch={horizon.plan.largest}: larger than the subsets of selection={config.selection.name}, which have {size} "
                f"examples with selection.fraction={chosen.fraction:g}; accepted: 1 to {size}, or a larger fraction"
            )
    return chosen


def build_recorder(
    config: RunConfig,
    task: Task,
    directory: RunDirectory | None,
    audience: Audience | None = None,
    measured: Measured | None = None,
    until: int | None = None,
) -> Recorder:
    """The recorder of ``task``, with every period in steps; it pauses the run at the first evaluation at or after ``until``."""
    horizon = task.recipe.horizon
    every = config.checkpoint_every
    return Recorder(
        directory,
        Evaluator(
            config.evaluate_train,
            task.execution.micro_batch or 1000,
            # A run that ends at its target may end with any evaluation.
            always_test=config.evaluate_test == "always" or config.budget.stop_at_target,
        ),
        log_every=config.log_every,
        evaluations=configuration.evaluations(config, horizon),
        checkpoint_every=None if every is None else max(horizon.in_steps(every), 1),
        divergence_factor=config.divergence_factor,
        budget=config.budget,
        probes=build_probes(config, task, directory),
        audience=audience,
        measured=measured,
        until=until,
    )


def build_probes(config: RunConfig, task: Task, directory: RunDirectory | None, scheduled: bool = True) -> Probes:
    """The probes of ``task``; raises UserError for a probe that cannot work in this run or, if ``scheduled``, is never due."""
    horizon, chosen = task.recipe.horizon, []
    for choice in config.probes:
        name = choice.group.removeprefix("probe.")
        choice = choice.in_steps(horizon)
        schedule = ProbeSchedule.of(choice.options, horizon.steps)
        if scheduled and schedule.is_empty:
            raise UserError(
                f"probe.{name}: is due at none of {horizon.steps} steps; accepted: one of {', '.join(SCHEDULE_OPTIONS)} "
                "that names one"
            )
        probe = load_target(choice, Probe)(**choice.without(*SCHEDULE_OPTIONS))
        chosen.append(ScheduledProbe(name, probe, schedule, configuration.options(config.text["probe"][name])))

    def initial() -> list[torch.Tensor]:
        model = _initial_model(config, task.source.spec).to(device=task.device, dtype=task.source.dtype)
        return [parameter.detach() for parameter in model.parameters()]

    probes = Probes(chosen, directory, initial)
    probes.check(task)
    return probes


def set_precision(precision: str, deterministic: bool) -> None:
    """Set torch's process-wide switches: the use of tf32, and of deterministic kernels only on GPUs."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = deterministic
    if torch.cuda.is_available():
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic, warn_only=True)


def build_trainer(config: RunConfig, callbacks: list[pl.Callback], met: Meeting | None = None) -> pl.Trainer:
    """Lightning's trainer for the configured devices, with its own features off; raises UserError if they do not exist.

    met: the meeting of the ranks of the run, if there is one.
    """
    devices, accelerator = config.trainer, config.trainer.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and torch.cuda.device_count() < devices.devices:
        raise UserError(
            f"trainer.devices={devices.devices} with trainer.accelerator={devices.accelerator}: this machine has "
            f"{torch.cuda.device_count()} GPUs; accepted: up to that many, or trainer.accelerator=cpu"
        )
    # Lightning's own messages are off, because the run has its own display.
    for name in ("pytorch_lightning", "lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices.devices,
        num_nodes=devices.num_nodes,
        strategy=Ranks(devices.rendezvous_seconds, met) if devices.ranks > 1 else "auto",
        # Otherwise Lightning would treat a single rank within a Slurm job as one of the job's tasks.
        plugins=[Cluster(devices)],
        callbacks=callbacks,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
