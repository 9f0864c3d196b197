"""AdEMAMix: AdamW with a second, slow average of the gradients."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, require, require_betas, require_common


class AdEMAMix(FirstOrderOptimizer):
    """θ ← θ - lr [(m̂₁ + α_k m₂) / (√v̂ + ε) + λ θ] with a fast average m₁ and a slow one m₂ of the gradients, in step k from 1.

    m₁ and v are those of Adam, with bias correction. m₂ has none, and the decay β₃: with ``half_life`` h, β₃ = 2^(-1/h). Over
    the first ``warmup`` = T steps

        α_k = α min(k/T, 1),    β₃,k = exp[ln β₁ ln β₃ / ((1 - k/T) ln β₃ + (k/T) ln β₁)]

    so that the half-life of m₂ grows linearly from that of m₁.

    alpha: α. warmup: T, in steps; 0 for none. half_life: h, in steps, at least 1.

    Source: Pagliardini, Ablin & Grangier 2024, "The AdEMAMix optimizer: better, faster, older" (arXiv 2409.03137), algorithm 1
    and equation for β₃. Their β₃ = 0.9999 is a half-life of 6,931 steps.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        half_life: float = 6931.0,
        alpha: float = 5.0,
        warmup: int = 0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(betas[0] > 0, "beta1", betas[0], "in (0, 1)")
        require(half_life >= 0, "half_life", half_life, ">= 0")
        require(alpha >= 0, "alpha", alpha, ">= 0")
        require(warmup >= 0, "warmup", warmup, ">= 0")
        require(eps >= 0, "eps", eps, ">= 0")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._half_life, self._alpha, self._warmup = max(half_life, 1.0), alpha, warmup

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        (beta1, beta2), eps = group["betas"], group["eps"]
        averages, slow, squares = (
            self._buffers(name, parameters) for name in ("exp_avg", "exp_avg_slow", "exp_avg_sq")
        )
        steps = []
        for parameter in parameters:
            self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
            steps.append(self.state[parameter]["step"])
        torch._foreach_lerp_(averages, gradients, 1 - beta1)
        for average, gradient, step in zip(slow, gradients, steps, strict=True):
            average.lerp_(gradient, 1 - self._slow_decay(step, beta1))
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, [(1 - beta2**step) ** 0.5 for step in steps])
        torch._foreach_add_(denominators, eps)
        directions = torch._foreach_div(averages, [1 - beta1**step for step in steps])
        weights = [self._alpha * self._share(step) for step in steps]
        torch._foreach_add_(directions, torch._foreach_mul(slow, weights))
        torch._foreach_div_(directions, denominators)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])

    def _share(self, step: int) -> float:
        """min(k/T, 1)."""
        return min(step / self._warmup, 1.0) if self._warmup else 1.0

    def _slow_decay(self, step: int, beta1: float) -> float:
        """β₃ of step k."""
        share, slow, fast = self._share(step), -math.log(2) / self._half_life, math.log(beta1)
        return math.exp(fast * slow / ((1 - share) * slow + share * fast))
