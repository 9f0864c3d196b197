"""Measure a run that has ended or was stopped from a checkpoint, with the probes of live runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optbench import config as configuration
from optbench.config import Config, RunConfig
from optbench.errors import UserError
from optbench.probes import Probes
from optbench.probes.drawing import draw
from optbench.store import RunDirectory, RunLock
from optbench.training import checkpointing
from optbench.training.build import build_probes, build_task, load_data, set_precision
from optbench.training.task import Task


@dataclass(frozen=True)
class Revived:
    """A run restored from a checkpoint, with the probes that will measure it."""

    run: RunDirectory
    task: Task
    probes: Probes

    def measure(self) -> Iterator[dict[str, Any]]:
        """Take every measurement once, write it beside those of the run, and draw it; yields a row for each.

        Status, history, summary and checkpoint of the run do not change. A measurement of the same probe at the same step is
        replaced. Raises RunLocked if a process is training the run.
        """
        with RunLock(self.run.lock):
            self.run.remove_leftovers()
            yield from self.probes.measure(self.task, self.probes.scheduled)
            _, problem = draw(self.run)
            if problem is not None:
                yield {"probe": "figures", "probe_seconds": 0.0, "problem": problem}


def measure(run: RunDirectory, *words: str) -> list[dict[str, Any]]:
    """Measure ``run`` from its last checkpoint as `python -m optbench probe RUN WORDS` does; a row for each measurement."""
    config = configuration.thaw_to_measure(run, configuration.compose(list(words)))
    return list(revive(run, config, run.checkpoint).measure())


def revive(run: RunDirectory, resolved: Config, checkpoint: Path) -> Revived:
    """Build the task of ``resolved``, the frozen configuration of ``run``, in the state of ``checkpoint``, on one device.

    Raises UserError if the data are missing or a probe cannot work, and StoreError for a checkpoint that is damaged or of
    another run.
    """
    config = RunConfig.of(resolved)
    set_precision(config.precision, config.trainer.deterministic)
    run.check_links()
    try:
        raw = load_data(config)
    except UserError as error:
        trained_with = run.config().get("data_dir")
        if trained_with == config.data_dir:
            raise
        raise UserError(
            f"{error}; the run was trained with data_dir={trained_with}, and looked for here is data_dir={config.data_dir}"
        ) from error
    task = build_task(config, raw)
    accelerator = config.trainer.accelerator
    on_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu")
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    task.to(device)
    task.configure_optimizers()
    task.execution.device = device
    try:
        state = checkpointing.load(checkpoint, run.run_id)
    except FileNotFoundError as error:
        raise UserError(f"run {run.run_id}: {checkpoint} is not there any more") from error
    if device.type == "cpu":
        state["task"]["cuda_generator"] = None
    task.load_training_state(state["task"])
    return Revived(run, task, build_probes(config, task, run, scheduled=False))
