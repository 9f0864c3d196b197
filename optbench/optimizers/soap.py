"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, require, require_betas, require_common

BASES = ("two_stage", "eigh", "identity")
_NULL = 1e-9  # of the largest eigenvalue: what lies below is rounding


class SOAP(FirstOrderOptimizer):
    """Adam on Q_Lᵀ G Q_R for a matrix of gradients G (m, n), with the eigenvectors Q_L, Q_R of averages L of G Gᵀ and R of Gᵀ G.

    The first gradient makes L, R and the bases, and no step. In the k-th step after it, with averages M of G, V of (Q_Lᵀ G Q_R)²

        θ ← θ - lr √(1 - β₂ᵏ)/(1 - β₁ᵏ) Q_L [Q_Lᵀ M Q_R / (√V + ε)] Q_Rᵀ,    then θ ← (1 - lr λ) θ

    and L, R move by (1 - β₂). Every ``period`` steps a basis is refreshed by one step of the power method: its columns are
    ordered by the diagonal of Qᵀ L Q, with those of V, and Q ← qr((L + δ tr(L)/m I) Q). Kernels are matrices of their outputs and
    the rest; a dimension above ``max_size`` keeps its coordinates; vectors take the step of Adam, but no first one.

    first_basis: after one gradient L or R is singular, and rounding decides on the eigenvectors of its null space, to which Adam
    is sensitive: with the authors' "eigh" and ``shift`` δ = 0 the result depends on the micro-batches. "two_stage" takes for the
    null space the eigenvectors of a fixed diagonal matrix within it; "identity" starts from the coordinates.

    Source: Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson & Kakade 2024, "SOAP: improving and stabilizing Shampoo
    using Adam" (arXiv 2409.11321), algorithm 3, and its authors' code. The two-stage basis and δ are ours.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        period: int = 10,
        max_size: int = 10000,
        first_basis: str = "two_stage",
        shift: float = 1e-5,
        weight_decay: float = 0.01,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(eps >= 0, "eps", eps, ">= 0")
        require(period >= 1, "period", period, ">= 1")
        require(max_size >= 0, "max_size", max_size, ">= 0")
        require(first_basis in BASES, "first_basis", first_basis, f"one of {', '.join(BASES)}")
        require(shift >= 0, "shift", shift, ">= 0")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._period, self._max_size, self._first_basis, self._shift = period, max_size, first_basis, shift

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            self._move(group, parameter, gradient)

    def _move(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        matrix = gradient.flatten(1) if gradient.ndim > 1 else gradient
        factors = self._factors(matrix)
        if "step" not in state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(matrix), torch.zeros_like(matrix)
            for name, (left, right) in factors.items():
                state[name] = (1 - beta2) * (left @ right)
                state[f"{name}_basis"] = self._basis(state[name])
            return
        state["step"] += 1
        turned = self._turned(state, matrix)
        state["exp_avg"].lerp_(matrix, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        direction = state["exp_avg_sq"].sqrt().add_(group["eps"])
        torch.div(self._turned(state, state["exp_avg"]), direction, out=direction)
        rate = group["lr"] * (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
        parameter.add_(self._turned(state, direction, back=True).view(parameter.shape), alpha=-rate)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        for name, (left, right) in factors.items():
            state[name].addmm_(left, right, beta=beta2, alpha=1 - beta2)
        if state["step"] % self._period == 0:
            for name in factors:
                self._refresh(state, name)

    def _factors(self, matrix: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors of G Gᵀ and Gᵀ G, of the sides that have a basis."""
        if matrix.ndim < 2:
            return {}
        found = {}
        if matrix.shape[0] <= self._max_size:
            found["left"] = (matrix, matrix.T)
        if matrix.shape[1] <= self._max_size:
            found["right"] = (matrix.T, matrix)
        return found

    @staticmethod
    def _turned(state: dict[str, Any], matrix: Tensor, back: bool = False) -> Tensor:
        """Q_Lᵀ X Q_R, or ``back`` Q_L X Q_Rᵀ."""
        if "left_basis" in state:
            basis: Tensor = state["left_basis"]
            matrix = (basis if back else basis.T) @ matrix
        if "right_basis" in state:
            basis = state["right_basis"]
            matrix = matrix @ (basis.T if back else basis)
        return matrix

    def _basis(self, factor: Tensor) -> Tensor:
        """The first basis for a factor (size, size), as columns."""
        if self._first_basis == "identity":
            return torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        exact = factor.double()
        values, vectors = torch.linalg.eigh(exact)
        values, vectors = values.flip(0), vectors.flip(1)
        if self._first_basis == "two_stage":
            rank = int((values > _NULL * values[0]).sum())
            kept = vectors[:, :rank]
            rest = torch.eye(len(exact), dtype=exact.dtype, device=exact.device) - kept @ kept.T
            ladder = torch.linspace(2, 1, len(exact), dtype=exact.dtype, device=exact.device)
            vectors = torch.cat([kept, torch.linalg.eigh((rest * ladder) @ rest)[1].flip(1)[:, : len(exact) - rank]], 1)
        basis: Tensor = vectors.to(factor.dtype)
        return basis

    def _refresh(self, state: dict[str, Any], name: str) -> None:
        factor, basis = state[name], state[f"{name}_basis"]
        image = factor @ basis
        order = (image * basis).sum(0).argsort(descending=True)
        state["exp_avg_sq"] = state["exp_avg_sq"].index_select(0 if name == "left" else 1, order)
        moved = (image + self._shift * factor.trace() / len(factor) * basis)[:, order]
        # There is no QR of half precision.
        wide = moved.to(torch.promote_types(moved.dtype, torch.float32))
        state[f"{name}_basis"] = torch.linalg.qr(wide)[0].to(moved.dtype)
