"""Runs of the bench in memory, without a run directory, and what is compared of them; and killed runs in a folder."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from optbench.config import Config, RunConfig
from optbench.store.measured import without_measured
from optbench.testing import problem
from optbench.testing.outcomes import Broken
from optbench.training import build, checkpointing, run
from optbench.training.recorder import Audience
from optbench.training.sharding import whole
from optbench.training.task import StepTokens, Task


def trained(
    resolved: Config,
    prepare: Callable[[Task], object] | None = None,
    losses: list[float] | None = None,
    **changes: Any,
) -> Task:
    """The task of ``resolved`` after its whole budget, trained by Lightning as in any run, without a run directory.

    prepare: called with the task before its first step. losses: gets the loss of every step. changes: of the configuration once
    it is read, such as micro_batch.

    Raises `Broken` for a run that ends otherwise than done.
    """
    config = RunConfig.of({**resolved, **changes})
    torch.manual_seed(0)
    task = build.build_task(config, build.load_data(config))
    task.check(config.trainer.ranks)
    if prepare is not None:
        prepare(task)
    kept = losses if losses is not None else []
    audience = Audience(row=lambda row: kept.append(row["loss"]) if row["event"] == "train" else None)
    recorder = build.build_recorder(config, task, None, audience)
    build.build_trainer(config, [recorder]).fit(task, train_dataloaders=StepTokens(task))
    if recorder.outcome != "done":
        raise Broken(f"the run {recorder.outcome}: {recorder.why}")
    return task


def is_dear(resolved: Config) -> bool:
    """True if a single step of a run takes `problem.DEAR_SECONDS` of a processor; a run that fails says so where it is needed."""
    begun = time.process_time()
    with contextlib.suppress(Exception):
        trained({**resolved, "budget": {**resolved["budget"], "steps": 1}})
    return time.process_time() - begun > problem.DEAR_SECONDS


def numbers(task: Task) -> dict[str, Tensor]:
    """Weights, running statistics and their average, by name; ranks that divide them call this together."""
    state = {name: whole(tensor).detach().clone() for name, tensor in task.model.state_dict().items()}
    if task.average is not None:
        average = task.average.state_dict()["average"]
        state |= {f"average of {name}": whole(tensor) for name, tensor in average.items()}
    return state


# ---- runs in a folder --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Not an error that anybody handles: the process is gone."""


@dataclass(frozen=True)
class Ended:
    """The remains of a run in a folder, and the steps at which it was resumed.

    summary, rows: without measurements of the machine. state: the final one of the training.
    """

    summary: Mapping[str, Any]
    rows: list[dict[str, Any]]
    state: dict[str, Any]
    resumed_at: list[int]


def run_in(folder: Path, resolved: Config, kill_before: tuple[int, ...] = ()) -> Ended:
    """Execute a run in ``folder``, killed before each of these steps and started again after it.

    Raises `Broken` for a run that ends otherwise than done.
    """
    resolved = {**resolved, "results_dir": str(folder)}
    take_step, load = Task.take_step, Task.load_training_state
    resumed: list[int] = []

    def remember(task: Task, state: dict[str, Any]) -> None:
        resumed.append(state["step"])
        load(task, state)

    with mock.patch.object(Task, "load_training_state", remember):
        for last in kill_before:

            def step_or_die(task: Task, last: int = last) -> None:
                if task.step == last:
                    raise Killed
                take_step(task)

            with mock.patch.object(Task, "take_step", step_or_die):
                try:
                    outcome = run.execute(resolved)
                except Killed:
                    continue
            raise Broken(f"the run was to be killed at step {last} and {outcome.state}: {outcome.why}")
        outcome = run.execute(resolved)
    if outcome.state != "done" or outcome.summary is None:
        raise Broken(f"the run {outcome.state}: {outcome.why}")
    state = checkpointing.load(outcome.directory.checkpoint, outcome.directory.run_id)["task"]
    rows = [without_measured(row) for row in outcome.directory.rows()]
    return Ended(without_measured(outcome.summary), rows, state, resumed)
