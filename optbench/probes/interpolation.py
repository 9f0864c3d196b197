"""Loss and accuracy on the straight line from the initial weights, or from another run's weights, to the present ones."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from optbench.curvature.surfaces import evaluation, interpolation, model_state
from optbench.errors import UserError
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe, numbers
from optbench.probes.measured import MeasuredModel
from optbench.store import StoreError, find
from optbench.training import checkpointing


class Interpolation(SubsetProbe):
    """Train and test loss and accuracy at θ₀ + x (θ - θ₀), as in Goodfellow, Vinyals & Saxe 2015 and Keskar et al. 2017.

    θ: the present weights. θ₀: the weights before the first step or, with ``other``, those of the last checkpoint of another
    run of the same model (a run id, or the beginning or end of one, in the same results folder). "refreshed" statistics of
    batch norm are computed at every point; "running" statistics are interpolated between two runs, and on the line from the
    start the present ones are used at all points.
    points: on [first, last]; 0 is θ₀, and 1 is θ.

    Arrays: positions, train_loss, test_loss, train_accuracy, test_accuracy. Values: barrier, the largest height of the train
    loss between θ₀ and θ above the straight line between its two ends (0 if it is nowhere above).
    """

    diagnostic = True

    def __init__(
        self, other: str | None = None, points: int = 25, first: float = -0.5, last: float = 1.5, **subset: Any
    ) -> None:
        super().__init__(**subset)
        self.other, self.points, self.first, self.last = other, points, first, last

    def check(self, context: ProbeContext) -> None:
        """Raise UserError if the other run does not exist, or has another model."""
        if not self.first < self.last:
            raise UserError(
                f"probe.interpolation.first={self.first}, last={self.last}: accepted is a first below the last"
            )
        if self.other is not None:
            self._other_state(context)

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the line."""
        measured = self.measured(context)
        if self.other is None:
            here = [parameter.detach() for parameter in measured.model.parameters()]
            there = [tensor.to(here[0]) for tensor in context.initial()]
        else:
            here, there = model_state(measured.model), self._other(context)
        objectives = {split: measured.objective(split) for split in ("train", "test")}

        def look() -> dict[str, float]:
            measured.refresh()
            found = {}
            for split, objective in objectives.items():
                found[f"{split}_loss"], found[f"{split}_accuracy"] = objective.evaluate(measured.spec)
            return found

        positions = np.linspace(self.first, self.last, self.points).tolist()
        way = interpolation(evaluation(measured.model, look), there, here, positions)
        arrays = {"positions": np.array(positions)} | {name: numbers(values) for name, values in way.values.items()}
        ends = interpolation(evaluation(measured.model, look), there, here, [0.0, 1.0]).values["train_loss"].tolist()
        return Measurement({"barrier": _barrier(arrays["positions"], arrays["train_loss"], *ends)}, arrays)

    def _other(self, context: ProbeContext) -> list[Tensor]:
        """The parameters and the floating-point buffers of the other run's model, in the measured mode."""
        task = context.task
        model = MeasuredModel(task, self.examples, self.statistics, self.float64, self._other_state(context))
        return model_state(model.model)

    def _other_state(self, context: ProbeContext) -> dict[str, Tensor]:
        assert self.other is not None
        if context.directory is None:
            raise UserError(f"probe.interpolation.other={self.other}: needs a run directory to look beside")
        run = find(context.directory.path.parents[1], self.other)
        if not run.checkpoint.is_file():
            raise UserError(f"probe.interpolation.other={self.other}: run {run.run_id} has no checkpoint")
        try:
            state = checkpointing.final_weights(checkpointing.load(run.checkpoint, run.run_id))
        except StoreError as error:
            raise UserError(f"probe.interpolation.other={self.other}: {error}") from error
        own = context.task.model.state_dict()
        if {name: tensor.shape for name, tensor in state.items()} != {name: own[name].shape for name in own}:
            raise UserError(f"probe.interpolation.other={self.other}: run {run.run_id} has another model")
        return state


def _barrier(positions: np.ndarray, losses: np.ndarray, start: float, end: float) -> float:
    inside = (positions > 0) & (positions < 1)
    above = losses[inside] - (start + positions[inside] * (end - start))
    if not np.isfinite(above).all():
        return math.inf
    return float(max(above.max(initial=0.0), 0.0))
