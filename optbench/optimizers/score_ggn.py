"""SCoRe-GGN: the Gauss-Newton method with a self-concordant regularizer that damps it and sets its step length."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optbench.objective import Objective
from optbench.optimizers import dense_gauss_newton as dense
from optbench.optimizers import krylov
from optbench.optimizers.base import require
from optbench.optimizers.groups import trainable


class Regularizer(NamedTuple):
    """h(w) = Σ φ_μ(w_i): its value, first and second derivatives in each w_i, and its self-concordance.

    (M, ν) are those of φ_1: |φ'''| <= M φ''^(ν/2). For φ_μ(w) = μ φ_1(w/μ), M becomes M μ^(ν/2 - 2).
    """

    value: Callable[[Tensor, float], Tensor]
    derivatives: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    constant: float
    order: float


def _pseudo_huber(weights: Tensor, scale: float) -> Tensor:
    return torch.hypot(weights, torch.full_like(weights, scale)) - scale


def _pseudo_huber_derivatives(weights: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    root = torch.hypot(weights, torch.full_like(weights, scale))
    return weights / root, scale**2 / root**3


def _logarithmic(weights: Tensor, scale: float) -> Tensor:
    root = torch.hypot(2 * weights / scale, torch.ones_like(weights))
    # (s - 1) / (2 t²) = 2 / (s + 1), which is also defined at t = 0.
    return 0.5 * scale * (root - 1 - ((root + 1) / 2).log())


def _logarithmic_derivatives(weights: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    ratio = weights / scale
    root = torch.hypot(2 * ratio, torch.ones_like(weights))
    return 2 * ratio / (root + 1), 2 / (root * (root + 1)) / scale


def _squared(weights: Tensor, scale: float) -> Tensor:
    return 0.5 * weights.square()


def _squared_derivatives(weights: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return weights, torch.ones_like(weights)


REGULARIZERS = {
    # √(μ² + w²) - μ, a smooth |w|. sup |φ'''| / φ''^1.3 = 2.5372 at w² = 10 μ²; the published constant is 2.
    "pseudo_huber": Regularizer(_pseudo_huber, _pseudo_huber_derivatives, 2.54, 2.6),
    # μ/2 [s - 1 + ln((s - 1) / (2 t²))] with t = w/μ and s = √(1 + 4 t²): Ostrovskii & Bach 2021.
    "logarithmic": Regularizer(_logarithmic, _logarithmic_derivatives, 2 * math.sqrt(2), 3.0),
    # w²/2 for every μ: damping by the identity, and steps with the factor lr.
    "l2": Regularizer(_squared, _squared_derivatives, 0.0, 3.0),
}


class SCoReGGN(dense.DenseGaussNewton):
    """Minimizes L(w) + λ h(w) by Gauss-Newton steps whose damping matrix is λ times the Hessian of h, which is diagonal.

    With the gradient g and the Gauss-Newton matrix G of the batch's mean loss L, P parameters, and h' and H_h the first
    and second derivatives of the regularizer h of scale μ, (M, ν)-self-concordant (see ``REGULARIZERS``)

        δ = -(G + λ H_h)⁻¹ (g + λ h'),    w ← w + α δ,    α = min(1, lr / (1 + M_g η)),
        η = λ √(h'ᵀ H_h⁻¹ h'),            M_g = P^((3-ν)/2) μ^(ν/2-2) M for ν <= 3, μ^(4-3ν/2) M for ν > 3.

    step takes an ``optbench.objective.Objective``, whose loss is L without the regularizer. weight: λ. scale: μ. constant: M,
    None for the regularizer's own. floor: the smallest entry of H_h, which goes to 0 if |w| is much larger than μ. halvings:
    the theory is for convex losses; otherwise L + λh may rise. Then α is halved on the same batch, at most this many times,
    and the step is left out if L + λh still rises; 0 takes every step unchanged. curvature, solver and memory_limit are those
    of ``dense_gauss_newton.SquareRoot``. evaluation_mode: minimize the loss of the model in eval mode, without dropout and
    with the running statistics of batch norm; in train mode, batch norm takes a backward pass for every output of every
    example.

    damping "scaled" is λ H_h as above; "published" is H_h, which the authors' package uses if the batch has fewer outputs
    than the model has parameters; it gives the Gauss-Newton step only for λ = 1. decrement "published" is η as above, as in
    their code; "own_metric" is √λ √(h'ᵀ H_h⁻¹ h'), the Newton decrement of λh in the metric of its Hessian λ H_h. The proximal
    step for regularizers that are not smooth is not implemented.

    ``diagnostics`` describes the last step: decrement (η), factor (α, 0 for a step left out), objective (L + λh at its start)
    and step_norm.

    Source: Adeoye & Bemporad 2021/2023, "SCORE: approximating curvature information under self-concordant regularization"
    (arXiv 2112.07344), and the authors' code; Adeoye, Petersen & Bemporad 2024 (arXiv 2404.14875). δ equals the solution of
    their system for batches of few outputs, solved here in a symmetric form. Halving is our own.

    Raises: UserError from ``step`` and ``check`` for a Jacobian that is too large or a loss of unknown curvature.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.5,
        regularizer: str = "pseudo_huber",
        weight: float = 1e-4,
        scale: float = 1.0,
        constant: float | None = None,
        floor: float = 1e-8,
        halvings: int = 10,
        damping: str = "scaled",
        decrement: str = "published",
        curvature: str = "gauss_newton",
        solver: str = "auto",
        memory_limit: int = 2**31,
        evaluation_mode: bool = True,
    ) -> None:
        require(0 <= lr <= 1, "lr", lr, "in [0, 1]")
        require(regularizer in REGULARIZERS, "regularizer", regularizer, f"one of {', '.join(REGULARIZERS)}")
        require(weight > 0, "weight", weight, "> 0")
        require(scale > 0, "scale", scale, "> 0")
        require(constant is None or constant >= 0, "constant", constant, ">= 0 or None")
        require(floor > 0, "floor", floor, "> 0")
        require(halvings >= 0, "halvings", halvings, ">= 0")
        require(damping in ("scaled", "published"), "damping", damping, "one of scaled, published")
        require(decrement in ("published", "own_metric"), "decrement", decrement, "one of published, own_metric")
        defaults = {
            "lr": lr,
            "regularizer": regularizer,
            "weight": weight,
            "scale": scale,
            "constant": constant,
            "floor": floor,
            "halvings": halvings,
            "damping": damping,
            "decrement": decrement,
            "curvature": curvature,
            "solver": solver,
            "memory_limit": memory_limit,
            "evaluation_mode": evaluation_mode,
        }
        super().__init__(params, defaults)

    @classmethod
    def from_model(cls, model: nn.Module, **options: Any) -> "SCoReGGN":
        """SCoRe-GGN for all trainable parameters of ``model``."""
        return cls(trainable(model), **options)

    def _iterate(self, objective: Objective, group: dict[str, Any], start: float) -> None:
        parameters: list[Tensor] = list(objective.network.parameters)
        regularizer, weight = REGULARIZERS[group["regularizer"]], group["weight"]
        root = dense.SquareRoot(objective, group["curvature"], group["memory_limit"])
        gradient = krylov.clipped(root.gradient, objective.execution.clip_norm)
        weights = dense.flattened(parameters)
        slope, hessian = regularizer.derivatives(weights, group["scale"])
        hessian = hessian.clamp(min=group["floor"])
        damping = weight if group["damping"] == "scaled" else 1.0
        step = -root.solve(gradient + weight * slope, damping, hessian, group["solver"])

        decrement = float((slope.square() / hessian).sum().sqrt())
        decrement *= weight if group["decrement"] == "published" else math.sqrt(weight)
        factor = min(1.0, group["lr"] / (1 + self_concordance(group, len(weights)) * decrement))

        def total(loss: float, weights: Tensor) -> float:
            return float(loss + weight * float(regularizer.value(weights, group["scale"]).sum()))

        before = total(start, weights)
        for _ in range(group["halvings"]):
            trial = torch._foreach_add(parameters, dense.shaped(factor * step, parameters))
            if total(float(objective.loss_with(parameters, trial)), weights + factor * step) <= before:
                break
            factor /= 2
        else:
            factor = 0.0 if group["halvings"] else factor
        self.diagnostics = {
            "decrement": decrement,
            "factor": factor,
            "objective": before,
            "step_norm": factor * float(step.norm()),
        }
        if factor:
            torch._foreach_add_(parameters, dense.shaped(factor * step, parameters))


def self_concordance(group: dict[str, Any], size: int) -> float:
    """M_g of the regularizer of an optimizer's ``group`` over ``size`` parameters."""
    regularizer = REGULARIZERS[group["regularizer"]]
    constant = regularizer.constant if group["constant"] is None else group["constant"]
    order, scale = regularizer.order, group["scale"]
    if order <= 3:
        return float(size ** ((3 - order) / 2) * scale ** (order / 2 - 2) * constant)
    return float(scale ** (4 - 1.5 * order) * constant)
