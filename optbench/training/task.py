"""The Lightning module: model, loss, optimizer and schedule, trained with one global batch for each step.

Optimization is manual, on the raw optimizer: `training_step` builds the objective of a batch and calls
``optimizer.step(objective)``. Lightning's own cost for a call is several times that of a small model's step, so one
`training_step` takes all steps until the next due event, but no longer than a fraction of a second.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from optbench import randomness
from optbench.communication import Communication, Compressor, LocalSGD, Shapes, dense_bytes
from optbench.config.durations import Horizon
from optbench.data.source import BatchSource
from optbench.models import layers
from optbench.models.converting import check_passes
from optbench.objective import Exchange, Execution, Network, Objective, dropout_key
from optbench.objective.losses import Loss
from optbench.objective.oracle import OracleCalls
from optbench.schedules import Schedule, hessian
from optbench.schedules.momentum import MomentumSchedule
from optbench.selection import Population, Selection
from optbench.system.signals import Stop
from optbench.training import sharding
from optbench.training.averaging import Average
from optbench.training.reducer import Reducer

# A single rank returns to Lightning after this time; several ranks, which must agree, after this number of steps.
SECONDS_AT_A_TIME = 0.2
STEPS_AT_A_TIME = 16
_NOBODY = contextlib.nullcontext()


@dataclass
class Clock:
    """Seconds of training: it runs only while `running`, so that evaluations and checkpoints are not counted."""

    elapsed: float = 0.0
    since: float | None = None

    def start(self) -> None:
        """Start or resume counting."""
        self.since = time.perf_counter()

    def stop(self) -> float:
        """Stop counting; returns the seconds so far."""
        if self.since is not None:
            self.elapsed += time.perf_counter() - self.since
            self.since = None
        return self.elapsed

    def read(self) -> float:
        """The seconds so far, without stopping."""
        return self.elapsed + (0.0 if self.since is None else time.perf_counter() - self.since)


@dataclass
class Recipe:
    """The objects that a run's configuration describes, with which a model is trained."""

    loss: Loss
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    horizon: Horizon
    schedule: Schedule
    momentum_schedule: MomentumSchedule | None = None
    selection: Selection | None = None
    make_average: Callable[[nn.Module], Average | None] = lambda model: None
    make_communication: Callable[[Shapes], Communication | None] = lambda shapes: None
    ghost_batch_size: int | None = 128
    seed: int = 0
    execution: Execution = field(default_factory=Execution)
    compile: bool = False
    sharding: str = "none"


class Task(pl.LightningModule):
    """Trains ``model`` on the batches of ``source`` by ``recipe`` until ``stop``; `step` counts the parameter updates so far."""

    def __init__(self, model: nn.Module, source: BatchSource, recipe: Recipe, stop: Stop | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.source, self.recipe, self.execution = source, recipe, recipe.execution
        self.step = 0
        self.calls = OracleCalls()
        self.finished = False
        self.stop = stop or Stop()
        self.clock = Clock()
        self.sharding = sharding.Sharding()
        self.losses: list[Tensor] = []  # losses of the steps since the last row of the history, on the device
        self.gradient_norms: list[Tensor] = []
        self.next_event: Callable[[int], int] = lambda step: recipe.horizon.steps
        # The context in which the optimizer takes a step: probes may observe it, but change nothing.
        self.watch: Callable[[Objective, Task], AbstractContextManager[Any]] = lambda objective, task: _NOBODY
        self._rate: tuple[float, float | None] | None = None  # the factor, and the learning rate that it multiplies
        self._momentum: float | None = None
        self._batch: int | None = None
        self._ranks_stop = False

    # ---- set-up: Lightning calls these once the model is on its device -------------------------------------------------

    def divide(self, device: torch.device) -> None:
        """Divide what the recipe says over the ranks of the process group, of which this one has ``device``.

        A task for which nobody calls this keeps everything, as one rank by itself does.
        """
        self.sharding = sharding.build(self.recipe.sharding)
        self.sharding.divide(self.model, device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Move the data to the model's device, and build the optimizer on the parameters there."""
        self.source.to(self.device)
        self.network = Network(self.model, self.device)
        if self.recipe.compile:
            self.network.forward = torch.compile(self.model)
        self.optimizer = self.sharding.over(self.recipe.make_optimizer(self.model))
        self.average = self.recipe.make_average(self.model)
        self.communication = self.recipe.make_communication(self._shapes())
        if self.communication is not None:
            self.communication.place(self.execution)
        return self.optimizer

    def _shapes(self) -> Shapes:
        return {name: each.shape for name, each in self.model.named_parameters() if each.requires_grad}

    def communication_bytes(self) -> float:
        """The bytes that a worker sends in a step on the average, by formula: four for a number, whatever the precision."""
        shapes = self._shapes()
        communication = self.recipe.make_communication(shapes)
        return dense_bytes(shapes) if communication is None else communication.bytes_per_step(self.recipe.horizon.steps)

    def on_fit_start(self) -> None:
        """Set device and ranks, and average gradients over the ranks with DistributedDataParallel's own reducer."""
        execution = self.execution
        execution.device, execution.world_size, execution.rank = self.device, self.trainer.world_size, self.global_rank
        replica = self.trainer.strategy.model
        execution.backward = self.sharding.backward() or execution.backward
        if isinstance(replica, nn.parallel.DistributedDataParallel):
            reducer = Reducer(replica)
            execution.backward, execution.average = reducer.backward, reducer.average
        self.model.train()

    def on_train_end(self) -> None:
        """Count what ranks divide, while they are connected."""
        self.sharding.count(self.optimizer)

    def leave_ranks(self) -> None:
        """Drop all references to the process group, which will be destroyed."""
        self.execution.backward, self.execution.average = Execution().backward, None
        for norm in self.network.norms if hasattr(self, "network") else ():
            norm.ranks = None
        self.sharding.leave()

    # ---- training -----------------------------------------------------------------------------------------------------

    def training_step(self, token: int, index: int) -> None:
        """Take steps until the next due event."""
        if self.finished:
            return  # Lightning fetches one token in advance
        until = min(self.next_event(self.step), self.recipe.horizon.steps)
        if self.execution.world_size > 1:
            if self._any_rank_must_stop():
                return
            for _ in range(min(until - self.step, STEPS_AT_A_TIME)):
                self.take_step()
            return
        deadline = time.perf_counter() + SECONDS_AT_A_TIME
        while self.step < until and self.stop.signal is None:
            self.take_step()
            if time.perf_counter() > deadline:
                break

    @property
    def must_stop(self) -> bool:
        """True if the run must stop at the present step.

        Several ranks agree on it before they take steps: a signal that comes later counts from the next time, so that no rank
        stops alone.
        """
        return self._ranks_stop if self.execution.world_size > 1 else self.stop.signal is not None

    def _any_rank_must_stop(self) -> bool:
        signal = torch.tensor(float(self.stop.signal or 0), device=self.device)
        dist.all_reduce(signal, op=dist.ReduceOp.MAX)
        self.stop.signal = int(signal) or None
        self._ranks_stop = self.stop.signal is not None
        return self._ranks_stop

    def take_step(self) -> None:
        """Update the parameters once, from one global batch."""
        step, communication = self.step, self.communication
        batch = self.recipe.horizon.plan.batch(step)
        if batch != self._batch:
            self._place_norms(batch)
        if isinstance(communication, LocalSGD) and communication.is_local(step) and not communication.has_begun:
            self._begin_local_steps(communication)
        self._select(step)
        self._follow_schedules(step)
        if isinstance(communication, LocalSGD) and communication.is_local(step):
            loss, norm = self._step_of_workers(communication)
        else:
            loss, norm = self._step_of_all()
        if self.average is not None:
            self.average.update(self.model, step)
        self.losses.append(loss)
        if norm is not None:
            self.gradient_norms.append(norm)
        self.step = step + 1

    def _step_of_all(self) -> tuple[Tensor, Tensor | None]:
        """One step of the whole batch: the loss, and the norm of the gradient if it is clipped."""
        execution, exchange = self.execution, None
        if isinstance(self.communication, Compressor):
            exchange = self._exchange(self.communication)
        objective = self._objective(
            self.network, self.step, execution.rank, execution.world_size, exchange, trains=True
        )
        # Probes may observe the passes of a whole batch only.
        with self.watch(objective, self) if self.communication is None else _NOBODY:
            self.optimizer.step(objective)  # type: ignore[arg-type]  # a closure may return a tensor, as torch's own do
        objective.finish()
        self.calls.add(objective)
        assert objective.value is not None, "the optimizer did not evaluate its closure"
        return objective.value, objective.gradient_norm

    def _exchange(self, compressor: Compressor) -> Exchange:
        step = self.step
        return Exchange(len(compressor.held), lambda gradients: compressor.exchange(gradients, step))

    def _begin_local_steps(self, local: LocalSGD) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        local.begin(parameters, self.optimizer, lambda: self.recipe.make_optimizer(self.model))
        self._rate = self._momentum = None  # schedules set them in all optimizers

    def _step_of_workers(self, local: LocalSGD) -> tuple[Tensor, Tensor | None]:
        """One step of every worker with its own weights: the mean loss, and the mean norm of gradients if they are clipped."""
        objectives: list[Objective] = []

        def objective(worker: int) -> Objective:
            # Alone, as if there were no ranks; the number of a worker gives the places of its examples in the batch.
            alone = replace(
                objectives[-1].execution if objectives else self.execution,
                # Not on several ranks, whose sizes would differ, so that they could not halve them together later.
                adjustable=self.execution.adjustable and self.execution.world_size == 1,
                world_size=1,
                rank=worker,
                backward=lambda loss, last: self.execution.backward(loss, False),
            )
            objectives.append(self._objective(self.network, self.step, worker, local.workers, None, alone, trains=True))
            return objectives[-1]

        local.step(self.step, objective)
        self.execution.micro_batch = objectives[-1].execution.micro_batch
        self.calls.add(objectives[0])
        if self.network.norms:
            layers.commit_batch_norms(self.network.norms, self.execution.means_over_ranks)
            self.network.record_norms("follow")
        losses = [each.value for each in objectives if each.value is not None]
        norms = [each.gradient_norm for each in objectives if each.gradient_norm is not None]
        assert len(losses) == len(objectives), "the optimizer did not evaluate its closure"
        loss = self.execution.mean_over_ranks(torch.stack(losses).mean())
        return loss, self.execution.mean_over_ranks(torch.stack(norms).mean()) if norms else None

    def _objective(
        self,
        network: Network,
        step: int,
        rank: int,
        ranks: int,
        exchange: Exchange | None = None,
        execution: Execution | None = None,
        trains: bool = False,
    ) -> Objective:
        """The objective of the share of rank ``rank`` of ``ranks`` in the batch of ``step``."""
        plan = self.recipe.horizon.plan
        inputs, targets = self.source.batch(step, plan.first_sample(step), plan.batch(step), rank, ranks)
        weights = self.source.weights(plan.first_sample(step), plan.batch(step), rank, ranks)
        key = dropout_key(self.recipe.seed, step) if network.draw is not None else 0
        execution = execution or self.execution
        return Objective(network, self.recipe.loss, inputs, targets, execution, key, exchange, trains, weights)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizer, or those of the workers on this rank."""
        local = self.communication
        return list(local.optimizers.values()) if isinstance(local, LocalSGD) and local.has_begun else [self.optimizer]

    def check(self, ranks: int) -> None:
        """Raise UserError if the optimizer cannot train this model with this loss; called before Lightning moves anything.

        An optimizer that needs more than a gradient has a method ``check(objective)``, which gets the share of one of
        ``ranks`` in the first batch. A schedule that learns from the Hessian sets a momentum.
        """
        self._check_passes()
        if self.recipe.selection is not None:
            self.recipe.selection.check(self.model)
        optimizer = self.recipe.make_optimizer(self.model)  # only the optimizer can refuse some options
        if self.recipe.schedule.needs_spectrum(0) is not None:
            follows = self.recipe.momentum_schedule is not None
            hessian.check(optimizer, follows, self.execution.loss_scale is not None)
        if hasattr(optimizer, "check"):
            self.source.to("cpu")
            optimizer.check(self._objective(Network(self.model), 0, 0, ranks))

    def _check_passes(self) -> None:
        self.source.to("cpu")
        network = Network(self.model)
        inputs, _ = next(iter(self.source.evaluation("train", 2, 2)))
        network.record_norms("hold")
        check_passes(self.model, inputs)
        network.record_norms("follow")

    def _select(self, step: int) -> None:
        """Choose the subset of the training set for the next steps, if it is due; the clock of training stands still."""
        selection, recipe = self.recipe.selection, self.recipe
        if selection is None or not selection.due(step):
            return
        runs = self.clock.since is not None
        self._wait()
        self.clock.stop()
        began = time.perf_counter()
        population = Population(
            self.network, recipe.loss, self.source, self.execution, recipe.ghost_batch_size, recipe.seed
        )
        self.source.restrict(*selection.select(population, recipe.horizon.plan.first_sample(step)))
        self._wait()
        selection.seconds += time.perf_counter() - began
        if runs:
            self.clock.start()

    def _wait(self) -> None:
        """Wait for what is queued on a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _follow_schedules(self, step: int) -> None:
        schedule = self.recipe.schedule
        request = schedule.needs_spectrum(step)
        if request is not None:
            draws = randomness.generator(self.recipe.seed, "spectrum of the schedule", step)
            spectrum = hessian.measure(
                request,
                self.network,
                self.recipe.loss,
                self.source,
                self.execution,
                self.recipe.ghost_batch_size,
                draws,
            )
            if spectrum is not None:
                schedule.observe_spectrum(*spectrum)
        rate = schedule(step), schedule.base_learning_rate(step)
        if rate != self._rate:
            self._rate = rate
            factor, base = rate
            for group in self._groups():
                group["lr"] = (group["initial_lr"] if base is None else base) * factor
        momentum = schedule.momentum(step)
        if self.recipe.momentum_schedule is not None:
            momentum = self.recipe.momentum_schedule(step)
        if momentum is not None and momentum != self._momentum:
            self._momentum = momentum
            for group in self._groups():
                if "momentum" in group:
                    group["momentum"] = momentum
                elif "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers() for group in optimizer.param_groups]

    def _place_norms(self, batch: int) -> None:
        """Fix the groups that batch norm normalizes together: ``ghost_batch_size`` consecutive examples of the global batch.

        Workers normalize by themselves, so that a group is at most a worker's share.
        """
        self._batch = batch
        if not self.network.norms:
            return
        if self.communication is not None:
            share = batch // self.communication.workers
            layers.set_ghost_batch_size(self.model, min(self.recipe.ghost_batch_size or share, share))
            return
        share = batch // self.execution.world_size
        group = min(self.recipe.ghost_batch_size or batch, batch)
        if group <= share:
            layers.set_ghost_batch_size(self.model, group)
            return
        span = group // share
        mine = None
        for first in range(0, self.execution.world_size, span):
            ranks = dist.new_group(list(range(first, first + span)))
            if first <= self.execution.rank < first + span:
                mine = ranks
        layers.set_ghost_batch_size(self.model, None, mine)

    # ---- state for checkpoints ------------------------------------------------------------------------------------------

    @property
    def gathers(self) -> bool:
        """True if the state is spread over several ranks."""
        return self.sharding.divides or (self.communication is not None and self.execution.world_size > 1)

    def training_state(self) -> dict[str, Any]:
        """All state on which later steps depend, as tensors and plain values.

        What workers remember is gathered on rank 0: with ``gathers`` all ranks must call this at the same time. Tensors that
        ranks divide are those of this rank.
        """
        scale = self.execution.loss_scale
        return {
            "step": self.step,
            "oracle_calls": self.calls.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.sharding.optimizer_state(self.optimizer),
            "schedule": self.recipe.schedule.state_dict(),
            "selection": self.recipe.selection.state_dict() if self.recipe.selection is not None else None,
            "average": self.average.state_dict() if self.average is not None else None,
            "communication": self.communication.state_dict() if self.communication is not None else None,
            "loss_scale": scale.state_dict() if scale is not None else None,
            "seconds": self.clock.read(),
            "losses": torch.stack(self.losses).cpu() if self.losses else None,
            "gradient_norms": torch.stack(self.gradient_norms).cpu() if self.gradient_norms else None,
            # The bench's own draws need no state; other packages' optimizers may use torch's generators.
            "generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue from ``training_state``."""
        self.step = state["step"]
        self.calls = OracleCalls.of_checkpoint(state)
        self.sharding.load_weights(self.model, state["model"])
        self.sharding.load_optimizer_state(self.optimizer, state["optimizer"])
        self.recipe.schedule.load_state_dict(state["schedule"])
        if self.recipe.selection is not None:
            self.recipe.selection.load_state_dict(state["selection"])
            if self.recipe.selection.current is not None:
                self.source.restrict(*self.recipe.selection.current)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.communication is not None:
            if isinstance(self.communication, LocalSGD) and state["communication"]["workers"]:
                self._begin_local_steps(self.communication)
            self.communication.load_state_dict(state["communication"])
        if self.execution.loss_scale is not None:
            self.execution.loss_scale.load_state_dict(state["loss_scale"])
        self.clock.elapsed = state["seconds"]
        self.losses = list(state["losses"].to(self.device)) if state["losses"] is not None else []
        norms = state["gradient_norms"]
        self.gradient_norms = list(norms.to(self.device)) if norms is not None else []
        torch.set_rng_state(state["generator"])
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        self._rate = self._momentum = None


class StepTokens:
    """The iterable for Lightning: one token for each call of `training_step`, until the task is finished."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __iter__(self) -> Iterator[int]:
        """Yield tokens until the task is finished."""
        while not self.task.finished:
            yield 0
