"""The top eigenvalue of the Hessian, compared with the largest one at which the optimizer is stable on a quadratic.

For a quadratic with curvature λ, learning rate η and momentum β, the iteration is stable if

    gradient descent              λ < 2 / η
    heavy ball, v <- β v + g      λ < 2 (1 + β) / η;  with dampening τ, v <- β v + (1 - τ) g: divided by 1 - τ
    Nesterov, as torch has it     λ < 2 (1 + β) / (η (1 + 2 β))
    Adam, D = (1 - β₁ᵗ)(√v̂ + ε)   λ(D^-1/2 H D^-1/2) < 2 (1 + β₁) / (η (1 - β₁)), which is 38 / η at β₁ = 0.9
    RMSprop, Adagrad              λ(D^-1/2 H D^-1/2) < 2 (1 + β) / η with the heavy ball's β, 0 for Adagrad

(Cohen et al. 2021, arXiv 2103.00065, appendix B; 2022, arXiv 2207.14484, for the preconditioned methods with a constant D).
Adam's step is -η m̂ / (√v̂ + ε) with m̂ = m / (1 - β₁ᵗ), so that the step of its heavy ball is -η m / D: in the first steps, when
1 - β₁ᵗ is well below 1, the effective rate is larger by the factor 1 / (1 - β₁ᵗ). Full-batch training tends to stay just above
these values: the edge of stability.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optbench.curvature.extremes import extreme_eigenpairs
from optbench.curvature.operators import Operator, operator
from optbench.objective.vectors import flatten
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe


@dataclass(frozen=True)
class Limit:
    """threshold: the largest stable eigenvalue. preconditioner: D, a tensor for each parameter, whose inverse scales steps."""

    threshold: float
    preconditioner: list[Tensor] | None = None


class Stability(SubsetProbe):
    """Top eigenvalues by at most ``steps`` Lanczos products each, to a relative residual of ``tolerance``.

    top: of the Hessian over the subset, plus the weight decay that the optimizer adds to the gradient.
    gradient_descent_threshold: 2/η. threshold: that of the run's optimizer. preconditioned_top: of D^-1/2 H D^-1/2, for Adam,
    AdamW, AMSGrad, RMSprop and Adagrad after their first step. ratio: the eigenvalue to which the threshold applies, divided by
    it. For other optimizers the last three are left out.
    """

    at = "training"

    def __init__(self, steps: int = 60, tolerance: float = 1e-3, **subset: Any) -> None:
        super().__init__(**subset)
        self.steps, self.tolerance = steps, tolerance

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the top eigenvalues and their limits."""
        task = context.task
        trained = task.network.parameters
        matrix = operator(self.measured(context).objective())
        decay = coupled_decay(task.optimizer, trained)
        if any(decay):
            matrix = _shifted(matrix, [torch.full_like(each, rate) for each, rate in zip(trained, decay, strict=True)])
        top = self._top(matrix, context)
        rate = float(task.optimizer.param_groups[0]["lr"])
        values = {"top": top, "gradient_descent_threshold": 2 / rate if rate else math.inf, "learning_rate": rate}
        limit = stability_limit(task.optimizer, trained)
        if limit is not None:
            values["threshold"] = limit.threshold
            if limit.preconditioner is not None:
                scale = flatten(limit.preconditioner).to(matrix.dtype).rsqrt()
                top = values["preconditioned_top"] = self._top(_scaled(matrix, scale), context)
            values["ratio"] = top / limit.threshold
        return Measurement(values)

    def _top(self, matrix: Operator, context: ProbeContext) -> float:
        generator = context.generator("stability")
        pairs = extreme_eigenpairs(matrix, generator, 1, 0, min(self.steps, matrix.dimension), self.tolerance)
        return float(pairs.values[-1])


def stability_limit(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> Limit | None:
    """The present limit of ``optimizer``; None if it is not known, or if there is no preconditioner yet."""
    group = optimizer.param_groups[0]
    rate = float(group["lr"])
    if rate == 0:
        return None
    if isinstance(optimizer, torch.optim.SGD):
        beta = float(group["momentum"])
        if beta == 0:
            return Limit(2 / rate)
        if group["nesterov"]:
            return Limit(2 * (1 + beta) / ((1 + 2 * beta) * rate))
        weight = 1 - float(group["dampening"])
        return Limit(2 * (1 + beta) / (weight * rate)) if weight > 0 else None
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    if not all(states):
        return None
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        beta, second = group["betas"]
        name = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
        scales = []
        for state in states:
            step = float(state["step"])
            scale = state[name].sqrt() / math.sqrt(1 - second**step) + group["eps"]
            scales.append((1 - beta**step) * scale)
        return Limit(2 * (1 + beta) / ((1 - beta) * rate), scales)
    if isinstance(optimizer, torch.optim.RMSprop):
        squares = [
            state["square_avg"] - state["grad_avg"].square() if group["centered"] else state["square_avg"]
            for state in states
        ]
        return Limit(2 * (1 + group["momentum"]) / rate, [square.sqrt() + group["eps"] for square in squares])
    if isinstance(optimizer, torch.optim.Adagrad):
        slowed = rate / (1 + (float(states[0]["step"]) - 1) * group["lr_decay"])
        if float(states[0]["step"]) == 0:  # the state exists before the first step
            return None
        return Limit(2 / slowed, [state["sum"].sqrt() + group["eps"] for state in states])
    return None


def coupled_decay(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> list[float]:
    """λ of each parameter if the optimizer adds λ θ to the gradient, else 0 (decoupled decay, other optimizers)."""
    found: dict[int, float] = {}
    kinds = torch.optim.SGD | torch.optim.Adam | torch.optim.RMSprop | torch.optim.Adagrad
    for group in optimizer.param_groups if isinstance(optimizer, kinds) else ():
        decoupled = group.get("decoupled_weight_decay") or isinstance(optimizer, torch.optim.AdamW)
        for parameter in group["params"]:
            found[id(parameter)] = 0.0 if decoupled else float(group["weight_decay"])
    return [found.get(id(parameter), 0.0) for parameter in parameters]


def _shifted(matrix: Operator, diagonal: list[Tensor]) -> Operator:
    """A + diag(diagonal)."""
    added = flatten(diagonal).to(matrix.dtype)
    return Operator(
        lambda vector: matrix(vector) + added * vector, matrix.dimension, matrix.dtype, matrix.device, matrix.name
    )


def _scaled(matrix: Operator, scale: Tensor) -> Operator:
    """diag(scale) A diag(scale)."""
    return Operator(
        lambda vector: scale * matrix(scale * vector),
        matrix.dimension,
        matrix.dtype,
        matrix.device,
        f"preconditioned {matrix.name}",
    )
