"""Sophia: momentum over an average of the diagonal of the Hessian, entry by entry and clipped."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_betas, require_common
from optbench.optimizers.groups import parameters_given
from optbench.optimizers.hutchinson import OfHessianDiagonal, hessian_diagonal
from optbench.optimizers.periods import kinds_of_steps


class Sophia(OfHessianDiagonal):
    """θ ← θ - lr [clip(m / max(γ h, ε), -1, 1) + λ θ] with averages m of gradients and h of estimates of the Hessian's diagonal.

        m ← β₁ m + (1 - β₁) g                   every step
        h ← β₂ h + (1 - β₂) z ∘ H z             every ``period``-th step, from the first on; z: random signs

    without bias corrections. Entries with a small or negative h move by lr, in the direction of the sign of m. A product with the
    Hessian of the batch is taken once in ``period`` steps.

    gamma: γ. seed: z is a function of (seed, number of the estimate, name of the tensor, position in it). ``diagnostics`` holds
    unclipped, the share of entries that were not clipped in the last step with a product.

    Source: Liu, Li, Hall, Liang & Ma 2023, "Sophia: a scalable stochastic second-order optimizer for language model pre-training"
    (arXiv 2305.14342), algorithm 3 with the estimator of algorithm 1, whose z is Gaussian: signs have less variance.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.96, 0.99),
        gamma: float = 0.01,
        period: int = 10,
        eps: float = 1e-12,
        weight_decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(gamma > 0, "gamma", gamma, "> 0")
        require(period >= 1, "period", period, ">= 1")
        require(eps > 0, "eps", eps, "> 0")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(parameters_given(params), defaults)
        self._gamma, self._period, self._seed = gamma, period, seed

    @property
    def diagnostics(self) -> dict[str, float]:
        """The share of entries that were not clipped, if there was a product."""
        share = self.param_groups[0].get("unclipped")  # in a group, as a run that continues writes the same history
        return {} if share is None else {"unclipped": share}

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        return int(self.param_groups[0]["step"])

    @steps.setter
    def steps(self, value: int) -> None:
        for group in self.param_groups:
            group["step"] = value

    def kinds_of_steps(self) -> list[tuple[int, Fraction]]:
        """A value of ``steps`` at the start of each kind of step, and the share of such steps."""
        return kinds_of_steps(self._period)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update on the batch of ``closure``, an ``Objective``; returns its loss.

        Raises UserError for another closure, which has no products with its Hessian.
        """
        objective = krylov.require_objective(closure, type(self).__name__)
        with torch.enable_grad():
            loss = objective()
        diagonal = None
        if self.steps % self._period == 0:
            diagonal = hessian_diagonal(objective, self._seed, self.steps // self._period)
        self.steps += 1
        counts: list[Tensor] = []
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"], state["hessian"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
                if diagonal is not None:
                    state["hessian"].lerp_(diagonal[id(parameter)], 1 - beta2)
                ratio = state["exp_avg"] / (self._gamma * state["hessian"]).clamp_(min=group["eps"])
                if diagonal is not None:
                    counts.append((ratio.abs() < 1).sum())
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(ratio.clamp_(-1, 1), alpha=-group["lr"])
        if counts:
            entries = sum(parameter.numel() for group in self.param_groups for parameter in group["params"])
            self.param_groups[0]["unclipped"] = float(torch.stack(counts).sum()) / entries
        return loss
