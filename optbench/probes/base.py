"""The base class of probes: measurements of a run at one step, which change nothing in the run."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench import randomness
from optbench.objective import Objective
from optbench.probes.measured import STATISTICS, MeasuredModel
from optbench.store import RunDirectory
from optbench.training.task import Task


@dataclass(frozen=True)
class Measurement:
    """The result of a measurement: ``values`` for the history, by names without the probe's, and ``arrays`` for a file."""

    values: dict[str, float]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeContext:
    """The input of a probe.

    task: the run between two steps, after ``task.step`` updates. initial: computes the parameters before the first update
    again. directory: the run's, if it has one.
    """

    task: Task
    initial: Callable[[], list[Tensor]]
    directory: RunDirectory | None = None

    @property
    def layer_names(self) -> list[str]:
        """The names of the parameters, in order."""
        return [name for name, _ in self.task.model.named_parameters()]

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for the draws of one purpose, equal at every step, so that only the weights differ."""
        return randomness.generator(self.task.recipe.seed, f"probe {purpose}")


class Probe(ABC):
    """One kind of measurement; a subclass's constructor takes the options of its file in conf/probe.

    Every rank measures at the same steps and must take part in the same collective operations. The result must be a function
    of the task, of the options and of `state_dict`; a probe may read the task, but may change only copies.
    """

    #: True if it may read the examples of the validation and test splits. The names of values that depend on their labels begin
    #: with "diagnostic_": nothing is tuned or selected by such a value.
    diagnostic: bool = False
    #: The weights that it measures, of an optimizer that has two: those for "evaluation", or those of "training", where a probe
    #: looks at the steps themselves.
    at: str = "evaluation"
    #: The number of steps before each measurement that the probe watches (see `watch`).
    window: int = 0
    #: Seconds spent in `aside` since the last measurement, which are added to those of the next one.
    seconds_aside: float = 0.0

    @abstractmethod
    def measure(self, context: ProbeContext) -> Measurement:
        """Measure now. Exceptions are reported, and the run continues."""

    def watch(self, objective: Objective, task: Task) -> contextlib.AbstractContextManager[None]:
        """The context in which the optimizer takes one of the ``window`` steps before a measurement."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def aside(self, task: Task) -> Iterator[None]:
        """Work within `watch` that is no part of the training: the clock of the run stands still."""
        runs = task.clock.since is not None
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)  # what was queued counts as training
        if runs:
            task.clock.stop()
        began = time.perf_counter()
        try:
            yield
        finally:
            if task.device.type == "cuda":
                torch.cuda.synchronize(task.device)
            self.seconds_aside += time.perf_counter() - began
            if runs:
                task.clock.start()

    def check(self, context: ProbeContext) -> None:  # noqa: B027 - most probes have nothing to check
        """Raise UserError for options that cannot work in this run, before it starts."""

    def state_dict(self) -> dict[str, Any]:
        """The state that later measurements need, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most probes have no state
        """Continue from ``state_dict``."""


class SubsetProbe(Probe):
    """A probe of the loss over a fixed part of the training set; see `MeasuredModel` for the options."""

    def __init__(self, examples: int | None = 2048, statistics: str = "refreshed", float64: bool = False) -> None:
        assert statistics in STATISTICS
        self.examples, self.statistics, self.float64 = examples, statistics, float64

    def measured(self, context: ProbeContext) -> MeasuredModel:
        """A copy of the present model, in the mode and the precision of the options."""
        return MeasuredModel(context.task, self.examples, self.statistics, self.float64, held_out=self.diagnostic)


#: The names of the matrices of `optbench.curvature.operators` in figures.
MATRIX_NAMES = {
    "hessian": "Hessian",
    "gauss_newton": "Gauss-Newton matrix",
    "fisher": "Fisher matrix",
    "empirical_fisher": "empirical Fisher matrix",
}


def numbers(tensor: Tensor) -> np.ndarray:
    """``tensor`` as an array on the CPU, in float64 if it has a floating-point type."""
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
