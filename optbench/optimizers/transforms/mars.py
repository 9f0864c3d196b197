"""The gradient of MARS, with its variance reduced by the gradient of the step before, for any optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optbench.optimizers.base import require
from optbench.optimizers.mars import corrected
from optbench.optimizers.transforms.base import Transform


class Corrected(Transform):
    """g ← c = g + γ β/(1 - β) (g - g⁻), scaled to the norm 1 where it is longer, as `optbench.optimizers.mars.MARS` has it.

    g⁻ is the gradient of the step before, at its weights and on its batch, clipped where clipping is on. first: "same": g⁻ = g in
    the first step; "zero": 0. vectors: also correct tensors of fewer than two dimensions.

    Source: Yuan, Liu, Wu, Zhou & Gu 2024 (arXiv 2411.10438), algorithm 1 with the approximate gradient.
    """

    def __init__(self, gamma: float = 0.025, beta: float = 0.95, first: str = "same", vectors: bool = False) -> None:
        require(gamma >= 0, "gamma", gamma, ">= 0")
        require(0 <= beta < 1, "beta", beta, "in [0, 1)")
        require(first in ("same", "zero"), "first", first, "one of same, zero")
        super().__init__()
        self._gamma, self._beta, self._first, self._vectors = gamma, beta, first, vectors

    def gradient(self, parameters: list[Tensor], evaluate: Callable[[], Any] | None) -> None:
        """Correct the gradients, and remember them as they were."""
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None or (gradient.ndim < 2 and not self._vectors):
                continue
            own = gradient.clone()
            before = self.state[parameter].get(
                "gradient_before", own if self._first == "same" else torch.zeros_like(own)
            )
            gradient.copy_(corrected(own, before, self._gamma, self._beta))
            self.state[parameter]["gradient_before"] = own
