"""One resolved configuration becomes one run directory."""

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from optbench import config as configuration
from optbench import environment, randomness, terminal, trackers
from optbench.building import (
    build_recorder,
    build_task,
    build_trainer,
    load_data,
    rank_from_environment,
    set_precision,
)
from optbench.config import Config
from optbench.data.raw import RawData
from optbench.errors import UserError
from optbench.evaluation import METRICS
from optbench.interruption import Stop, handlers_restored
from optbench.probes.drawing import draw
from optbench.recording import WHERE, LockLost, Recorder
from optbench.store import RunDirectory, RunLock, StoreError
from optbench.store.run_directory import State
from optbench.sweep.queue import Claim
from optbench.task import Task, Turns
from optbench.terminal import RunDisplay

PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "done", "diverged", "preempted" or "failed", with why; its summary, where it has one.

    "lost": another process has taken it over. signal: what stopped it. refused: the file system would not take what it
    wrote. mirror: still at work, until somebody calls its `finish`.
    """

    state: str
    why: str
    summary: dict[str, Any] | None
    directory: RunDirectory
    mirror: trackers.Mirror | None = None
    tracker_problem: str | None = None
    signal: int | None = None
    refused: bool = False


# ---- running ----------------------------------------------------------------------------------------------------------------


class _Progress(pl.Callback):
    """Tells those who watch how far the run is: the display of this process, and by a file all others."""

    def __init__(self, display: RunDisplay, recorder: Recorder) -> None:
        self.display, self.recorder = display, recorder
        self._shown = (0, 0.0)  # the step that others were last told of, and when

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        assert isinstance(task, Task)
        self._shown = (task.step, time.monotonic())

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, *arguments: Any) -> None:
        assert isinstance(task, Task)
        self.display.step(task.step)
        (step, since), now = self._shown, time.monotonic()
        if now - since < PROGRESS_SECONDS or self.recorder.directory is None or not trainer.is_global_zero:
            return
        self._shown = (task.step, now)
        rate = (task.step - step) / (now - since)
        self.recorder.directory.set_progress(task.step, task.recipe.horizon.steps, rate, self.recorder.loss)


def execute(config: Config, console: Console | None = None) -> Outcome:
    """Train ``config`` from its last checkpoint, or from the start, to its end.

    Raises UserError before anything is written if the configuration cannot run here. A crash is recorded as the status
    "failed" with the traceback in the run's log, and returned, not raised.
    """
    directory = RunDirectory.at(config["results_dir"], configuration.run_id(config))
    prepared = _Prepared(config, directory, console, Stop())
    if rank_from_environment() != 0:
        return prepared.follow()
    directory.make()
    with RunLock(directory.lock) as lock:
        if directory.is_finished and not config["force"]:  # another process was quicker
            return Outcome(directory.status().state, "", directory.summary(), directory)
        directory.create(configuration.to_yaml(config), replace=True)  # the same science, by its run id
        if config["force"]:
            directory.clear()
        directory.set_status("running", deaths=directory.status().deaths)
        outcome = prepared.train(lock)
        return replace(outcome, tracker_problem=outcome.mirror.finish() if outcome.mirror is not None else None)


def execute_claimed(
    claim: Claim, console: Console, stop: Stop, load: Callable[[Config], RawData] | None = None
) -> Outcome:
    """Do a run that this process has claimed, by the configuration that was frozen when it was planned.

    Never raises for the run: what it cannot do is recorded in the run's status and returned. The outcome's mirror is
    still at work; its `finish` is the caller's to call. ``load``: how to come by the data, `load_data` by default.
    """
    directory = claim.directory
    try:
        prepared = _Prepared(directory.config(), directory, console, stop, load)
    except Exception as error:
        return _failed(directory, error)
    # It is marked as running since it was claimed, unless another of its ranks has failed meanwhile.
    return prepared.train(claim.lock)


def execute_as_rank(directory: RunDirectory, console: Console, stop: Stop, rank: int) -> Outcome:
    """Train as rank ``rank`` of a run that rank 0 has claimed; like `execute_claimed` it never raises for the run."""
    try:
        return _Prepared(directory.config(), directory, console, stop).follow()
    except Exception as error:
        return _failed(directory, error, stop.signal, f"rank {rank}: ")


class _Prepared:
    """A run with its data and its model in memory, of which nothing has been written yet."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        console: Console | None,
        stop: Stop,
        load: Callable[[Config], RawData] | None = None,
    ) -> None:
        set_precision(config["precision"], config["trainer"]["deterministic"])
        trackers.check(config["tracker"])
        task = build_task(config, (load or load_data)(config))
        task.stop = stop
        task.check(configuration.ranks(config))
        # The bench's own draws are pure functions of the seed; an optimizer from elsewhere may use torch's generators.
        torch.manual_seed(randomness.key(config["seed"], "torch"))
        shown = config["progress"] and rank_from_environment() == 0
        self.display = RunDisplay(console or terminal.console(), task.recipe.horizon.steps, shown)
        self.config, self.directory, self.task = config, directory, task
        self.recorder = build_recorder(config, task, directory, self.display)
        self.trainer = build_trainer(config, [self.recorder, _Progress(self.display, self.recorder)])
        self.mirror: trackers.Mirror | None = None

    def follow(self) -> Outcome:
        """Train as one of the ranks that write nothing."""
        with handlers_restored():
            self.trainer.fit(self.task, train_dataloaders=Turns(self.task))
        return Outcome(
            self.recorder.outcome or "failed", self.recorder.why, None, self.directory, signal=self.task.stop.signal
        )

    def train(self, lock: RunLock) -> Outcome:
        """Train, and record how it ended; ``lock`` is held by this process."""
        try:
            self.directory.write_environment(environment.describe(_device_names(self.trainer), self.trainer.world_size))
            # Not before the rows that a resumed run is going to write again are gone.
            self.recorder.ready = self._start_mirror
            self.recorder.lost = lock.lost.is_set
            with handlers_restored(), self.display:
                self.trainer.fit(self.task, train_dataloaders=Turns(self.task))
            return self._record_end()
        except BaseException as error:
            stopped = self.task.stop.signal
            outcome = _failed(self.directory, error, stopped)
            if self.mirror is not None:
                self.mirror.finish(0)
            if stopped is None and not isinstance(error, Exception):
                raise
            return outcome

    def _start_mirror(self) -> None:
        self.mirror = trackers.start(self.directory.path, self.config["tracker"])

    def _record_end(self) -> Outcome:
        recorder = self.recorder
        state, summary = recorder.outcome or "failed", None
        if state in ("done", "diverged"):
            summary = summarize(self.config, self.task, recorder)
            self.directory.finish(summary, state)  # type: ignore[arg-type]
            if recorder.probes.scheduled:
                problem = draw(self.directory)[1]
                if problem is not None:
                    self.display.console.print(problem, soft_wrap=True)
        else:
            self.directory.set_status(state, recorder.why)  # type: ignore[arg-type]
        return Outcome(state, recorder.why, summary, self.directory, self.mirror, signal=self.task.stop.signal)


def _failed(directory: RunDirectory, error: BaseException, stopped: int | None = None, who: str = "") -> Outcome:
    """Record that a run ended by ``error``; asked twice to stop it stops at once, which is no failure."""
    refused = isinstance(error, StoreError)
    expected = isinstance(error, StoreError | UserError)
    why = who + (str(error) if expected else f"{type(error).__name__}: {error}".splitlines()[0])
    state: State = "failed" if stopped is None else "preempted"
    if isinstance(error, LockLost):
        return Outcome("lost", "another process took it over", None, directory)
    # A file system that refuses the run may refuse this too; the run then stays marked as running, by nobody.
    with suppress(StoreError, OSError):
        with directory.log.open("a", encoding="utf-8") as log:
            log.write(f"{why}\n" if expected else traceback.format_exc())
        # Of several ranks, the one that failed first says why; the others only lose the connection to it.
        if directory.status().state != "failed":
            directory.set_status(state, why)
    return Outcome(state, why, None, directory, signal=stopped, refused=refused)


def _device_names(trainer: pl.Trainer) -> list[str]:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else environment.processor()
    return [name] * trainer.num_devices


def summarize(config: Config, task: Task, recorder: Recorder) -> dict[str, Any]:
    """The content of summary.json: what was run, how it ended, and the last evaluation."""
    rate, rule = configuration.learning_rate(config)
    if rate is None:
        rate = float(task.optimizer.param_groups[0]["initial_lr"])
    horizon = task.recipe.horizon
    metrics = dict.fromkeys(METRICS)
    # After divergence the last evaluation is of weights that the run has left behind since.
    if recorder.outcome != "diverged":
        metrics |= {name: value for name, value in recorder.evaluation.items() if name not in WHERE}
    steps = recorder.results.get("diverged_step", task.step)
    targets = dict.fromkeys(("steps_to_target", "samples_to_target", "seconds_to_target"))
    return {
        "run_id": configuration.run_id(config),
        "status": recorder.outcome,
        "why": recorder.why,
        **{group: config[group]["name"] for group in ("optimizer", "model", "dataset")},
        **{key: config[key] for key in ("batch", "seed", "trial")},
        "learning_rate": rate,
        "base_learning_rate": config["optimizer"].get("learning_rate"),
        "scaling_rule": rule,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "steps": steps,
        "epochs": horizon.epoch(steps),
        "samples": horizon.plan.first_sample(steps),
        "seconds_training": task.clock.read(),
        **metrics,
        **(targets if config["budget"]["target"] is not None else {}),
        **recorder.results,
        **recorder.probes.summary(),
    }
