"""Measuring a run that has ended or was stopped, from a checkpoint, by the probes that live runs have."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optbench import config as configuration
from optbench.building import build_probes, build_task, load_data, set_precision
from optbench.config import Config
from optbench.errors import UserError
from optbench.probes import Probes
from optbench.probes.drawing import draw
from optbench.recording import load_checkpoint
from optbench.store import RunDirectory, RunLock
from optbench.task import Task


@dataclass(frozen=True)
class Revived:
    """A run as its checkpoint left it, with the probes that are to measure it."""

    run: RunDirectory
    task: Task
    probes: Probes

    def measure(self) -> Iterator[dict[str, Any]]:
        """Take every measurement once, write it beside those of the run, and draw it; yields a row for each.

        Nothing else of the run changes: not its status, history, summary or checkpoint. A measurement that the same probe
        has taken at the same step is replaced. Raises RunLocked where a process is training the run.
        """
        with RunLock(self.run.lock):
            yield from self.probes.measure(self.task, self.probes.scheduled)
            _, problem = draw(self.run)
            if problem is not None:
                yield {"probe": "figures", "probe_seconds": 0.0, "problem": problem}


def measure(run: RunDirectory, *words: str) -> list[dict[str, Any]]:
    """Measure ``run`` from its last checkpoint as `python -m optbench probe RUN WORDS` does; a row for each measurement."""
    config = {**run.config(), "probe": configuration.compose(list(words))["probe"]}
    return list(revive(run, config, run.checkpoint).measure())


def revive(run: RunDirectory, config: Config, checkpoint: Path) -> Revived:
    """Build the task that ``config``, the frozen one of ``run``, describes, in the state of ``checkpoint``, on one device.

    Raises UserError where the data are not there, or a probe cannot work.
    """
    set_precision(config["precision"], config["trainer"]["deterministic"])
    task = build_task(config, load_data(config))
    accelerator = config["trainer"]["accelerator"]
    on_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu")
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    task.to(device)
    task.configure_optimizers()
    task.execution.device = device
    state = load_checkpoint(checkpoint)
    if state is None:
        raise UserError(f"run {run.run_id}: {checkpoint} is not there any more")
    if device.type == "cpu":
        state["task"]["cuda_generator"] = None
    task.load_training_state(state["task"])
    return Revived(run, task, build_probes(config, task, run, scheduled=False))
