"""Sharpness-aware minimization: momentum SGD whose gradient is taken at the worst point near by."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.errors import UserError
from optbench.optimizers.base import norms, require, unhooked
from optbench.optimizers.groups import parameters_given

_TINY = 1e-12


def evaluate_above(
    closure: Callable[[], Any], weights: list[Tensor], radius: float, adaptive: bool = False, eta: float = 0.01
) -> None:
    """Replace the gradients of ``weights`` by those at θ + ε, with the ε of SAM, or of ASAM if ``adaptive``."""
    if not weights:
        return
    with torch.no_grad():
        own = [each.detach().clone() for each in weights]
        gradients = [each.grad for each in weights if each.grad is not None]
        torch._foreach_add_(weights, _ascent(weights, gradients, radius, adaptive, eta))
        with torch.enable_grad():
            closure()
        # Copied back: a difference of rounded numbers would not be the same point.
        torch._foreach_copy_(weights, own)


def _ascent(weights: list[Tensor], gradients: list[Tensor], radius: float, adaptive: bool, eta: float) -> list[Tensor]:
    """ε for every tensor."""
    if not adaptive:
        return list(torch._foreach_mul(gradients, radius / (norms(gradients).norm() + _TINY)))
    scales = [each.abs() + eta if each.ndim > 1 else torch.ones_like(each) for each in weights]
    scaled = torch._foreach_mul(gradients, scales)
    found = torch._foreach_mul(scaled, scales)
    return list(torch._foreach_mul(found, radius / (norms(list(scaled)).norm() + _TINY)))


class SAM(torch.optim.SGD):
    """A step of SGD at θ with the gradient at θ + ε, where to first order the loss is the largest; with the gradient g at θ

        SAM    ε = ρ g / ‖g‖                                          Foret et al. 2021 (arXiv 2010.01412), equation 2
        ASAM   ε = ρ T² g / ‖T g‖,   T = |θ| + η (``adaptive``)       Kwon et al. 2021 (arXiv 2102.11600), equation 7

    The norm is that of all tensors together, and both gradients are those of the whole batch, with the same dropout masks. In
    ASAM T is 1 for tensors of one dimension, as in its authors' code, whose other deviation, η for norms' scales, is left out.
    Weight decay belongs to the step of SGD: it is that of θ, and no part of ε.

    lr, momentum, weight_decay: of SGD. radius: ρ. eta: η. The loss that a step returns is that at θ.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.9,
        radius: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        weight_decay: float = 0.0,
    ) -> None:
        require(radius >= 0, "radius", radius, ">= 0")
        require(eta >= 0, "eta", eta, ">= 0")
        super().__init__(parameters_given(params), lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._radius, self._adaptive, self._eta = radius, adaptive, eta

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update from two gradients; returns the first result of ``closure``, which fills the gradients.

        Raises UserError without one.
        """
        if closure is None:
            raise UserError("SAM.step: needs a closure that evaluates the loss and its gradient, which it calls twice")
        with torch.enable_grad():
            loss = closure()
        moved = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
        evaluate_above(closure, moved, self._radius, self._adaptive, self._eta)
        unhooked(torch.optim.SGD)(self)
        return loss
