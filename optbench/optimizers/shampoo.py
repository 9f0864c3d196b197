"""Shampoo: a preconditioner for each dimension of a matrix, with the length of Adam's step."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, require, require_betas, require_common

GRAFTS = ("adam", "none")
# Up to this size roots are taken in float64: a small eigenvalue is lost in the rounding of the largest one in float32.
_DOUBLE = 2048
_TINY = 1e-16


class Shampoo(FirstOrderOptimizer):
    """θ ← θ - lr (D + λ θ) with, for a matrix of gradients G (m, n), averages L of G Gᵀ and R of Gᵀ G with decay β₂,

        D = (L̂ + ε I)^(-1/4) M̂ (R̂ + ε I)^(-1/4),    M̂: Adam's average of G; L̂, R̂, M̂ with its bias correction

    and with ``graft="adam"`` D scaled to the norm of Adam's step M̂ / (√V̂ + ``graft_eps``), tensor by tensor (Anil et al. 2020,
    Agarwal et al. 2020). Roots are taken every ``period`` steps, from step ``start`` on (``period`` by default); until then
    D is Adam's step. Kernels are matrices of their outputs and the rest. A dimension above ``max_size`` has no preconditioner,
    and vectors take Adam's step.

    relative_eps: ε in units of the mean eigenvalue of L̂, or R̂. A gradient that a stale factor does not know is enlarged by up
    to (λ_max/ε)^(1/4) on each side, which no graft takes back.

    Source: Gupta, Koren & Singer 2018 (arXiv 1802.09568); averages, grafting and the default betas: Shi et al. 2023, "A
    distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer" (arXiv 2309.06497), algorithm 2.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        relative_eps: bool = True,
        period: int = 10,
        start: int | None = None,
        graft: str = "adam",
        graft_eps: float = 1e-8,
        max_size: int = 2048,
        weight_decay: float = 0.0,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(eps >= 0, "eps", eps, ">= 0")
        require(period >= 1, "period", period, ">= 1")
        require(start is None or start >= 1, "start", start, ">= 1, or null")
        require(graft in GRAFTS, "graft", graft, f"one of {', '.join(GRAFTS)}")
        require(graft_eps >= 0, "graft_eps", graft_eps, ">= 0")
        require(max_size >= 0, "max_size", max_size, ">= 0")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self._eps, self._relative, self._period, self._start = eps, relative_eps, period, start or period
        self._grafts, self._graft_eps, self._max_size = graft == "adam", graft_eps, max_size

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        adam = self._adam_directions(parameters, gradients, group["betas"], self._graft_eps)
        directions = [
            self._direction(group, parameter, gradient, step)
            for parameter, gradient, step in zip(parameters, gradients, adam, strict=True)
        ]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])

    def _direction(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, adam: Tensor) -> Tensor:
        """D for one tensor, whose step of Adam is ``adam``."""
        if gradient.ndim < 2:
            return adam
        state, (beta1, beta2), matrix = self.state[parameter], group["betas"], gradient.flatten(1)
        step = state["step"]
        sides = [name for name, size in zip(("left", "right"), matrix.shape, strict=True) if size <= self._max_size]
        for name in sides:
            factors = (matrix, matrix.T) if name == "left" else (matrix.T, matrix)
            if name not in state:
                state[name] = matrix.new_zeros(len(factors[0]), len(factors[0]))
            state[name].addmm_(*factors, beta=beta2, alpha=1 - beta2)
            if step >= self._start and (step == self._start or step % self._period == 0):
                state[f"{name}_root"] = self._root(state[name] / (1 - beta2**step))
        if step < self._start or not sides:
            return adam
        found: Tensor = state["exp_avg"].flatten(1) / (1 - beta1**step)
        if "left" in sides:
            found = state["left_root"] @ found
        if "right" in sides:
            found = found @ state["right_root"]
        if self._grafts:
            found = found * (adam.norm() / (found.norm() + _TINY))
        return found.view(gradient.shape)

    def _root(self, factor: Tensor) -> Tensor:
        """(factor + ε I)^(-1/4)."""
        size = len(factor)
        exact = factor.double() if size <= _DOUBLE else factor
        values, vectors = torch.linalg.eigh(exact)
        shift = self._eps * values.clamp(min=0).mean() if self._relative else self._eps
        # Rounding may leave an eigenvalue of a singular matrix a little below zero.
        shifted = (values.clamp(min=0) + shift).clamp(min=torch.finfo(exact.dtype).tiny)
        root: Tensor = (vectors * shifted**-0.25) @ vectors.T
        return root.to(factor.dtype)
