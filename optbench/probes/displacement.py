"""The distance of the weights from the start and from the last measurement, in total and layer by layer.

In the ultra-slow diffusion of Hoffer et al. 2017 ("Train longer, generalize better", section 3) the distance from the start
grows like log t for every batch size, if the learning rate is adapted to it.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.probes.base import Measurement, Probe, ProbeContext


class Displacement(Probe):
    """Euclidean distances in float64 over all parameters.

    distance: from the weights before the first step, which are computed again from the seed. moved: from those of the last
    measurement (at the first one, from the start). path: the sum of all ``moved`` so far, a lower bound of the length of the
    path. norm: of the weights. Arrays: layer_names and layer_distances (from the start), one entry for each parameter.
    """

    def __init__(self) -> None:
        self._last: list[Tensor] | None = None
        self._path = 0.0

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the distances; the weights are kept for the next measurement."""
        now = [parameter.detach() for parameter in context.task.model.parameters()]
        start = context.initial()
        layers = _distances(now, start)
        last = start if self._last is None else [tensor.to(now[0].device) for tensor in self._last]
        moved = math.hypot(*_distances(now, last))
        self._path += moved
        self._last = [tensor.cpu().clone() for tensor in now]
        values = {
            "distance": math.hypot(*layers),
            "moved": moved,
            "path": self._path,
            "norm": math.hypot(*(float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in now)),
        }
        return Measurement(values, {"layer_names": np.array(context.layer_names), "layer_distances": np.array(layers)})

    def state_dict(self) -> dict[str, Any]:
        """The weights of the last measurement and the length of the path."""
        return {"last": self._last, "path": self._path}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._last, self._path = state["last"], state["path"]


def _distances(now: list[Tensor], then: list[Tensor]) -> list[float]:
    return [
        float(torch.linalg.vector_norm(one.double() - other.double())) for one, other in zip(now, then, strict=True)
    ]
