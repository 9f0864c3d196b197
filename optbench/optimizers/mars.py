"""MARS-AdamW: Adam's averages of gradients whose variance a correction by the gradient before has reduced."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.errors import UserError
from optbench.optimizers.base import FirstOrderOptimizer, require, require_betas, require_common


def corrected(gradient: Tensor, before: Tensor, gamma: float, beta: float) -> Tensor:
    """c = g + γ β/(1 - β) (g - g⁻), scaled to the norm 1 where it is longer; a new tensor."""
    found: Tensor = gradient + gamma * beta / (1 - beta) * (gradient - before)
    length: Tensor = found.norm().clamp(min=1.0)
    return found / length


class MARS(FirstOrderOptimizer):
    """AdamW on c = g + γ β₁/(1 - β₁) (g - g⁻), which is scaled to the norm 1 for each tensor where it is longer.

        θ ← θ - lr [m̂ / (√v̂ + ε) + λ θ]    with Adam's averages m of c and v of c²

    g⁻ is the gradient of the last step, at its weights and on its batch; with ``exact``, the gradient at those weights on the
    present batch, for a second evaluation a step. In the first step g⁻ = g; with ``first="zero"``, as the authors' code has it,
    it is 0.

    gamma: γ. vectors: also correct and scale tensors of fewer than two dimensions, which otherwise take the step of AdamW. (Its
    authors give those a learning rate and betas of their own.) The norms are those of whole tensors.

    Source: Yuan, Liu, Wu, Zhou & Gu 2024, "MARS: Unleashing the power of variance reduction for training large models" (arXiv
    2411.10438), algorithm 2, and its authors' code.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        gamma: float = 0.025,
        exact: bool = False,
        first: str = "same",
        vectors: bool = False,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(gamma >= 0, "gamma", gamma, ">= 0")
        require(first in ("same", "zero"), "first", first, "one of same, zero")
        require(eps >= 0, "eps", eps, ">= 0")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._gamma, self._exact, self._first, self._vectors = gamma, exact, first, vectors

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; returns the first result of ``closure``. Raises UserError without one if ``exact``."""
        if not self._exact:
            return super().step(closure)
        if closure is None:
            raise UserError("MARS.step: exact=True needs a closure that evaluates the loss and its gradient")
        with torch.enable_grad():
            loss = closure()
        given = [each for group in self.param_groups for each in group["params"]]
        moved = [each for each in given if "weights_before" in self.state[each]]
        own, gradients = [each.detach().clone() for each in given], [each.grad for each in given]
        gradients = [None if each is None else each.clone() for each in gradients]
        if moved:
            torch._foreach_copy_(moved, [self.state[each]["weights_before"] for each in moved])
            with torch.enable_grad():
                closure()
            torch._foreach_copy_(given, own)
        for parameter, weights, gradient in zip(given, own, gradients, strict=True):
            if gradient is not None:
                if moved and parameter.grad is not None:
                    self.state[parameter]["gradient_before"] = parameter.grad.clone()
                self.state[parameter]["weights_before"] = weights
            parameter.grad = gradient
        super().step()
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        corrected = [self._corrected(group, *pair) for pair in zip(parameters, gradients, strict=True)]
        directions = self._adam_directions(parameters, corrected, group["betas"], group["eps"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])

    def _corrected(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
        """c, from g and g⁻, which this g replaces."""
        if parameter.ndim < 2 and not self._vectors:
            return gradient
        state = self.state[parameter]
        before = state.get("gradient_before", gradient if self._first == "same" else torch.zeros_like(gradient))
        if not self._exact:
            state["gradient_before"] = gradient.clone()
        return corrected(gradient, before, self._gamma, group["betas"][0])
