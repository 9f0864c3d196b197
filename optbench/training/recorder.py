"""The work between steps: rows of the history, evaluations, probes, checkpoints, divergence and targets.

The configuration fixes the steps of all of it, so that a resumed run does the same at the same steps.
"""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from optbench.config.durations import Budget, Evaluations
from optbench.probes import Probes
from optbench.store import RunDirectory, resuming
from optbench.store.checkpoints import Seal
from optbench.training import checkpointing
from optbench.training.evaluation import Evaluator
from optbench.training.evaluation_weights import evaluation_weights, offers
from optbench.training.measured import Measured
from optbench.training.task import Task

Row = dict[str, Any]
#: A caller's function that gets the step and the row of the history of every evaluation.
OnEvaluation = Callable[[int, Row], object]
CHECKPOINT_SECONDS = 60.0
# The columns of every row of the history, for all events.
WHERE = ("event", "step", "epoch", "samples", "seconds")


@dataclass(frozen=True)
class Audience:
    """Functions that are called while a run trains.

    row: called with every row of the history, on every rank. The others are called on the rank that writes.
    ready: called once the rows that a resumed run writes again are removed. say: called with a line for the display.
    lost: returns True if another process has taken over the run meanwhile.
    on_evaluation: called after every evaluation, with the step and the row. If it raises, the run stops at a checkpoint
        after the work due at this step (``task.stop.error``); a run whose last step this is has ended.
    """

    row: Callable[[Row], None] = lambda row: None
    ready: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda line: None
    lost: Callable[[], bool] = lambda: False
    on_evaluation: OnEvaluation | None = None


class LockLost(Exception):
    """Raised if another process considered this one dead and took over the run: nothing more may be written."""


class Recorder(pl.Callback):
    """Writes a run's history and checkpoints, and decides when it ends.

    log_every, checkpoint_every: the periods in steps of training rows and of checkpoints (None: at evaluations, at most once a
    minute). evaluations: the steps of these.
    until: the run is paused at the first evaluation at or after this step, so that a pause adds nothing to the history.
    outcome: None while training, then "done", "diverged", "preempted" or "paused", with ``why``.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        evaluator: Evaluator,
        log_every: int,
        evaluations: Evaluations,
        checkpoint_every: int | None,
        divergence_factor: float | None,
        budget: Budget,
        probes: Probes | None = None,
        audience: Audience | None = None,
        measured: Measured | None = None,
        until: int | None = None,
    ) -> None:
        self.directory, self.evaluator, self.audience = directory, evaluator, audience or Audience()
        self.log_every, self.evaluations, self.checkpoint_every = log_every, evaluations, checkpoint_every
        self.divergence_factor, self.budget = divergence_factor, budget
        self.probes = probes or Probes()
        self.measured = measured or Measured()
        self.until = None if until is None else evaluations.from_step(until)
        self.outcome: str | None = None
        self.why = ""
        self.last_row = 0  # the step of the last training row
        self.loss: float | None = None  # in that row
        self.evaluation: Row = {}
        self.first_loss: float | None = None
        self.results: Row = {}  # added to the last evaluation in the summary: bests, targets, divergence
        self._last_checkpoint = time.monotonic()
        self._digest = resuming.HistoryDigest(directory.history) if directory is not None else None

    # ---- due steps -------------------------------------------------------------------------------------------------------

    def next_event(self, step: int) -> int:
        """The first step after ``step`` at which something is due."""
        periods = [self.log_every, *([self.checkpoint_every] if self.checkpoint_every is not None else [])]
        regular = min(self.evaluations.from_step(step + 1), *(step - step % period + period for period in periods))
        return min(regular, self.probes.next(step) or regular)

    # ---- Lightning's hooks -------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Resume from the last checkpoint, watch for signals, and start the clock."""
        assert isinstance(task, Task)
        # Lightning has installed its own signal handlers by now; the run's replace them while it trains.
        task.stop.listen()
        self.measured.begin(task.device)
        if self.directory is not None:
            self._resume(self.directory, trainer, task)
        self.until = trainer.strategy.broadcast(self.until)  # only rank 0 is told by its caller
        task.next_event, task.watch = self.next_event, self.probes.watch
        self._last_checkpoint = time.monotonic()
        if self.outcome == "done":  # it was killed between its last checkpoint and its summary
            task.finished = True
            return
        if self._pauses(task):  # it was killed between this checkpoint and its status
            self._pause(trainer, task)
            return
        self._measure(task)  # due before the first step, or left out because of a signal
        task.clock.start()

    def _resume(self, directory: RunDirectory, trainer: pl.Trainer, task: Task) -> None:
        """Continue from the checkpoint that rank 0 chooses, if there is one."""
        start = resuming.choose(directory, checkpointing.parse) if self._writes else resuming.Start()
        # All ranks must load the same checkpoint, also if one of them finds it damaged or missing.
        path = trainer.strategy.broadcast(start.path)
        state, seal = start.state, start.seal
        if path is not None and not self._writes:
            state, seal = checkpointing.read_archive(path, directory.run_id)
        if path is not None and state is not None:
            checkpointing.read_shards(path, state, seal, task.sharding.room)
            self.load_state(state["recorder"])
            task.load_training_state(state["task"])
        if self._writes:
            for line in start.said:
                self.audience.say(line)
            resuming.begin(directory, start, task.step)
            self.audience.ready()

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, *arguments: Any) -> None:
        """Do the work that is due after the last step."""
        assert isinstance(task, Task)
        if task.finished:
            return
        step, last = task.step, task.step >= task.recipe.horizon.last
        # Nothing is due at step 0, but a run may be stopped before its first step.
        evaluate = last or (step > 0 and self.evaluations.due(step))
        record = evaluate or (step > 0 and step % self.log_every == 0)
        checkpoint = self.checkpoint_every is not None and step % self.checkpoint_every == 0
        if not (record or checkpoint or task.must_stop or self.probes.due(step)):
            return
        if self.audience.lost():
            raise LockLost
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)  # waits for queued steps, whose time counts as training
        task.clock.stop()
        if record and step > self.last_row:
            self._training_row(task)
        if self.outcome is None and evaluate and self.evaluation.get("step") != step:
            self._evaluate(task, last)
        if self.outcome is None and last:
            self.outcome = "done"
        self._measure(task)
        if self.outcome is not None:
            self._end(trainer, task, self.outcome)
            return
        if (
            checkpoint
            or task.must_stop
            or self._pauses(task)
            or (evaluate and self.checkpoint_every is None and self._is_time(trainer, task))
        ):
            self.checkpoint(trainer, task)
        if self._pauses(task):
            self._pause(trainer, task)
            return
        if task.must_stop:
            self.why = f"stopped by {task.stop} at step {step}"
            self._end(trainer, task, "preempted")
            return
        if task.stop.error is not None:
            # Treated like a signal that comes now, so that several ranks agree on the step before they stop.
            task.stop.receive(signal.SIGTERM)
        task.clock.start()

    # ---- rows -----------------------------------------------------------------------------------------------------------------

    def _where(self, task: Task, event: str) -> Row:
        horizon = task.recipe.horizon
        step = task.step
        values = (event, step, horizon.epoch(step), horizon.plan.first_sample(step), task.clock.read())
        return dict(zip(WHERE, values, strict=True))

    def _training_row(self, task: Task) -> None:
        losses = torch.stack(task.losses).cpu()
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))  # float64 is kept
        task.losses.clear()
        if self.first_loss is None:
            self.first_loss = float(losses[0])
        row = self._where(task, "train")
        row["loss"] = self.loss = float(losses.double().mean())
        row["learning_rate"] = float(task.optimizer.param_groups[0]["lr"])
        momentum = _momentum(task.optimizer.param_groups[0])
        if momentum is not None:
            row["momentum"] = momentum
        if task.gradient_norms:
            row["gradient_norm"] = float(torch.stack(task.gradient_norms).double().mean())
            task.gradient_norms.clear()
        # The optimizer's values of its latest step, such as a damping that it adapts.
        row |= {f"optimizer_{name}": value for name, value in getattr(task.optimizer, "diagnostics", {}).items()}
        self.last_row = task.step
        self._write(row)
        self._look_for_divergence(task.step - len(losses), losses)

    def _look_for_divergence(self, first_step: int, losses: torch.Tensor) -> None:
        assert self.first_loss is not None
        bound = math.inf if self.divergence_factor is None else self.divergence_factor * abs(self.first_loss)
        bad = (~torch.isfinite(losses) | (losses > bound)).nonzero()
        if len(bad):
            where = int(bad[0])
            loss = float(losses[where])
            self.outcome = "diverged"
            self.results["diverged_step"] = first_step + where
            self.why = f"the loss was {loss:.4g} at step {first_step + where}"
            if math.isfinite(loss):
                self.why += f", more than {self.divergence_factor:g} times the first, {self.first_loss:.4g}"

    def _evaluate(self, task: Task, last: bool) -> None:
        where = self._where(task, "evaluation")
        with self.measured.evaluation():
            metrics = self.evaluator(task, last)
        self.evaluation = where | metrics | selection_values(task)
        self._write(self.evaluation)
        self._keep_best(metrics, task.step)
        self._check_target(metrics, where)
        loss = metrics["validation_loss"]
        task.recipe.schedule.observe(math.inf if loss is None or math.isnan(loss) else loss)
        if self.audience.on_evaluation is not None and self._writes:
            try:
                self.audience.on_evaluation(task.step, dict(self.evaluation))
            except BaseException as error:
                task.stop.error = error

    def _measure(self, task: Task) -> None:
        # A signal may leave little time: measurements due now are taken when the run resumes. Several ranks may receive
        # the signal at different times, and must measure together.
        if task.stop.signal is not None and task.execution.world_size == 1:
            return
        due = self.probes.due(task.step, self.outcome == "done", self.outcome == "diverged")
        for row in self.probes.measure(task, due, self._writes):
            self._write(self._where(task, "probe") | row)

    def _keep_best(self, metrics: dict[str, float | None], step: int) -> None:
        for name, better in (("validation_loss", -1), ("validation_accuracy", 1)):
            value, best = metrics[name], self.results.get(f"best_{name}")
            if value is not None and math.isfinite(value) and (best is None or better * value > better * best):
                self.results[f"best_{name}"] = value
                self.results[f"best_{name}_step"] = step

    def _check_target(self, metrics: dict[str, float | None], where: Row) -> None:
        target, name = self.budget.target, self.budget.target_metric
        value = metrics[name] if target is not None else None
        if target is None or value is None or self.results.get("steps_to_target") is not None:
            return
        if value <= target if name.endswith("loss") else value >= target:
            self.results |= {
                "steps_to_target": where["step"],
                "samples_to_target": where["samples"],
                "seconds_to_target": where["seconds"],
            }
            if self.budget.stop_at_target:
                self.outcome = "done"

    def _write(self, row: Row) -> None:
        if self.directory is not None and self._writes:
            self.directory.append(row)
        self.audience.row(row)

    # ---- checkpoints and the end -----------------------------------------------------------------------------------------------

    _writes = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Only rank 0 writes."""
        self._writes = trainer.is_global_zero

    def checkpoint(self, trainer: pl.Trainer, task: Task) -> None:
        """Save all state on which later steps depend."""
        state = task.training_state() if self.directory is not None and (self._writes or task.gathers) else None
        shards: tuple[str, ...] = ()
        if self.directory is not None and state is not None and task.sharding.divides:
            shards = checkpointing.write_shards(state, self.directory, task.step, task.sharding.is_part)
        if self.directory is not None and self._writes:
            assert self._digest is not None
            # The history must be on the disk before the checkpoint, because the machine may lose power in between.
            self.directory.flush()
            seal = Seal(self.directory.run_id, task.step, *self._digest.take(), *shards)
            archive = {"task": state, "recorder": self.state()}
            if self.outcome == "done" and offers(task.optimizer):
                with evaluation_weights(task):
                    archive["evaluation_model"] = {name: each.clone() for name, each in task.model.state_dict().items()}
            checkpointing.save(archive, self.directory, seal)
        self._last_checkpoint = time.monotonic()

    def _is_time(self, trainer: pl.Trainer, task: Task) -> bool:
        """True if the last checkpoint is old enough; by the clock of rank 0 where all ranks take part in one."""
        is_time = time.monotonic() - self._last_checkpoint >= CHECKPOINT_SECONDS
        return bool(trainer.strategy.broadcast(is_time)) if task.gathers else is_time

    def state(self) -> Row:
        """The recorder's own state for a checkpoint."""
        return {
            "last_row": self.last_row,
            "evaluation": self.evaluation,
            "first_loss": self.first_loss,
            "results": self.results,
            "outcome": self.outcome,
            "probes": self.probes.state(),
            "measured": self.measured.state(),
        }

    def load_state(self, state: Row) -> None:
        """Continue from ``state``."""
        self.last_row, self.first_loss, self.outcome = state["last_row"], state["first_loss"], state["outcome"]
        self.evaluation, self.results = dict(state["evaluation"]), dict(state["results"])
        self.measured.load_state(state.get("measured"))
        if "probes" in state:  # checkpoints of earlier versions lack it
            self.probes.load_state(state["probes"])

    def _pauses(self, task: Task) -> bool:
        return self.until is not None and task.step >= self.until

    def _pause(self, trainer: pl.Trainer, task: Task) -> None:
        self.why = f"at step {task.step} of {task.recipe.horizon.last}"
        self._end(trainer, task, "paused")

    def _end(self, trainer: pl.Trainer, task: Task, outcome: str) -> None:
        task.clock.stop()
        self.outcome = outcome
        if outcome == "done":
            self.checkpoint(trainer, task)
        task.finished = True


def selection_values(task: Task) -> Row:
    """The costs of selections so far, and how many different examples they have chosen; empty without selections."""
    selection = task.recipe.selection
    return {} if selection is None else dict(selection.values())


def _momentum(group: dict[str, Any]) -> float | None:
    if "momentum" in group:
        return float(group["momentum"])
    return float(group["betas"][0]) if "betas" in group else None
