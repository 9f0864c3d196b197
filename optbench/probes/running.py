"""Run the probes of a run: their schedules, the time of measurements, and the handling of failures."""

import contextlib
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.moved import current_choice, current_column
from optbench.objective import Objective
from optbench.probes.base import Measurement, Probe, ProbeContext
from optbench.probes.schedule import ProbeSchedule
from optbench.store import RunDirectory, StoreError
from optbench.store.files import reporting
from optbench.training.evaluation_weights import evaluation_weights
from optbench.training.task import Task

Row = dict[str, Any]


@dataclass(frozen=True)
class ScheduledProbe:
    """A probe with its name, its schedule and all of its options from the configuration."""

    name: str
    probe: Probe
    schedule: ProbeSchedule
    options: dict[str, Any]


class Probes:
    """The probes of one run.

    directory: the place where rank 0 writes the measurements, or None. initial: computes the parameters before the first step.

    After a measurement several ranks exchange whether it succeeded: an error that every rank meets at the same place is
    reported, and the run continues. If only one rank meets an error in the middle of a measurement, the others wait for its
    part of a sum, and the run ends as for any lost rank.
    """

    def __init__(
        self,
        scheduled: Sequence[ScheduledProbe] = (),
        directory: RunDirectory | None = None,
        initial: Callable[[], list[Tensor]] = list,
    ) -> None:
        self.scheduled, self.directory, self._initial = list(scheduled), directory, initial
        self._measured: dict[str, int] = {}  # the step of each probe's last measurement
        self._values: Row = {}
        self._seconds = 0.0
        self._problems: dict[str, str] = {}

    def check(self, task: Task) -> None:
        """Raise UserError for a probe that cannot work in this run."""
        for entry in self.scheduled:
            entry.probe.check(self._context(task))

    # ---- when -----------------------------------------------------------------------------------------------------------

    def next(self, step: int) -> int | None:
        """The first step after ``step`` at which a probe measures."""
        found = (entry.schedule.next(step) for entry in self.scheduled)
        return min((later for later in found if later is not None), default=None)

    def due(self, step: int, ending: bool = False, diverged: bool = False) -> list[ScheduledProbe]:
        """The probes that are due at ``step`` and have not measured yet."""
        return [
            entry
            for entry in self.scheduled
            if entry.schedule.due(step, ending, diverged) and self._measured.get(entry.name) != step
        ]

    def watch(self, objective: Objective, task: Task) -> contextlib.AbstractContextManager[Any]:
        """The context of the next step of ``task``."""
        watching = [
            entry.probe
            for entry in self.scheduled
            if entry.probe.window
            and (entry.schedule.next(task.step) or task.step + entry.probe.window + 1) <= task.step + entry.probe.window
        ]
        if not watching:
            return contextlib.nullcontext()
        stack = contextlib.ExitStack()
        for probe in watching:
            stack.enter_context(probe.watch(objective, task))
        return stack

    # ---- measuring --------------------------------------------------------------------------------------------------------

    def measure(self, task: Task, due: Sequence[ScheduledProbe], writes: bool = True) -> Iterator[Row]:
        """Take the measurements that are due, and yield a row for the history for each.

        A row holds the probe's name under "probe", its values under names that begin with it, "probe_seconds", and
        "probe_file" if there are arrays; or a "problem", which is not repeated while it stays the same.
        """
        for entry in due:
            began = time.perf_counter()
            measurement, error = self._attempt(task, entry)
            if task.device.type == "cuda":
                torch.cuda.synchronize(task.device)
            seconds = time.perf_counter() - began + entry.probe.seconds_aside
            entry.probe.seconds_aside = 0.0
            self._measured[entry.name] = task.step
            self._seconds += seconds
            row: Row = {"probe": entry.name, "probe_seconds": seconds}
            if measurement is None:
                problem = f"probe {entry.name} failed at step {task.step}: {_reason(error)}"
                if self._problems.get(entry.name) != _reason(error):
                    self._problems[entry.name] = _reason(error)
                    if writes:
                        self._log(problem, error)
                    yield row | {"problem": problem}
                continue
            values = {f"{entry.name}_{name}": float(value) for name, value in measurement.values.items()}
            self._values |= values
            if self.directory is not None and writes:
                file = self.directory.measurements.write(
                    entry.name, task.step, measurement.values, measurement.arrays, seconds, entry.options
                )
                row |= {"probe_file": f"probes/{file}"} if file is not None else {}
            yield row | values

    def _attempt(self, task: Task, entry: ScheduledProbe) -> tuple[Measurement | None, BaseException | None]:
        measurement: Measurement | None = None
        error: BaseException | None = None
        with _generators_kept(task.device):
            try:
                with evaluation_weights(task) if entry.probe.at == "evaluation" else contextlib.nullcontext():
                    measurement = entry.probe.measure(self._context(task))
            except StoreError:
                raise
            except Exception as raised:
                error = raised
                if task.device.type == "cuda":
                    torch.cuda.empty_cache()
        if task.execution.on_any_rank(error is not None) and error is None:
            measurement, error = None, RuntimeError("it failed on another rank")
        return measurement, error

    def _context(self, task: Task) -> ProbeContext:
        return ProbeContext(task, self._initial, self.directory)

    def _log(self, problem: str, error: BaseException | None) -> None:
        if self.directory is None:
            return
        with reporting("write", self.directory.log), self.directory.log.open("a", encoding="utf-8") as log:
            log.write(f"{problem}\n{''.join(traceback.format_exception(error))}")

    # ---- state ------------------------------------------------------------------------------------------------------------

    def summary(self) -> Row:
        """The last values of all measurements, and their total seconds; empty without probes."""
        return {**self._values, "probe_seconds": self._seconds} if self.scheduled else {}

    def state(self) -> Row:
        """The state on which later measurements depend."""
        return {
            "measured": dict(self._measured),
            "values": dict(self._values),
            "seconds": self._seconds,
            "probes": {entry.name: entry.probe.state_dict() for entry in self.scheduled},
        }

    def load_state(self, state: Row) -> None:
        """Continue from ``state``; a probe that was not among those of the state begins anew."""
        # The checkpoint may be from before a probe got the name that it has now.
        self._measured = {current_choice("probe", name): step for name, step in state["measured"].items()}
        self._values = {current_column(name): value for name, value in state["values"].items()}
        self._seconds = state["seconds"]
        kept = {current_choice("probe", name): own for name, own in state["probes"].items()}
        for entry in self.scheduled:
            if kept.get(entry.name):
                entry.probe.load_state_dict(kept[entry.name])


def _reason(error: BaseException | None) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in text:
        text += " (fewer examples, or a micro_batch, need less memory)"
    return text


@contextlib.contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Restore the generators of torch, NumPy and Python afterwards, for an optimizer that draws from them."""
    kept_numpy, kept_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(kept_numpy)
        random.setstate(kept_python)
