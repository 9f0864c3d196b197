"""Centralized gradients: those of each output of a layer less their mean."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from optbench.optimizers.transforms.base import Transform


class Centralize(Transform):
    """For each tensor of two or more dimensions g_i ← g_i - mean(g_i), with g_i the gradient of the weights of output i.

    The gradients are those that the optimizer sees: clipped where clipping is on, and before any weight decay.

    Source: Yong, Huang, Hua & Zhang 2020, "Gradient centralization" (arXiv 2004.01461), equation 1.
    """

    def gradient(self, parameters: list[Tensor], evaluate: Callable[[], Any] | None) -> None:
        """Subtract the means over all dimensions but the first."""
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is not None and gradient.ndim > 1:
                gradient.sub_(gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True))
