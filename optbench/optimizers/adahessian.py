"""AdaHessian: Adam whose second moments are those of an estimate of the diagonal of the Hessian."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_betas, require_common
from optbench.optimizers.groups import parameters_given
from optbench.optimizers.hutchinson import OfHessianDiagonal, hessian_diagonal

AVERAGES = ("absolute", "signed", "none")


class AdaHessian(OfHessianDiagonal):
    """θ ← θ - lr [m̂ / (v̂^(p/2) + ε) + λ θ], where v averages D² for an estimate D of the diagonal of the Hessian of the batch.

    m̂ and v̂ are averages of g and of D² with decays β₁ and β₂ and Adam's bias correction. D = z ∘ H z with random signs z, one
    product with the Hessian a step. Within each window of a convolution's kernel D is replaced by its mean, of |D| with
    ``spatial_average="absolute"`` (the authors' code), of D with "signed" (as the paper has it), or by none.

    hessian_power: p. seed: z is a function of (seed, step, name of the tensor, position in it).

    Source: Yao, Gholami, Shen, Mustafa, Keutzer & Mahoney 2021, "AdaHessian: an adaptive second order optimizer for machine
    learning" (arXiv 2006.00719), algorithm 1, and its authors' code. Decay is decoupled, as in the code.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        hessian_power: float = 1.0,
        spatial_average: str = "absolute",
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(eps >= 0, "eps", eps, ">= 0")
        require(0 < hessian_power <= 1, "hessian_power", hessian_power, "in (0, 1]")
        require(spatial_average in AVERAGES, "spatial_average", spatial_average, f"one of {', '.join(AVERAGES)}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(parameters_given(params), defaults)
        self._power, self._average, self._seed = hessian_power, spatial_average, seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update on the batch of ``closure``, an ``Objective``; returns its loss.

        Raises UserError for another closure, which has no products with its Hessian.
        """
        objective = krylov.require_objective(closure, type(self).__name__)
        with torch.enable_grad():
            loss = objective()
        step = self.param_groups[0]["step"]
        diagonal = hessian_diagonal(objective, self._seed, step)
        for group in self.param_groups:
            group["step"] = step + 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(group, parameter, parameter.grad, self._averaged(diagonal[id(parameter)]))
        return loss

    def _averaged(self, diagonal: Tensor) -> Tensor:
        """D, or its means over the windows of a kernel."""
        if self._average == "none" or diagonal.ndim < 3:
            return diagonal
        window = tuple(range(2, diagonal.ndim))
        chosen = diagonal.abs() if self._average == "absolute" else diagonal
        return chosen.mean(window, keepdim=True).expand_as(diagonal)

    def _move(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, diagonal: Tensor) -> None:
        state, (beta1, beta2), step = self.state[parameter], group["betas"], group["step"]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(diagonal, diagonal, value=1 - beta2)
        root = (state["exp_avg_sq"] / (1 - beta2**step)).pow_(self._power / 2).add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - beta1**step))
