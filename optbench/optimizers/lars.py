"""LARS: layer-wise adaptive rate scaling."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, norms, require, require_common


class LARS(FirstOrderOptimizer):
    """Momentum SGD whose learning rate for each tensor w is proportional to ‖w‖ / ‖g‖.

    With the gradient g, learning rate γ (``lr``), trust coefficient η, momentum μ, weight decay β, and for each tensor

        λ = η‖w‖ / (‖g‖ + β‖w‖ + ε),   λ = 1 where ‖w‖ = 0 or ‖g‖ = 0,

    one step is

        v ← μv + λ(g + βw),    w ← w - γv       (the form of the PyTorch ports; the default)
        v ← μv + γλ(g + βw),   w ← w - v        (``lr_in_momentum=True``; the paper's form)

    The two agree while γ is constant; when γ drops, the paper's form keeps the present velocity. Biases and the scales
    of norms (tensors of fewer than two dimensions) take λ = 1 and β = 0, unless ``always_adapt``. ``nesterov``: u + μv
    replaces v in the second equation, where u is the term added to μv. ``clip`` replaces λ by min(λ/γ, 1), so that no
    tensor moves faster than plain momentum at lr γ (LARC).

    Source: You, Gitman & Ginsburg 2017, "Large batch training of convolutional networks" (arXiv 1708.03888),
    algorithm 1. Not in the paper: ε (0 gives the paper's λ), the exclusions (of the later large-batch
    training codes), Nesterov's form, and the clip (of NVIDIA's apex).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        nesterov: bool = False,
        lr_in_momentum: bool = False,
        clip: bool = False,
        always_adapt: bool = False,
    ) -> None:
        require_common(lr, weight_decay)
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        require(trust_coefficient > 0, "trust_coefficient", trust_coefficient, "> 0")
        require(eps >= 0, "eps", eps, ">= 0")
        require(momentum > 0 or not nesterov, "nesterov", nesterov, "false where momentum is 0")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "lr_in_momentum": lr_in_momentum,
            "clip": clip,
            "always_adapt": always_adapt,
        }
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        directions = list(gradients)
        adapted = [i for i, weight in enumerate(parameters) if group["always_adapt"] or weight.ndim > 1]
        if adapted:
            scaled = self._adapt(group, [parameters[i] for i in adapted], [gradients[i] for i in adapted])
            for i, direction in zip(adapted, scaled, strict=True):
                directions[i] = direction
        if group["lr_in_momentum"]:
            directions = list(torch._foreach_mul(directions, lr))
        if momentum > 0:
            velocities = self._buffers("momentum_buffer", parameters)
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, directions)
            if group["nesterov"]:
                directions = list(torch._foreach_add(directions, velocities, alpha=momentum))
            else:
                directions = velocities
        torch._foreach_add_(parameters, directions, alpha=-1.0 if group["lr_in_momentum"] else -lr)

    @staticmethod
    def _adapt(group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> tuple[Tensor, ...]:
        """λ(g + βw) for each tensor."""
        decay = group["weight_decay"]
        weight_norms, gradient_norms = norms(weights), norms(gradients)
        rates = group["trust_coefficient"] * weight_norms / (gradient_norms + decay * weight_norms + group["eps"])
        if group["clip"]:
            rates = (rates / group["lr"]).clamp(max=1.0) if group["lr"] > 0 else torch.ones_like(rates)
        rates = torch.where((weight_norms > 0) & (gradient_norms > 0), rates, 1.0)
        directions = torch._foreach_add(gradients, weights, alpha=decay)
        torch._foreach_mul_(directions, rates.unbind())
        return tuple(directions)
