"""Lion: the sign of a momentum."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, require_betas, require_common


class Lion(FirstOrderOptimizer):
    """Every coordinate moves by lr against the sign of an interpolated momentum.

    With the gradient g, momentum m, learning rate η and weight decay λ (decoupled: it is outside of the sign)

        c = β₁m + (1 - β₁)g,    w ← w - η(sign(c) + λw),    m ← β₂m + (1 - β₂)g.

    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms" (arXiv 2302.06675), algorithm 2.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        momenta = self._buffers("exp_avg", parameters)
        directions = torch._foreach_lerp(momenta, gradients, 1 - beta1)
        torch._foreach_sign_(directions)
        torch._foreach_lerp_(momenta, gradients, 1 - beta2)
        if group["weight_decay"] > 0:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-lr)
