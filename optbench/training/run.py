"""Train one resolved configuration into one run directory."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from optbench import config as configuration
from optbench import randomness, trackers
from optbench.config import Config
from optbench.config.run_config import RunConfig
from optbench.data.raw import RawData
from optbench.errors import UserError
from optbench.probes.drawing import draw
from optbench.provenance import Sources, as_text, continued, environment
from optbench.store import RunDirectory, RunLock, index
from optbench.store.claims import Claim
from optbench.system import terminal
from optbench.system.signals import Stop, handlers_restored
from optbench.system.terminal import RunDisplay
from optbench.training import micro_batch
from optbench.training.build import build_recorder, build_task, build_trainer, load_data, set_precision
from optbench.training.launch_environment import check_ranks, launched
from optbench.training.measured import Measured
from optbench.training.meeting import Meeting
from optbench.training.outcome import Outcome, details, explaining_shortage, failed, reason, telling_others
from optbench.training.ranks import Ranks, meet, started_here
from optbench.training.recorder import Audience, OnEvaluation, Recorder
from optbench.training.summary import summarize
from optbench.training.task import StepTokens, Task

PROGRESS_SECONDS = 2.0
# The code as this process has imported it; files may be edited while it trains.
_SOURCES = Sources()
_SOURCES.read_package()


# ---- running ----------------------------------------------------------------------------------------------------------------


class _Progress(pl.Callback):
    """Reports the progress of the run: to the display of this process, and to others by a file."""

    def __init__(self, display: RunDisplay, recorder: Recorder) -> None:
        self.display, self.recorder = display, recorder
        self._shown = (0, 0.0)  # the step and the time of the last report to others

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
        self.recorder.directory.set_progress(task.step, task.recipe.horizon.last, rate, self.recorder.loss)


def execute(resolved: Config, console: Console | None = None, on_evaluation: OnEvaluation | None = None) -> Outcome:
    """Train the configuration ``resolved`` from its last checkpoint, or from the start, to its end.

    ``on_evaluation(step, row)`` is called on rank 0 after every evaluation. An exception that it raises is raised here, after
    the run is recorded: as preempted at a checkpoint, or with its own outcome if it ended at that evaluation.

    Raises UserError before anything is written if the configuration cannot run here, or if the number of started ranks is
    not the configured one. A crash is recorded as the status "failed" with the traceback in the run's log, and returned, not
    raised. Of several ranks, only rank 0 writes.
    """
    config, launch = RunConfig.of(resolved), launched()
    check_ranks(config.trainer, launch)
    directory = RunDirectory.at(config.results_dir, configuration.run_id(resolved))
    met = meet(config.trainer) if launch.world_size > 1 else None
    stop, outcome = Stop(), None
    with telling_others(met):
        prepared = _Prepared(config, directory, console, stop, met=met, on_evaluation=on_evaluation)
        if launch.rank == 0:
            outcome = _train_locked(prepared)
    if stop.error is not None:
        raise stop.error
    if outcome is not None:
        return outcome
    with telling_others(met):
        assert met is not None
        refusal = met.decision()
    if not refusal:
        return prepared.follow()
    prepared.part()
    if directory.is_finished:
        return Outcome(directory.status().state, "", directory.summary(), directory)
    raise UserError(f"rank {launch.rank}: rank 0 does not train it: {refusal}")


def _train_locked(prepared: "_Prepared") -> Outcome:
    """Train as the process that writes the run, once it has the lock."""
    config, directory = prepared.config, prepared.directory
    directory.make()
    with RunLock(directory.lock) as lock:
        if directory.is_finished and not config.force:  # another process has finished it meanwhile
            prepared.decide("it is done")
            prepared.part()
            return Outcome(directory.status().state, "", directory.summary(), directory)
        directory.create(config.text, replace=True)  # the run id guarantees the same science
        directory.remove_leftovers()
        if config.force:
            directory.clear()
        directory.set_status("running", crashes=directory.status().crashes)
        prepared.decide("")
        outcome = prepared.train(lock)
        return replace(outcome, tracker_problem=outcome.mirror.finish() if outcome.mirror is not None else None)


def execute_claimed(
    claim: Claim,
    console: Console,
    stop: Stop,
    load: Callable[[RunConfig], RawData] | None = None,
    sharers: int = 1,
    until: int | None = None,
) -> Outcome:
    """Train a run that this process has claimed, with the configuration that was frozen when it was planned.

    ``until``: it is paused at the first evaluation at or after this step, unless it ends before. All durations stay parts of
    the whole run, so that, continued, it equals one that was never paused.

    Never raises for the run: a failure is recorded in the run's status and returned. The outcome's mirror is still at work;
    the caller must call its `finish`. ``load``: the function that loads the data, `load_data` by default.
    ``sharers``: the workers that share the memory of this machine, or of a GPU.
    """
    directory = claim.directory
    met = None
    try:
        config = RunConfig.of(configuration.thaw(directory))
        met = meet(config.trainer) if config.trainer.ranks > 1 else None
        prepared = _Prepared(config, directory, console, stop, load, met, sharers=sharers, until=until)
    except Exception as error:
        return failed(directory, error, met=met)
    # The run was marked as running when it was claimed.
    return prepared.train(claim.lock)


def execute_as_rank(directory: RunDirectory, console: Console, stop: Stop) -> Outcome:
    """Train as another rank of a run whose lock rank 0 holds; like `execute_claimed` it never raises for the run.

    It writes nothing: rank 0 records the reason of a failure, and the traceback.
    """
    rank = launched().rank
    try:
        config = RunConfig.of(configuration.thaw(directory))
        met = meet(config.trainer)
        with telling_others(met):
            prepared = _Prepared(config, directory, console, stop, met=met)
        return prepared.follow()
    except Exception as error:
        why = reason(error, rank)
        print(details(error), file=sys.stderr, end="", flush=True)
        return Outcome("failed", why, None, directory, signal=stop.signal)


class _Prepared:
    """A run with its data and its model in memory, of which nothing has been written yet."""

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        console: Console | None,
        stop: Stop,
        load: Callable[[RunConfig], RawData] | None = None,
        met: Meeting | None = None,
        on_evaluation: OnEvaluation | None = None,
        sharers: int = 1,
        until: int | None = None,
    ) -> None:
        measured = Measured()
        set_precision(config.precision, config.trainer.deterministic)
        trackers.check(config.text["tracker"])
        task = build_task(config, (load or load_data)(config), stop)
        # Before the optimizer's own check, which may evaluate a batch.
        self._sharers = sharers
        self.micro_batch = micro_batch.choose(config, task, sharers) if config.micro_batch == "auto" else None
        if self.micro_batch is not None:
            task.execution.micro_batch = self.micro_batch.examples
        self._saved_bytes = _saved_bytes(config, task) if self.micro_batch is None else self.micro_batch.saved
        with explaining_shortage(config, task, self.micro_batch, sharers):
            task.check(config.trainer.ranks)
        # The bench's own draws are pure functions of the seed; other packages' optimizers may use torch's generators.
        torch.manual_seed(randomness.key(config.seed, "torch"))
        shown = config.progress and launched().rank == 0
        self.display = RunDisplay(console or terminal.console(), task.recipe.horizon.steps, shown)
        self.config, self.directory, self.task = config, directory, task
        audience = Audience(self.display.row, self._start_mirror, self._say, self._is_lost, on_evaluation)
        self.recorder = build_recorder(config, task, directory, audience, measured, until)
        self.trainer = build_trainer(config, [self.recorder, _Progress(self.display, self.recorder)], met)
        self.mirror: trackers.Mirror | None = None
        self._code = ""
        self._lock: RunLock | None = None

    def _say(self, line: str) -> None:
        self.display.console.print(line, soft_wrap=True)

    def _is_lost(self) -> bool:
        return self._lock is not None and self._lock.lost.is_set()

    @property
    def _ranks(self) -> Ranks | None:
        """The strategy that connects this rank to the others; None if there are no others."""
        return self.trainer.strategy if isinstance(self.trainer.strategy, Ranks) else None

    def decide(self, decision: str) -> None:
        """Rank 0: tell the other ranks if the run is trained (`Meeting.decide`)."""
        if self._met is not None:
            self._met.decide(decision)

    def part(self, in_order: bool = True) -> None:
        """Leave the other ranks, if there are any; ``in_order``: after all of them have reached this point."""
        if self._ranks is not None:
            self.task.leave_ranks()
            self._ranks.part(in_order)

    def _fit(self) -> None:
        with telling_others(self._met), explaining_shortage(self.config, self.task, self.micro_batch, self._sharers):
            self.trainer.fit(self.task, train_dataloaders=StepTokens(self.task))
        self.part()

    @property
    def _met(self) -> Meeting | None:
        return self._ranks.meeting if self._ranks is not None else None

    def _fit_with_others(self) -> None:
        """Train; rank 0 first starts the other ranks, if no launcher has started them."""
        if self._ranks is None or self._met is not None:
            self._fit()
            return
        with started_here(self.config.trainer.ranks, self.directory.path) as lost:
            self._ranks.meet(lost)
            try:
                self._fit()
            finally:
                # Leave before waiting for the others, because they may wait for this rank.
                self.part(in_order=False)

    def follow(self) -> Outcome:
        """Train as one of the ranks that write nothing. Never raises for the run: rank 0 records the reason of a failure."""
        state, why = "failed", ""
        try:
            with handlers_restored():
                self._fit()
            state, why = self.recorder.outcome or "failed", self.recorder.why
        except Exception as error:
            why = reason(error, launched().rank)
            print(details(error), file=sys.stderr, end="", flush=True)
            self.part(in_order=False)
        return Outcome(state, why, None, self.directory, signal=self.task.stop.signal)

    def train(self, lock: RunLock) -> Outcome:
        """Train, and record the outcome; this process holds ``lock``."""
        try:
            self._lock = lock
            self._write_environment()
            if self.micro_batch is not None and self.micro_batch.examples is not None:
                self._say(self.micro_batch.describe())
            with handlers_restored(), self.display:
                self._fit_with_others()
            return self._record_end()
        except BaseException as error:
            stopped = self.task.stop.signal
            outcome = failed(self.directory, error, stopped, self._met)
            self.part(in_order=False)
            if self.mirror is not None:
                self.mirror.finish(0)
            if stopped is None and not isinstance(error, Exception):
                raise
            return outcome

    def _write_environment(self) -> None:
        described = environment.describe(_device_names(self.trainer), self.trainer.world_size)
        vintages = continued(self.directory, _SOURCES.code(self.config.text))
        chosen = {} if self.micro_batch is None else {"micro_batch": asdict(self.micro_batch)}
        self.directory.write_environment(described | {"code": vintages} | chosen)
        self._code = as_text(vintages)
        if len(vintages) > 1:
            self._say(
                f"{self.directory.run_id}: was begun by other code ({vintages[-2]['fingerprint']}) than continues it "
                f"({vintages[-1]['fingerprint']}), and is recorded as of both; retry=stale starts it over"
            )

    def _start_mirror(self) -> None:
        # Started only after the rows that a resumed run writes again are removed.
        self.mirror = trackers.start(self.directory.path, self.config.text["tracker"])

    def _record_end(self) -> Outcome:
        recorder = self.recorder
        state, summary = recorder.outcome or "failed", None
        if state in ("done", "diverged"):
            summary = summarize(self.config, self.task, recorder, self._code, self._saved_bytes)
            # Drawn before the run counts as done, so that a run killed while drawing draws the rest when it resumes.
            if recorder.probes.scheduled:
                problem = draw(self.directory)[1]
                if problem is not None:
                    self._say(problem)
            self.directory.finish(summary, state)  # type: ignore[arg-type]
            index.add(self.directory)
        else:
            step = self.task.step if state == "paused" else None
            self.directory.set_status(state, recorder.why, step=step)  # type: ignore[arg-type]
        return Outcome(state, recorder.why, summary, self.directory, self.mirror, signal=self.task.stop.signal)


def _device_names(trainer: pl.Trainer) -> list[str]:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else environment.processor()
    return [name] * trainer.num_devices


def _saved_bytes(config: RunConfig, task: Task) -> float | None:
    """The bytes that autograd keeps of an example; None for a model that cannot be evaluated on the CPU."""
    try:
        with torch.random.fork_rng(devices=[]):
            return micro_batch.saved_bytes(config, task)
    except Exception:  # a model of the user's own may raise anything
        return None
