"""Sharpness: the increase of the loss in a ball (SAM), in a ball with the scale of the weights (ASAM), or in Keskar's box.

Only measures relative to the weights are invariant under the rescaling of ReLU layers, which does not change the function: report
one of them (Dinh et al. 2017, "Sharp minima can generalize for deep nets"). Sharpness as curvature, by the largest eigenvalue,
the trace or the Frobenius norm of the Hessian, is in the files with those names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from optbench.curvature.normalization import filter_norms
from optbench.curvature.swapped_parameters import kept, place
from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten

LossAndGradient: TypeAlias = Callable[[list[Tensor]], tuple[float, list[Tensor]]]


def loss_and_gradient(objective: Objective) -> LossAndGradient:
    """An objective as a function of ``objective.network.parameters``, whose values are restored after every call.

    Measure in eval mode (``objective.evaluation_mode``) and without autocast: the differences are smaller than the rounding
    of bfloat16. All ranks must make the same calls, as the functions below do.
    """
    parameters = objective.network.parameters

    def evaluate(values: list[Tensor]) -> tuple[float, list[Tensor]]:
        with kept(parameters):
            place(parameters, values)
            return float(objective.loss()), objective.gradient()

    return evaluate


@dataclass(frozen=True)
class Sharpness:
    """loss: at the parameters. largest: the highest loss found. perturbation: its displacement, a tensor for each parameter."""

    loss: float
    largest: float
    perturbation: list[Tensor]

    @property
    def increase(self) -> float:
        """L(theta + e) - L(theta)."""
        return self.largest - self.loss

    @property
    def percentage(self) -> float:
        """100 (L(theta + e) - L(theta)) / (1 + L(theta)), as reported by Keskar et al."""
        return 100 * self.increase / (1 + self.loss)


def relative_scale(
    parameters: Sequence[Tensor], filters: bool = False, transposed: Sequence[int] | None = None
) -> list[Tensor]:
    """T_w of ASAM, a tensor for each parameter: |w| entry by entry, or with ``filters`` the norm of the filter for weights.

    Kwon et al. 2021, "ASAM: adaptive sharpness-aware minimization"; without the small number that they add to |w|, which
    would break the invariance. |w| is invariant under rescaling of single neurons, filter norms under that of whole layers.
    transposed: see ``normalize``.
    """
    groups = transposed or [0] * len(parameters)
    return [
        filter_norms(w, group) if filters and w.ndim > 1 else w.detach().abs()
        for w, group in zip(parameters, groups, strict=True)
    ]


def ball_sharpness(
    evaluate: LossAndGradient,
    parameters: Sequence[Tensor],
    radius: float,
    steps: int = 1,
    scale: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Sharpness:
    """The highest loss that gradient ascent finds at theta + T d with ||d|| <= ``radius``, T = diag(``scale``) or 1.

    With g the gradient, steps=1 is the first-order solution d = radius T g / ||T g|| (Foret et al. 2021, "Sharpness-aware
    minimization for efficiently improving generalization"; with a scale Kwon et al. 2021). More steps continue by projected
    ascent, d <- P(d + radius T g(d) / ||T g(d)||), P being the projection to the ball, and the best point counts. The increase
    is a lower bound of the maximum, and negative if no step rises. If T g = 0, ascent starts in a random direction of
    ``generator`` (on the CPU; by default one with seed 0). It takes steps + 1 gradients. Raises UserError unless radius > 0
    and steps >= 1.
    """
    if not radius > 0 or steps < 1:
        raise UserError(f"sharpness radius={radius}, steps={steps}: accepted are a radius above 0 and at least 1 step")
    theta = [parameter.detach().clone() for parameter in parameters]
    centre = flatten(theta)
    stretch = torch.ones_like(centre) if scale is None else flatten(scale)
    generator = generator or torch.Generator().manual_seed(0)

    def ascent(gradient: list[Tensor]) -> Tensor:
        along = stretch * flatten(gradient)
        if not along.any():
            along = torch.randn(len(along), dtype=torch.float64, generator=generator).to(along)
        found: Tensor = along * (radius / along.norm())
        return found

    loss, gradient = evaluate(theta)
    step, best = ascent(gradient), None
    for _ in range(steps):
        moved = stretch * step
        value, gradient = evaluate(unflatten(centre + moved, theta))
        if best is None or value > best.largest:
            best = Sharpness(loss, value, unflatten(moved, theta))
        step = step + ascent(gradient)
        step = step * (radius / step.norm().clamp_min(radius))
    assert best is not None
    return best


def box_sharpness(
    evaluate: LossAndGradient,
    parameters: Sequence[Tensor],
    epsilon: float = 1e-3,
    dimensions: int | None = None,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> Sharpness:
    """The highest loss that L-BFGS-B finds at theta + A y in the box |y_i| <= ``epsilon`` (|(A^+ theta)_i| + 1).

    Keskar et al. 2017, "On large-batch training for deep learning", metric 2.1; its value is ``percentage``. A is the
    identity, or with ``dimensions`` a random matrix (P, dimensions) with standard normal entries from ``generator`` (on the
    CPU; by default one with seed 0); A^+ is its pseudo-inverse. Unverified, because the paper's code does not show them:
    epsilon 1e-3 and 5e-4, 100 dimensions, 10 iterations, and the distribution of A. scipy's L-BFGS-B starts at y = 0 or, if
    the gradient there is 0, at a random corner; the best of all evaluations counts. Memory: P x dimensions numbers.
    Raises UserError unless epsilon > 0, iterations >= 1 and 1 <= dimensions <= P.
    """
    theta = [parameter.detach().clone() for parameter in parameters]
    centre = flatten(theta)
    count = len(centre)
    if not epsilon > 0 or iterations < 1 or not 1 <= (count if dimensions is None else dimensions) <= count:
        raise UserError(
            f"sharpness epsilon={epsilon}, dimensions={dimensions}, iterations={iterations}: accepted are an epsilon above 0, "
            f"1 to {count} dimensions or null for all of them, and at least 1 iteration"
        )
    generator = generator or torch.Generator().manual_seed(0)
    spanned = None
    own = centre.double()
    if dimensions is not None:
        spanned = torch.randn(count, dimensions, generator=generator).to(centre)
        own = torch.linalg.solve((spanned.T @ spanned).double(), (spanned.T @ centre).double())
    bound = epsilon * (own.abs() + 1).cpu().numpy()
    loss, gradient = evaluate(theta)
    best = Sharpness(loss, loss, [torch.zeros_like(tensor) for tensor in theta])

    def slope(gradient: list[Tensor]) -> np.ndarray:
        along = flatten(gradient) if spanned is None else spanned.T @ flatten(gradient)
        return along.double().cpu().numpy()

    def negative(y: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        inside = torch.from_numpy(np.clip(y, -bound, bound)).to(centre)
        moved = inside if spanned is None else spanned @ inside
        value, gradient = evaluate(unflatten(centre + moved, theta))
        if value > best.largest:
            best = Sharpness(loss, value, unflatten(moved, theta))
        return -value, -slope(gradient)

    start = np.zeros(len(bound))
    if not slope(gradient).any():
        start = bound * torch.empty(len(bound)).bernoulli_(generator=generator).mul(2).sub(1).double().numpy()
    minimize(
        negative,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([-bound, bound], 1),
        # Within such a small box losses change by less than the usual tolerances.
        options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
    )
    return best
