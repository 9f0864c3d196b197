"""Building: what a configuration says, as objects: data, model, task, recorder, trainer."""

import importlib
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import environments
from torch import nn

from optbench import config as configuration
from optbench import losses, momentum_schedules, optimizers, randomness, schedules
from optbench.averaging import build as build_average
from optbench.config import Config
from optbench.data.raw import RawData
from optbench.data.source import Augmentation, BatchSource
from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.evaluation import Evaluator
from optbench.objective import Execution, LossScale
from optbench.probes import SCHEDULE_OPTIONS, Probes, ProbeSchedule, ScheduledProbe
from optbench.recording import Recorder
from optbench.store import RunDirectory
from optbench.task import Recipe, Task
from optbench.terminal import RunDisplay

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def call_target(choice: Mapping[str, Any], *arguments: Any, **more: Any) -> Any:
    """Call what ``choice`` names as its _target_ with its options as keywords."""
    module, _, name = choice["_target_"].rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{choice['name']}._target_={choice['_target_']}: cannot be imported ({error})") from error
    return target(*arguments, **more)


def load_data(config: Config) -> RawData:
    """Load the dataset; raises UserError where its files are missing or the batch is larger than its training set."""
    dataset = config["dataset"]
    kept = set(dataset["info"].get("augmentation", [])) | {"augment"}
    given = {name: value for name, value in configuration.options(dataset).items() if name not in kept}
    raw: RawData = call_target(dataset, config["data_dir"], **given)
    examples = len(raw.train.inputs)
    batch = configuration.batch_plan(config, examples).largest
    if batch > examples:
        raise UserError(
            f"batch={batch}: larger than the training set, which has {examples} examples; accepted: 1 to {examples}"
        )
    return raw


def build_model(config: Config, raw: RawData) -> nn.Module:
    """The model with its initial weights, on the CPU: the same on every machine and rank."""
    return _initial_model(config, raw.spec)


def _initial_model(config: Config, spec: DataSpec) -> nn.Module:
    seed = config["seed"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.key(seed, "weights"))
        model: nn.Module = call_target(config["model"], spec, **configuration.options(config["model"]))
        generator = randomness.generator(seed, "init")
        call_target(config["init"], model, generator, **configuration.options(config["init"]))
    return model


def build_task(config: Config, raw: RawData) -> Task:
    """The task that trains ``config`` on ``raw`` from step 0; raises UserError for options that make no such thing."""
    dataset = config["dataset"]
    source = BatchSource(
        raw,
        config["seed"],
        augmentation=Augmentation.of(dataset),
        normalize=dataset.get("normalize", True),
        reconstruct=bool(config["model"]["info"].get("reconstructs")),
        dtype=torch.float64 if config["precision"] == "fp64" else torch.float32,
    )
    # Of some datasets only the files say how large they are.
    configuration.check_lengths(config, len(raw.train.inputs))
    horizon = configuration.horizon(config, len(raw.train.inputs))
    rate, _ = configuration.learning_rate(config)
    choices = {}
    for group in ("schedule", "momentum_schedule", "averaging"):
        choice = config[group]
        choices[group] = horizon.resolve(choice, choice["info"]["schema"], stretch=group == "schedule")
    dtype = _DTYPES.get(config["precision"])
    recipe = Recipe(
        loss=losses.build(config["loss"]),
        make_optimizer=lambda model: optimizers.build(config["optimizer"], model, rate, config["seed"]),
        horizon=horizon,
        schedule=schedules.build(choices["schedule"], horizon.steps, config["batch"]),
        momentum_schedule=momentum_schedules.build(choices["momentum_schedule"], horizon.steps),
        make_average=lambda model: build_average(choices["averaging"], model),
        norm_batch=config["norm_batch"],
        seed=config["seed"],
        execution=Execution(
            micro_batch=config["micro_batch"],
            dtype=dtype,
            loss_scale=LossScale() if config["precision"] == "fp16" else None,
            clip_norm=config["clip_norm"],
            graphs=config["graphs"],
        ),
        compile=config["compile"],
    )
    return Task(build_model(config, raw).to(source.dtype), source, recipe)


def build_recorder(
    config: Config, task: Task, directory: RunDirectory | None, display: RunDisplay | None = None
) -> Recorder:
    """The recorder of ``task``, with every period in steps."""
    horizon = task.recipe.horizon
    every = config["checkpoint_every"]
    return Recorder(
        directory,
        Evaluator(config["evaluate_train"], config["micro_batch"] or 1000),
        log_every=config["log_every"],
        eval_every=max(horizon.in_steps(config["eval_every"]), 1),
        checkpoint_every=None if every is None else max(horizon.in_steps(every), 1),
        divergence_factor=config["divergence_factor"],
        budget=config["budget"],
        **({"listener": display.row} if display is not None else {}),
        probes=build_probes(config, task, directory),
    )


def build_probes(config: Config, task: Task, directory: RunDirectory | None, scheduled: bool = True) -> Probes:
    """The probes of ``task``; raises UserError for one that cannot work in this run, or if ``scheduled`` is never due."""
    horizon, chosen = task.recipe.horizon, []
    for name, choice in config.get("probe", {}).items():
        options = configuration.options(choice)
        schedule = ProbeSchedule.of(horizon.resolve(options, choice["info"]["schema"]), horizon.steps)
        if scheduled and schedule.is_empty:
            raise UserError(
                f"probe.{name}: is due at none of {horizon.steps} steps; accepted: one of {', '.join(SCHEDULE_OPTIONS)} "
                "that names one"
            )
        own = {option: value for option, value in options.items() if option not in SCHEDULE_OPTIONS}
        chosen.append(ScheduledProbe(name, call_target(choice, **own), schedule, options))

    def initial() -> list[torch.Tensor]:
        model = _initial_model(config, task.source.spec).to(device=task.device, dtype=task.source.dtype)
        return [parameter.detach() for parameter in model.parameters()]

    probes = Probes(chosen, directory, initial)
    probes.check(task)
    return probes


def set_precision(precision: str, deterministic: bool) -> None:
    """Set torch's process-wide switches: tf32 or not, and on GPUs only kernels that repeat bit for bit."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = deterministic
    if torch.cuda.is_available():
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic, warn_only=True)


def build_trainer(config: Config, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Lightning's trainer for the configured devices, with nothing of its own on; raises UserError if they are not there."""
    options = config["trainer"]
    accelerator, devices, nodes = options["accelerator"], options["devices"], options["num_nodes"]
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and torch.cuda.device_count() < devices:
        raise UserError(
            f"trainer.devices={devices} with trainer.accelerator={options['accelerator']}: this machine has "
            f"{torch.cuda.device_count()} GPUs; accepted: up to that many, or trainer.accelerator=cpu"
        )
    world_size = configuration.ranks(config)
    # The run has a display of its own.
    for name in ("pytorch_lightning", "lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_ddp(options["compression"]) if world_size > 1 else "auto",
        # One rank alone must not be taken for one of the tasks of the Slurm job that it may run in.
        plugins=[_cluster(world_size) if world_size > 1 else environments.LightningEnvironment()],
        callbacks=callbacks,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


def _ddp(compression: str) -> pl.strategies.DDPStrategy:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    # Hooks without a state of their own: what PowerSGD carries from step to step on every rank would not survive a resume.
    hooks = {"none": None, "fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}
    # Running statistics move once per step by the mean over ranks, so there are no buffers to broadcast.
    return pl.strategies.DDPStrategy(
        broadcast_buffers=False, gradient_as_bucket_view=True, ddp_comm_hook=hooks[compression]
    )


def _cluster(ranks: int) -> environments.ClusterEnvironment:
    if environments.TorchElasticEnvironment.detect():
        return environments.TorchElasticEnvironment()
    tasks = int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in os.environ else 1
    if tasks == 1:
        return environments.LightningEnvironment()
    if tasks != ranks or "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError(
            f"trainer.devices x trainer.num_nodes={ranks}: Slurm has started {tasks} tasks; start one for each device, with "
            "--ntasks-per-node=(trainer.devices) and --nodes=(trainer.num_nodes)"
        )
    # Only one party may requeue a preempted job, and that is not the trainer.
    return environments.SLURMEnvironment(auto_requeue=False)


def rank_from_environment() -> int:
    """This process's rank before any process group exists: as torchrun, srun or Lightning's launcher set it."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "LOCAL_RANK" in os.environ:
        return int(os.environ.get("NODE_RANK", "0")) or int(os.environ["LOCAL_RANK"])
    if os.environ.get("SLURM_NTASKS", "1") != "1":
        return int(os.environ.get("SLURM_PROCID", "0"))
    return 0
