"""The gradient over the subset, and the variance of mini-batch gradients about it, in total and layer by layer."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.objective.vectors import flatten
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe


class GradientStatistics(SubsetProbe):
    """Mean and spread of the gradients of the subset's k consecutive batches of b examples each.

    With g_i the gradient of batch i and g the mean of all of them: norm ‖g‖; variance Σ‖g_i - g‖²/(k - 1), that of the
    gradient of a batch of b examples summed over coordinates; trace, b times the variance, an unbiased estimate of tr(Σ) of
    the subset's per-example gradients; signal_to_noise ‖g‖²/variance; cosine with the g of the last measurement; largest,
    the largest |entry| of g. Arrays, one entry for each parameter: layer_names, layer_norms, layer_variances.

    batch: b, by default that of training; at most half of the subset, so that there are two batches.
    """

    def __init__(self, batch: int | None = None, **subset: Any) -> None:
        super().__init__(**subset)
        self.batch = batch
        self._last: Tensor | None = None

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the statistics; the gradient is kept for the next measurement."""
        measured = self.measured(context)
        task = context.task
        inputs, targets = measured.examples()
        size = min(self.batch or task.recipe.horizon.plan.batch(task.step), len(inputs) // 2)
        if size < 1:
            raise ValueError(f"{len(inputs)} examples: the spread of gradients needs two batches")
        count = len(inputs) // size
        gradients = [
            measured.objective_of(inputs[start : start + size], targets[start : start + size]).gradient()
            for start in range(0, count * size, size)
        ]
        means, variances = [], []
        for parts in zip(*gradients, strict=True):
            stacked = torch.stack(parts).double()
            means.append(stacked.mean(0))
            variances.append(float(stacked.var(0).sum()))
        mean = flatten(means).cpu()
        norm, variance = float(mean.norm()), math.fsum(variances)
        values = {
            "norm": norm,
            "variance": variance,
            "trace": size * variance,
            "signal_to_noise": norm**2 / variance if variance > 0 else math.nan,
            "largest": float(mean.abs().max()),
            "batch": size,
        }
        if self._last is not None:
            length = norm * float(self._last.norm())
            values["cosine"] = float(mean @ self._last) / length if length > 0 else math.nan
        self._last = mean
        arrays = {
            "layer_names": np.array(
                [name for name, tensor in measured.model.named_parameters() if tensor.requires_grad]
            ),
            "layer_norms": np.array([float(tensor.norm()) for tensor in means]),
            "layer_variances": np.array(variances),
        }
        return Measurement(values, arrays)

    def state_dict(self) -> dict[str, Any]:
        """The gradient of the last measurement."""
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._last = state["last"]
