"""Curvature from a regression of gradients on weights: running moments, symmetric least squares, and what noise leaves of it.

Points θ and gradients g are seen in d coordinates of a subspace, p_θ = V (θ - m_θ) and p_g = V (g - m_g). With weights
(1 - β)^k of the k-th newest point, T, C and G are the weighted covariances of (p_θ, p_θ), (p_g, p_θ) and (p_g, p_g). All
matrices are float64 and may have leading dimensions, one matrix for each block of weights.

Source: Duda 2019, "Improving SGD convergence by online linear regression of gradients in multiple statistically relevant
directions" (arXiv 1901.11457), and its author's notebooks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float64).tiny


def newest_weight(beta: float, step: int) -> float:
    """The share of the newest of ``step`` points in the sum of all weights, w = β / (1 - (1 - β)^t)."""
    return beta / (1 - (1 - beta) ** step) if step > 1 else 1.0  # exactly, as one point has no spread


def effective_points(beta: float, step: int) -> float:
    """n = (Σ weights)² / Σ weights² of ``step`` points: how many equal ones would average as well; 2/β - 1 in the end."""
    rest = (1 - beta) ** step
    return (1 - rest) * (2 - beta) / (beta * (1 + rest))


@dataclass
class Moments:
    """T, C and G, (..., d, d) each, or (...) of single coordinates; all are 0 before the first point."""

    weights: Tensor
    cross: Tensor
    gradients: Tensor

    def add(self, weight: float, weights: Tensor, gradients: Tensor) -> None:
        """Count in a point, whose share is ``weight``, by its deviations (..., d) from the means before it.

        M ← (1 - w) (M + w p pᵀ), which is the weighted covariance around the new means.
        """
        for total, left, right in (
            (self.weights, weights, weights), (self.cross, gradients, weights), (self.gradients, gradients, gradients),
        ):  # fmt: skip
            outer = left * right if left.shape == total.shape else left[..., :, None] * right[..., None, :]
            total.add_(outer, alpha=weight).mul_(1 - weight)

    def turn(self, rotation: Tensor) -> None:
        """Take the moments to new coordinates R p: M ← R M Rᵀ."""
        for total in (self.weights, self.cross, self.gradients):
            total.copy_(rotation @ total @ rotation.mT)


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices (..., d, d); those of 0 for a matrix that is not finite."""
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
    return values, vectors


def symmetric_regression(moments: Moments, ridge: float = 0.0) -> Tensor:
    """The symmetric H that minimizes the weighted mean of ‖p_g - H p_θ‖², (..., d, d); 0 where no point has moved.

    It solves H T + T H = C + Cᵀ: with T = O diag(e) Oᵀ, (Oᵀ H O)_ij = (Oᵀ (C + Cᵀ) O)_ij / (e_i + e_j). ``ridge`` adds that
    multiple of the mean of e to every e.
    """
    sizes, axes = eigen(moments.weights)
    sizes = _lifted(sizes, ridge)
    sums = sizes[..., :, None] + sizes[..., None, :]
    solved = axes.mT @ (moments.cross + moments.cross.mT) @ axes / sums.clamp(min=_TINY)
    curvature: Tensor = axes @ torch.where(sums > _TINY, solved, 0.0) @ axes.mT
    return curvature


def correlated_curvature(moments: Moments, ridge: float = 0.0) -> Tensor:
    """The H >= 0 with G = H T H, (..., d, d): |H| if weights and gradients are perfectly correlated and H keeps its sign.

    H = T^(-½) (T^½ G T^½)^½ T^(-½), the geometric mean of T⁻¹ and G (Pusz & Woronowicz 1975).
    """
    sizes, axes = eigen(moments.weights)
    roots = _lifted(sizes, ridge).clamp(min=_TINY).sqrt()
    half, inverse = (axes * roots[..., None, :]) @ axes.mT, (axes / roots[..., None, :]) @ axes.mT
    squares, turned = eigen(half @ moments.gradients @ half)
    found = inverse @ (turned * squares.clamp(min=0).sqrt()[..., None, :]) @ turned.mT @ inverse
    return torch.where(_moved(sizes)[..., None], (found + found.mT) / 2, 0.0)


def noise_deviations(moments: Moments, curvature: Tensor, axes: Tensor, points: float, ridge: float = 0.0) -> Tensor:
    """The standard deviation of vᵀ H v that noise in the gradients leaves, for the columns v of ``axes``, (..., d).

    With independent noise of the variance σ² in every coordinate, equal for all points, symmetric least squares has

        Var vᵀ H v = σ² / n · Σ_kl 2 c_k² c_l² / (e_k + e_l),    c = Oᵀ v,

    for T = O diag(e) Oᵀ and n = ``points`` effective ones; σ² / (n e) in one dimension. σ² is the residual variance of p_g
    along v, with the factor n / (n - (d + 3) / 2) for the coefficients and the mean that are fitted to it. The deviation is
    infinite where no point has moved, and while there are too few points to tell.
    """
    dimension = curvature.shape[-1]
    spare = points - (dimension + 3) / 2
    if spare <= 0:
        return torch.full_like(curvature[..., 0], torch.inf)
    sizes, own = eigen(moments.weights)
    sizes = _lifted(sizes, ridge)
    fitted = curvature @ moments.cross.mT
    left = moments.gradients - fitted - fitted.mT + curvature @ moments.weights @ curvature
    variance = (axes * (left @ axes)).sum(-2).clamp(min=0) * points / spare
    shares = (own.mT @ axes).square()
    spread = (shares * ((2 / (sizes[..., :, None] + sizes[..., None, :]).clamp(min=_TINY)) @ shares)).sum(-2)
    return torch.where(_moved(sizes), (variance * spread / points).sqrt(), torch.inf)


def coordinate_curvature(moments: Moments, correlated: bool = False) -> Tensor:
    """C / T of single coordinates, or √(G / T) if ``correlated``; 0 where a coordinate has not moved."""
    tiny = torch.finfo(moments.weights.dtype).tiny
    above = (moments.gradients * moments.weights).sqrt() if correlated else moments.cross
    return torch.where(moments.weights > tiny, above / moments.weights.clamp(min=tiny), 0.0)


def coordinate_deviations(moments: Moments, curvature: Tensor, points: float) -> Tensor:
    """`noise_deviations` of single coordinates: σ / √(n T) with σ² = (G - λ C) n / (n - 2)."""
    if points <= 2:
        return torch.full_like(curvature, torch.inf)
    tiny = torch.finfo(moments.weights.dtype).tiny
    variance = (moments.gradients - curvature * moments.cross).clamp(min=0) / (points - 2)
    return torch.where(moments.weights > tiny, (variance / moments.weights.clamp(min=tiny)).sqrt(), torch.inf)


def inverse_sizes(values: Tensor, divisor: float, floor: Tensor | float) -> Tensor:
    """1 / max(divisor |λ|, floor): Newton's factor for curvatures λ > 0, and its opposite for λ < 0, which repels from maxima."""
    bounded = divisor * values.abs()
    return 1 / (bounded.maximum(floor) if isinstance(floor, Tensor) else bounded.clamp(min=floor))


def orthonormal_rows(matrix: Tensor) -> Tensor:
    """Rows (..., d, n) made orthonormal one after the other: those of Gram and Schmidt, by a QR decomposition.

    QR leaves the signs to its implementation; here every row has a positive product with the one that it was made from.
    """
    # There is no QR of half precision.
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    columns, triangle = torch.linalg.qr(wide.mT)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(wide.dtype)
    rows: Tensor = (columns * signs[..., None, :]).mT.to(matrix.dtype)
    return rows


def qr_rotation(curvature: Tensor) -> Tensor:
    """Qᵀ of H = Q R, (..., d, d): coordinates Qᵀ p have the curvature Qᵀ H Q = R Q, a step of the QR algorithm.

    Repeated, it comes to a diagonal with |λ| from large to small, at the rate |λ_(i+1) / λ_i|.
    """
    return orthonormal_rows(curvature.mT)


def _lifted(sizes: Tensor, ridge: float) -> Tensor:
    """Eigenvalues of T without what rounding puts below 0, and with the ridge."""
    positive = sizes.clamp(min=0)
    return positive + ridge * positive.mean(-1, keepdim=True)


def _moved(sizes: Tensor) -> Tensor:
    """True for matrices with an eigenvalue, (..., 1)."""
    return sizes.amax(-1, keepdim=True) > _TINY
