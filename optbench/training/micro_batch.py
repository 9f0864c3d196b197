"""The micro-batch of ``micro_batch=auto``: the largest that the memory of the device holds, chosen before training.

The bytes of an example are measured: those that autograd keeps of a forward pass of two examples, times PEAK for what a
backward pass needs besides, times the copies that the method's file states (``activations`` in its ``info``). In segments
(``model.checkpointing``) these are the inputs of each and all activations of one, which the backward pass computes anew. What
does not grow with the micro-batch is counted apart: what the process holds, gradients, the optimizer's state and the factors of
K-FAC. The size is a power of two of groups of batch norm, so that the same machine chooses the same one again.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optbench.config.durations import BatchPlan
from optbench.config.run_config import RunConfig
from optbench.errors import UserError
from optbench.models import checkpointing, layers, model_size
from optbench.objective import Network
from optbench.system import memory
from optbench.training import sharding
from optbench.training.build import build_task, load_data
from optbench.training.task import Task

# Measured on ResNet-18, WRN-28-10 and LeNet-5 on CPUs: 1.2 to 1.7 times what autograd keeps.
PEAK = 2.0
# The share of a machine's memory that runs take; the rest is for files, other programs, and what was not foreseen.
SHARE = 0.7
# The memory of a process with torch and Lightning on the CPU, and of a CUDA context on a GPU: the same in every run, unlike that
# which a process happens to hold when the choice is made.
_PROGRAM, _CONTEXT = 700 * 10**6, 500 * 10**6
# Vectors of the length of all parameters that methods keep whose state a toy does not show.
_VECTORS = 10
_MEASURED = 2  # examples: the fewest that batch norm can normalize
# The bytes of an example and those beside, by `_kind`: a worker measures once what its runs have in common.
_KNOWN: dict[str, tuple[float, int]] = {}


@dataclass(frozen=True)
class MicroBatch:
    """The number of examples that pass through the model at once, and the bytes behind the choice.

    share: the examples of a batch that a rank, or a worker, has. examples: None for all of them. each: bytes of an example, of
    which autograd keeps ``saved`` between a forward and a backward pass. fixed: bytes that do not depend on their number.
    there: bytes that this run may use.
    """

    share: int
    examples: int | None
    each: int
    fixed: int
    there: int
    saved: float

    def describe(self) -> str:
        """One line: the choice, and why."""
        size = self.share if self.examples is None else self.examples
        needed = memory.short(self.fixed + size * self.each)
        return (
            f"micro_batch={size}: of {self.share} examples a device, each {memory.short(self.each)}, beside "
            f"{memory.short(self.fixed)}: about {needed} of {memory.short(self.there)}"
        )


def choose(config: RunConfig, task: Task, workers: int = 1) -> MicroBatch | None:
    """Choose the micro-batch of a run that shares its device with ``workers - 1`` others.

    None where the memory there is is unknown, and for a model that cannot be evaluated, which training will say.

    Raises UserError where not even one group of batch norm fits.
    """
    whole = _measure(config, task, workers)
    if whole is None:
        return None
    fits = (whole.there - whole.fixed) // max(whole.each, 1)
    if fits >= whole.share:
        return whole
    unit = _unit(config, task, whole.share)
    if fits < unit:
        raise UserError(_refusal(config, unit, whole, workers))
    return replace(whole, examples=unit * 2 ** ((fits // unit).bit_length() - 1))


def of_dry_run(config: RunConfig) -> MicroBatch | None:
    """Choose as for a run that would begin now; a ``micro_batch`` that is given is kept, and described."""
    task = build_task(config, load_data(config))
    if config.micro_batch == "auto":
        return choose(config, task)
    whole = _measure(config, task, 1)
    return None if whole is None else replace(whole, examples=config.micro_batch)


def _measure(config: RunConfig, task: Task, workers: int) -> MicroBatch | None:
    there = _available(config, workers)
    if there is None:
        return None
    share = task.recipe.horizon.plan.largest // max(config.trainer.ranks, config.workers)
    copies = int(config.optimizer.stated("activations", 1)) * max(config.cached_graphs or 1, 1)
    kind = _kind(config, task)
    try:
        if kind not in _KNOWN:
            with torch.random.fork_rng(devices=[]):
                _KNOWN[kind] = saved_bytes(config, task), _fixed_bytes(config, task)
        saved, fixed = _KNOWN[kind]
    except UserError:
        raise
    except Exception:  # a model of the user's own may raise anything
        return None
    return MicroBatch(share, None, int(saved * PEAK * copies), fixed, there, saved)


def _kind(config: RunConfig, task: Task) -> str:
    """All that the measured bytes depend on; the cells of a sweep often differ in rates and seeds alone."""
    text = config.text
    optimizer = {name: value for name, value in text["optimizer"].items() if name != "learning_rate"}
    groups = [text[group] for group in ("model", "loss", "communication", "averaging", "trainer", "schedule", "init")]
    spec = task.source.spec
    data = spec.kind, spec.shape, spec.outputs, spec.vocabulary, task.source.nbytes
    return repr((groups, optimizer, text.get("transform"), config.precision, bool(config.probes), data))


def _unit(config: RunConfig, task: Task, share: int) -> int:
    """The examples of which a micro-batch must hold a multiple: a group of batch norm."""
    if not layers.batch_norms(task.model):
        return 1
    plan: BatchPlan = task.recipe.horizon.plan
    return min(config.ghost_batch_size or plan.largest, share)


def _trains_only(config: RunConfig, task: Task) -> bool:
    """True if all passes are those of training: products with curvature keep all activations, also in a model in segments."""
    optimizer = config.optimizer
    keeps = optimizer.info.get("family") == "second_order" or optimizer.stated("activations", 1) > 1
    return not (keeps or config.probes or task.recipe.schedule.needs_spectrum(0) is not None)


def saved_bytes(config: RunConfig, task: Task) -> float:
    """The bytes that autograd keeps for one example between a forward and a backward pass, in the precision of training.

    In segments these are the bytes while the largest of them is computed anew.
    """
    task.source.to("cpu")
    # Copies, as a slice would count with the storage of all examples.
    inputs, targets = (part.clone() for part in next(iter(task.source.evaluation("train", _MEASURED, _MEASURED))))
    network = Network(task.model)
    segments = max((len(chain.lengths) for chain in network.chains), default=0) if _trains_only(config, task) else 0
    groups = [(norm, norm.group, norm.ranks) for norm in network.norms]
    training = task.model.training

    def forward() -> Tensor:
        with torch.autocast("cpu", dtype=task.execution.dtype, enabled=task.execution.dtype is not None):
            return task.recipe.loss(task.model(inputs), targets)

    network.record_norms("hold")
    layers.set_ghost_batch_size(task.model, len(inputs))
    task.model.train()
    try:
        return max(
            checkpointing.kept_bytes(task.model, forward, None if segments == 0 else frozenset({number}))
            for number in range(max(segments, 1))
        ) / len(inputs)
    finally:
        task.model.train(training)
        network.record_norms("follow")
        for norm, group, ranks in groups:
            norm.group, norm.ranks = group, ranks


def _fixed_bytes(config: RunConfig, task: Task) -> int:
    """The bytes beside those of passes: the program, data, weights, gradients, the optimizer's state, factors."""
    optimizer = task.recipe.make_optimizer(task.model)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in task.model.parameters())
    ranks = config.trainer.ranks
    divided = sharding.kind(config.trainer.sharding, ranks)
    state = float(model_size.state_copies(task.recipe.make_optimizer))
    if config.optimizer.info.get("family") == "second_order":
        state = max(state, _VECTORS)
    copies = divided.tensors_held(state, ranks)
    if task.recipe.make_average(task.model) is not None:
        copies += divided.tensors_held(0, ranks) / 2  # as the weights
    if config.communication.target is not None:
        # Of each worker: its gradient and its error, or its weights and its optimizer's state.
        copies += config.workers // config.trainer.ranks * (2 + model_size.state_copies(task.recipe.make_optimizer))
    factors = optimizer.working_bytes() if hasattr(optimizer, "working_bytes") else 0
    program = _CONTEXT if _on_gpu(config) else _PROGRAM
    return int(program + task.source.nbytes + weights * copies + divided.bytes_gathered(task.model) + factors)


def _available(config: RunConfig, workers: int) -> int | None:
    local = config.trainer.devices
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        return None  # which the trainer refuses
    if _on_gpu(config):
        return int(SHARE * torch.cuda.get_device_properties(0).total_memory / max(workers, 1))
    total = memory.of_this_machine()
    return None if total is None else int(SHARE * total / (max(workers, 1) * max(local, 1)))


def _on_gpu(config: RunConfig) -> bool:
    return config.trainer.accelerator != "cpu" and torch.cuda.is_available()


def _refusal(config: RunConfig, unit: int, whole: MicroBatch, workers: int) -> str:
    needed = memory.short(whole.fixed + unit * whole.each)
    ways = ", ".join([*_ways(config, unit, workers), "micro_batch=N to try it all the same"])
    return (
        f"micro_batch=auto: {unit} of {whole.share} examples, the fewest that can pass at once, need about {needed}, and "
        f"this run may use {memory.short(whole.there)}; accepted: {ways}"
    )


def shortage(config: RunConfig, task: Task, error: BaseException, choice: MicroBatch | None, workers: int = 1) -> str:
    """The message of a run in which memory ran out by ``error``: what was tried and expected, and the options that help.

    choice: of ``micro_batch=auto``, None for a size that was given. workers: as for `choose`.
    """
    share = task.recipe.horizon.plan.largest // max(config.trainer.ranks, config.workers)
    size, unit = min(task.execution.micro_batch or share, share), _unit(config, task, share)
    ways = [f"micro_batch={max(size // 2 // unit, 1) * unit}"] if size > unit else []
    expected = f"; expected was {choice.describe()}" if choice is not None else ""
    return (
        f"memory ran out at {size} examples at once ({str(error).splitlines()[0]}{expected}); accepted: "
        f"{', '.join([*ways, *_ways(config, unit, workers)])}"
    )


def _ways(config: RunConfig, unit: int, workers: int) -> list[str]:
    """The options with which a run needs less memory."""
    ways = []
    if unit > 1:
        ways.append("a smaller ghost_batch_size")
    if config.cached_graphs != 1:
        ways.append("cached_graphs=1")
    if config.checkpointing == 0 and config.optimizer.info.get("family") != "second_order":
        ways.append("model.checkpointing=4")
    if config.precision in ("fp32", "tf32", "fp64"):
        ways.append("precision=bf16")
    if workers > 1:
        ways.append("fewer launcher.workers")
    return [*ways, "a smaller model"]
