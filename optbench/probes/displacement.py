"""The distance of the weights from the start, or the first measurement, and from the last one, in total and layer by layer.

In the ultra-slow diffusion of Hoffer et al. 2017 ("Train longer, generalize better", section 3) the distance from the start
grows like log t for every batch size, if the learning rate is adapted to it.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.probes.base import Measurement, Probe, ProbeContext

ORIGINS = ("start", "first_measurement")


class Displacement(Probe):
    """Euclidean distances in float64 over all parameters.

    since: the origin, "start" for the weights before the first step, which are computed again from the seed, or
    "first_measurement" for those at the first measurement of this probe, which are kept. distance: from the origin. moved:
    from the weights of the last measurement (at the first one, from the origin). path: the sum of all ``moved`` so far, a
    lower bound of the length of the path. norm: of all parameters; weight_norm: of those with two or more axes, without biases
    and the scales of batch norm. Arrays: layer_names and layer_distances (from the origin), one entry for each parameter.
    """

    at = "training"

    def __init__(self, since: str = "start") -> None:
        assert since in ORIGINS
        self.since = since
        self._first: list[Tensor] | None = None
        self._last: list[Tensor] | None = None
        self._path = 0.0

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the distances; the weights are kept for the next measurement."""
        now = [parameter.detach() for parameter in context.task.model.parameters()]
        start = context.initial() if self.since == "start" else self._origin(now)
        layers = _distances(now, start)
        last = start if self._last is None else [tensor.to(now[0].device) for tensor in self._last]
        moved = math.hypot(*_distances(now, last))
        self._path += moved
        self._last = [tensor.cpu().clone() for tensor in now]
        norms = [float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in now]
        values = {
            "distance": math.hypot(*layers),
            "moved": moved,
            "path": self._path,
            "norm": math.hypot(*norms),
            "weight_norm": math.hypot(*(norm for norm, tensor in zip(norms, now, strict=True) if tensor.ndim > 1)),
        }
        return Measurement(values, {"layer_names": np.array(context.layer_names), "layer_distances": np.array(layers)})

    def _origin(self, now: list[Tensor]) -> list[Tensor]:
        if self._first is None:
            self._first = [tensor.cpu().clone() for tensor in now]
        return [tensor.to(now[0].device) for tensor in self._first]

    def state_dict(self) -> dict[str, Any]:
        """The weights of the first (if they are the origin) and of the last measurement, and the length of the path."""
        return {"first": self._first, "last": self._last, "path": self._path}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._first = state.get("first")  # checkpoints of earlier versions lack it
        self._last, self._path = state["last"], state["path"]


def _distances(now: list[Tensor], then: list[Tensor]) -> list[float]:
    return [
        float(torch.linalg.vector_norm(one.double() - other.double())) for one, other in zip(now, then, strict=True)
    ]
