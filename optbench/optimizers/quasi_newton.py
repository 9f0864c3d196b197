"""The limited-memory approximation of an inverse Hessian from pairs of steps and changes of the gradient, and its eigenvalues."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """A step s and the damped change ȳ of the gradient along it, with the curvature γ of B₀ = γI and the weight ϑ of y in ȳ."""

    change: Tensor
    gamma: float
    weight: float


def damped(step: Tensor, change: Tensor, damping: float, gamma_min: float) -> Pair:
    """ȳ = ϑy + (1 - ϑ)γs for the step s and the change y of the gradient, so that sᵀȳ ≥ ηγ‖s‖² > 0; η is ``damping``.

        γ = max(yᵀy / sᵀy, γ_min), or γ_min if sᵀy ≤ 0
        ϑ = (1 - η)γ‖s‖² / (γ‖s‖² - sᵀy) if sᵀy < ηγ‖s‖², else 1

    Source: Wang, Ma, Goldfarb & Liu 2017 (arXiv 1607.01231), section 3.1, with H₀ = I/γ in the place of the whole approximation.
    """
    slope = float(step @ change)
    gamma = max(float(change @ change) / slope, gamma_min) if slope > 0 else gamma_min
    squared = gamma * float(step @ step)
    weight = (1 - damping) * squared / (squared - slope) if slope < damping * squared else 1.0
    return Pair(weight * change + (1 - weight) * gamma * step, gamma, weight)


@dataclass(frozen=True)
class InverseHessian:
    """H of the pairs (s_i, ȳ_i), sᵢᵀȳᵢ > 0, from the oldest to the newest, each by the BFGS update, from H₀ = I/γ:

        H ← V H Vᵀ + s sᵀ/sᵀȳ,    V = I - s ȳᵀ/sᵀȳ

    steps, changes: (m, P).
    """

    steps: Tensor
    changes: Tensor
    gamma: float

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """H v for a vector (P,) or the columns of a matrix (P, k), by the two-loop recursion (Nocedal 1980)."""
        result = vectors
        inverse = 1 / (self.steps * self.changes).sum(1)
        used = []
        for step, change, scale in zip(self.steps.flip(0), self.changes.flip(0), inverse.flip(0), strict=True):
            used.append(scale * (step @ result))
            result = result - _along(change, used[-1])
        result = result / self.gamma
        for step, change, scale, part in zip(self.steps, self.changes, inverse, reversed(used), strict=True):
            result = result + _along(step, part - scale * (change @ result))
        return result

    def extreme_eigenvalues(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of H, exact: from its products on the span of all s and ȳ.

        The span has at most 2m dimensions, and outside of it H is I/γ. Computed in float64.
        """
        pairs = InverseHessian(self.steps.double(), self.changes.double(), self.gamma)
        basis = torch.linalg.qr(torch.cat([pairs.steps, pairs.changes]).T).Q
        inside = basis.T @ (pairs @ basis)
        outside = [1 / self.gamma] if basis.shape[0] > basis.shape[1] else []
        values = [*torch.linalg.eigvalsh((inside + inside.T) / 2).tolist(), *outside]
        return min(values), max(values)

    def eigenvalue_bounds(self) -> tuple[float, float]:
        """A lower and an upper bound on the eigenvalues of H, from 1/γ by the recursion, for a = ‖s‖²/sᵀȳ and c = ‖ȳ‖²/sᵀȳ

            1/λ ← 1/λ + c,    Λ ← a + acΛ

        since ‖V‖² = ac, and by the same argument for H⁻¹. The upper bound may be thousands of times too large.
        """
        slopes = (self.steps * self.changes).double().sum(1)
        squares = (each.double().square().sum(1) / slopes for each in (self.steps, self.changes))
        inverse, upper = self.gamma, 1 / self.gamma
        for a, c in zip(*(each.tolist() for each in squares), strict=True):
            inverse, upper = inverse + c, a + a * c * upper
        return 1 / inverse, upper


def _along(vector: Tensor, factors: Tensor) -> Tensor:
    """``vector`` (P,) times a number, or as columns times each of ``factors`` (k,)."""
    return vector * factors if factors.ndim == 0 else torch.outer(vector, factors)
