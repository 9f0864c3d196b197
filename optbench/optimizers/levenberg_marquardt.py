"""Levenberg-Marquardt with adaptive momentum, a search for the step length, and uphill steps."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from optbench.objective import Objective
from optbench.optimizers import dense_gauss_newton as dense
from optbench.optimizers import krylov
from optbench.optimizers.base import require
from optbench.optimizers.groups import trainable

# The factors of the step that the search tries, from 1e-6 to 7.6, as in the published code.
SEARCH_FACTORS = tuple((0.01 + 0.05 * index) ** 3 for index in range(40))
# The share of ab below which ab - c² counts as zero.
_PARALLEL = 1e-10


class LevenbergMarquardt(dense.DenseGaussNewton):
    """Damped Gauss-Newton steps, each accepted or refused according to the loss of its batch.

    For the loss L, its gradient g and its Gauss-Newton matrix G, all means over the batch:

    1. H = G + αD with D = max(D, diag G) element by element, or D = I; δ₁ = -H⁻¹g.
    2. With the last step taken d, a = gᵀH⁻¹g, b = dᵀHd, c = gᵀd, the step's length s = σ √(2L) and q = -ξ s √a:

           δ = λ₁/(2λ₂) δ₁ + 1/(2λ₂) d,    λ₂ = ½ √((ab - c²) / (a s² - q²)),    λ₁ = (c - 2 λ₂ q) / a,

       the maximizer of δᵀHd subject to δᵀHδ = s² and gᵀδ = q. δ = δ₁ if there is no d, or if H⁻¹g and d are parallel.
    3. θ + lr·δ is accepted if L(θ + lr·δ) < L(θ). Otherwise it is accepted as an uphill step if (1 - β)^p L(θ + lr·δ), with
       β = cos(δ₁, d), is at most the least loss at the start of any step so far. Otherwise the best of (0.01 + 0.05 j)³ lr·δ,
       j = 0 ... 39, is accepted if its loss is below L(θ).
    4. After an accepted full step α is multiplied by ``damping_decrease``, within ``damping_bounds``; with ``good_ratio``
       only if the loss fell by more than ``good_ratio`` times -(gᵀδ + ½ δᵀGδ). Otherwise by ``damping_increase``.
       A refused step does not change θ and D, and the next step has no d.

    step takes an ``optbench.objective.Objective``. momentum_share: σ, None for no momentum. momentum_slope: ξ. uphill_power: p,
    None for no uphill steps. curvature, solver and memory_limit are those of ``dense_gauss_newton.SquareRoot``.
    evaluation_mode: the steps minimize the loss of the model in eval mode, without dropout and with the running statistics of
    batch norm; in train mode, batch norm takes a backward pass for every output of every example.

    The length s. By the model a step changes the loss by q + ½s² = ½s² - ξ s √a, which is a rise unless s < 2ξ√a. The plain
    step has the length √a, which goes to zero at a minimum, and √a <= √(2L) for squared errors: with the residuals r and
    G = JᵀJ/N, a = rᵀJ(JᵀJ + NαD)⁻¹Jᵀr/N <= rᵀr/N = 2L. So a fraction of √(2L) is a fraction of the longest possible plain step:
    it depends neither on N nor on the units of the loss, and shrinks with the loss. With a fixed length the loss would stay
    near ½s² even if it could go to 0.

    The published code differs in three places. Its s is 0.6 on sums, thus 0.6/√N on means and σ = 0.6/‖r‖, from 0.03 to 0.3 on
    the published problem (‖r‖ from 22 to 2). published_momentum uses its first coefficient λ₁/λ₂, with which neither
    constraint holds. Its curvature for classification is "empirical_fisher". After a refused step it keeps the refused δ
    as d; this class does not.

    ``diagnostics`` describes the last step: damping, ratio (of the fall of the loss to the model's), step_norm, factor (of
    lr·δ; 0 if refused), accepted ("full", "uphill", "search" or "refused").

    Source: Pooladzandi & Zhou 2022, "Improving Levenberg-Marquardt algorithm for neural networks" (arXiv 2212.08769), and
    its code; Ampazis & Perantonis 2002 for the momentum; Transtrum & Sethna 2012 (arXiv 1201.5885) for uphill steps.

    Raises: UserError from ``step`` and ``check`` for a Jacobian that is too large or a loss of unknown curvature.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        damping: float = 1.0,
        damping_matrix: str = "max_diagonal",
        initial_diagonal: float = 0.01,
        damping_decrease: float = 0.1,
        damping_increase: float = 10.0,
        damping_bounds: tuple[float, float] = (1e-5, 1e5),
        good_ratio: float | None = None,
        momentum_share: float | None = 0.1,
        momentum_slope: float = 0.9,
        published_momentum: bool = False,
        line_search: bool = True,
        uphill_power: float | None = 2.0,
        curvature: str = "gauss_newton",
        solver: str = "auto",
        memory_limit: int = 2**31,
        evaluation_mode: bool = True,
    ) -> None:
        low, high = damping_bounds
        require(lr >= 0, "lr", lr, ">= 0")
        require(0 < low <= high < math.inf, "damping_bounds", (low, high), "two numbers with 0 < low <= high")
        require(low <= damping <= high, "damping", damping, f"within its bounds, {low} to {high}")
        require(
            damping_matrix in ("max_diagonal", "identity"), "damping_matrix", damping_matrix, "max_diagonal, identity"
        )
        require(initial_diagonal > 0, "initial_diagonal", initial_diagonal, "> 0")
        require(0 < damping_decrease <= 1, "damping_decrease", damping_decrease, "in (0, 1]")
        require(damping_increase >= 1, "damping_increase", damping_increase, ">= 1")
        require(momentum_share is None or momentum_share > 0, "momentum_share", momentum_share, "> 0 or None")
        require(0 < momentum_slope < 1, "momentum_slope", momentum_slope, "in (0, 1)")
        require(uphill_power is None or uphill_power >= 0, "uphill_power", uphill_power, ">= 0 or None")
        defaults = {
            "lr": lr,
            "damping": damping,
            "damping_matrix": damping_matrix,
            "initial_diagonal": initial_diagonal,
            "damping_decrease": damping_decrease,
            "damping_increase": damping_increase,
            "damping_bounds": (low, high),
            "good_ratio": good_ratio,
            "momentum_share": momentum_share,
            "momentum_slope": momentum_slope,
            "published_momentum": published_momentum,
            "line_search": line_search,
            "uphill_power": uphill_power,
            "curvature": curvature,
            "solver": solver,
            "memory_limit": memory_limit,
            "evaluation_mode": evaluation_mode,
            "least_loss": math.inf,
        }
        super().__init__(params, defaults)

    @classmethod
    def from_model(
        cls, model: nn.Module, damping_low: float = 1e-5, damping_high: float = 1e5, **options: Any
    ) -> "LevenbergMarquardt":
        """Levenberg-Marquardt for all trainable parameters of ``model``."""
        return cls(trainable(model), damping_bounds=(damping_low, damping_high), **options)

    def _iterate(self, objective: Objective, group: dict[str, Any], start: float) -> None:
        parameters: list[Tensor] = list(objective.network.parameters)
        root = dense.SquareRoot(objective, group["curvature"], group["memory_limit"])
        gradient = krylov.clipped(root.gradient, objective.execution.clip_norm)
        damping, last = group["damping"], self._last_step(parameters)
        diagonal = self._diagonal(group, root, parameters)
        plain = -root.solve(gradient, damping, diagonal, group["solver"])
        step = group["lr"] * _with_momentum(group, root, gradient, plain, last, damping * diagonal, start)
        least = group["least_loss"] = min(group["least_loss"], start)

        factor, how, loss = 1.0, "full", _loss_beyond(objective, step)
        predicted = float(gradient @ step + 0.5 * root.quadratic(step))
        ratio = (loss - start) / predicted if predicted else math.nan
        if not loss < start:
            if _goes_uphill(group["uphill_power"], plain, last, loss, least):
                how = "uphill"
            else:
                factor, loss = _search(objective, step) if group["line_search"] else (0.0, math.inf)
                factor, how = (factor, "search") if loss < start else (0.0, "refused")
        _change_damping(group, how in ("full", "uphill"), ratio)
        taken = factor * step
        self.diagnostics = {
            "damping": damping,
            "ratio": ratio,
            "step_norm": float(taken.norm()),
            "factor": factor,
            "accepted": how,
        }
        if how == "refused":
            for parameter in parameters:
                self.state[parameter].pop("last_step", None)
            return
        moved = dense.shaped(taken, parameters)
        torch._foreach_add_(parameters, moved)
        for parameter, move, entry in zip(parameters, moved, dense.shaped(diagonal, parameters), strict=True):
            self.state[parameter]["last_step"] = move
            if group["damping_matrix"] == "max_diagonal":
                self.state[parameter]["diagonal"] = entry

    def _last_step(self, parameters: list[Tensor]) -> Tensor | None:
        moves = [self.state[parameter].get("last_step") for parameter in parameters]
        return None if any(move is None for move in moves) else dense.flattened(moves)

    def _diagonal(self, group: dict[str, Any], root: dense.SquareRoot, parameters: list[Tensor]) -> Tensor:
        if group["damping_matrix"] == "identity":
            return torch.ones_like(root.gradient)
        past = [
            self.state[parameter].get("diagonal", torch.full_like(parameter, group["initial_diagonal"]))
            for parameter in parameters
        ]
        return torch.maximum(dense.flattened(past), root.diagonal())


def _with_momentum(
    group: dict[str, Any],
    root: dense.SquareRoot,
    gradient: Tensor,
    plain: Tensor,
    last: Tensor | None,
    damping: Tensor,
    start: float,
) -> Tensor:
    """δ of point 2 above; ``damping`` is the diagonal of αD, ``start`` the loss L."""
    share = group["momentum_share"]
    if share is None or last is None or not start > 0:
        return plain
    length = share * math.sqrt(2 * start)
    a = -float(gradient @ plain)
    b = float(root.quadratic(last) + (damping * last) @ last)
    c = float(gradient @ last)
    # By Cauchy and Schwarz 0 <= ab - c², with equality, up to rounding, if the two directions are parallel.
    if not a * b - c * c > _PARALLEL * a * b:
        return plain
    slope = -group["momentum_slope"] * length * math.sqrt(a)
    second = 0.5 * math.sqrt((a * b - c * c) / (a * length**2 - slope**2))
    first = (c - 2 * second * slope) / a
    found: Tensor = first / (second if group["published_momentum"] else 2 * second) * plain + last / (2 * second)
    return found


def _goes_uphill(power: float | None, plain: Tensor, last: Tensor | None, loss: float, least: float) -> bool:
    if power is None or last is None:
        return False
    cosine = float(torch.nn.functional.cosine_similarity(plain, last, dim=0))
    return bool(max(1 - cosine, 0.0) ** power * loss <= least)


def _loss_beyond(objective: Objective, step: Tensor) -> float:
    parameters: list[Tensor] = list(objective.network.parameters)
    trial = torch._foreach_add(parameters, dense.shaped(step, parameters))
    return float(objective.loss_with(parameters, trial))


def _search(objective: Objective, step: Tensor) -> tuple[float, float]:
    """The factor of ``step`` in SEARCH_FACTORS with the smallest loss, and that loss."""
    losses = [_loss_beyond(objective, factor * step) for factor in SEARCH_FACTORS]
    comparable = [loss if math.isfinite(loss) else math.inf for loss in losses]
    best = min(range(len(comparable)), key=comparable.__getitem__)
    return SEARCH_FACTORS[best], comparable[best]


def _change_damping(group: dict[str, Any], succeeded: bool, ratio: float) -> None:
    low, high = group["damping_bounds"]
    if not succeeded:
        group["damping"] = min(group["damping"] * group["damping_increase"], high)
    elif group["good_ratio"] is None or ratio > group["good_ratio"]:
        group["damping"] = max(group["damping"] * group["damping_decrease"], low)
