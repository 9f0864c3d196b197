"""The conjugate gradient method of Hessian-free optimization, and helpers for methods that use flat vectors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optbench.curvature.lanczos import Product
from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten

# Torch adds this to a norm before it clips by it.
_CLIPPING = 1e-6


@dataclass(frozen=True)
class Iterate:
    """An approximate minimizer δ of the quadratic model, the model's value there, and the iterations it took."""

    solution: Tensor
    value: float
    iteration: int


@torch.no_grad()
def conjugate_gradient(
    product: Product,
    gradient: Tensor,
    start: Tensor,
    iterations: int,
    tolerance: float = 5e-4,
    preconditioner: Tensor | None = None,
) -> list[Iterate]:
    """Iterates of preconditioned CG on φ(δ) = ½ δᵀBδ + gᵀδ from ``start``, the last of them last.

    product: multiplies by B, symmetric and positive semi-definite. preconditioner: the diagonal of M; M⁻¹ is applied to
    residuals. The iterates at ⌈1.3ʲ⌉ are kept, so that the caller can go back to them, and the last one. Ends after
    ``iterations``; if the residual is zero; if the curvature is not positive; or, unless ``tolerance`` is 0, if

        φ_i < 0  and  (φ_i - φ_(i-k)) / φ_i < k · tolerance,    k = max(10, ⌈i / 10⌉),  i > k.

    If no iteration is possible, the list holds only the start, as iteration 0.

    Source: Martens 2010, "Deep learning via Hessian-free optimization", section 4.4, and the author's code.
    """
    solution = start.clone()
    residual = -gradient - product(solution) if bool(start.any()) else -gradient
    kept = _stored_iterations()
    next_kept = next(kept)
    values = [_model(solution, residual, gradient)]
    found: list[Iterate] = []
    scaled = residual if preconditioner is None else residual / preconditioner
    direction = scaled
    slope = float(residual @ scaled)
    iteration = 0
    while iteration < iterations and slope > 0:
        image = product(direction)
        curvature = float(direction @ image)
        if not curvature > 0:
            break
        iteration += 1
        step = slope / curvature
        solution = solution + step * direction
        residual = residual - step * image
        values.append(_model(solution, residual, gradient))
        if iteration == next_kept:
            found.append(Iterate(solution, values[-1], iteration))
            next_kept = next(kept)
        if _has_stalled(values, tolerance):
            break
        scaled = residual if preconditioner is None else residual / preconditioner
        new_slope = float(residual @ scaled)
        direction = scaled + (new_slope / slope) * direction
        slope = new_slope
    if not found or found[-1].iteration != iteration:
        found.append(Iterate(solution, values[-1], iteration))
    return found


def _model(solution: Tensor, residual: Tensor, gradient: Tensor) -> float:
    """φ(δ) = -½ δᵀ(r - g), since Bδ = -g - r for the residual r."""
    return -0.5 * float(solution @ (residual - gradient))


def _has_stalled(values: list[float], tolerance: float) -> bool:
    iteration = len(values) - 1
    gap = max(10, math.ceil(0.1 * iteration))
    if tolerance == 0 or iteration <= gap or values[-1] >= 0:
        return False
    return (values[-1] - values[-1 - gap]) / values[-1] < gap * tolerance


def _stored_iterations() -> Iterator[int]:
    """⌈1.3ʲ⌉ for j = 0, 1, ..., each once: 1, 2, 3, 4, 5, 7, 9, 11, 14, ..."""
    power, last = 1.0, 0
    while True:
        if math.ceil(power) > last:
            last = math.ceil(power)
            yield last
        power *= 1.3


# ---- helpers for methods that use flat vectors --------------------------------------------------------------------------


def require_objective(closure: object, method: str, needs: str = "products with second derivatives") -> Objective:
    """``closure``, if it is an objective; raises UserError for a closure without what the ``method`` ``needs``."""
    if not isinstance(closure, Objective):
        raise UserError(
            f"{method}.step(closure={type(closure).__name__}): needs {needs}; accepted is an "
            "optbench.objective.Objective, which is the closure of one batch"
        )
    return closure


def only_group(optimizer: torch.optim.Optimizer, method: str) -> dict[str, Any]:
    """The single parameter group of an optimizer; raises UserError if it has several."""
    if len(optimizer.param_groups) != 1:
        raise UserError(f"{method}: {len(optimizer.param_groups)} parameter groups; accepted is one, of all parameters")
    return optimizer.param_groups[0]


def flat_gradient(parameters: Sequence[Tensor]) -> Tensor:
    """The gradients of ``parameters`` as one vector, zero for missing gradients."""
    return flatten([torch.zeros_like(each) if each.grad is None else each.grad for each in parameters])


def unclipped_gradient(objective: Objective, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of the last evaluation of ``objective`` before it was clipped, (P,)."""
    gradient, limit, norm = flat_gradient(parameters), objective.execution.clip_norm, objective.last_gradient_norm
    if limit is None or norm is None:
        return gradient
    found: Tensor = gradient * ((norm + _CLIPPING) / limit).clamp(min=1)
    return found


def clipped(gradient: Tensor, limit: float | None) -> Tensor:
    """``gradient``, scaled down to the norm ``limit`` as by torch; None for no limit."""
    return gradient if limit is None else gradient * (limit / (gradient.norm() + _CLIPPING)).clamp(max=1)


def loss_after(objective: Objective, parameters: Sequence[Tensor], change: Tensor) -> float:
    """The loss at ``parameters`` (those that train) + ``change``, where everything else stays."""
    trial = torch._foreach_add(list(parameters), unflatten(change, parameters))
    return float(objective.loss_with(parameters, trial))


def move(parameters: Sequence[Tensor], change: Tensor) -> None:
    """Add ``change`` to ``parameters``, in place."""
    torch._foreach_add_(list(parameters), unflatten(change, parameters))
