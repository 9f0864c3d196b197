"""Stochastic damped L-BFGS, with variance reduction and control of the eigenvalues of its matrix."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten
from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import parameters_given, trainable
from optbench.optimizers.quasi_newton import InverseHessian, damped

CONTROLS = ("none", "bounds", "exact")


class SdLBFGS(torch.optim.Optimizer):
    """θ ← θ - lr H g, with H the limited-memory BFGS matrix of the last ``memory`` pairs (s, ȳ), positive definite by damping.

    s is a step, and y the difference of the gradients after and before it on the SAME batch: between two batches it would be
    mostly noise. `optbench.optimizers.quasi_newton.damped` gives ȳ and the initial matrix I/γ, with η = ``damping`` and
    ``gamma_min``; γ is 1 before the first pair. sᵀȳ > 0 also on a loss that is not convex. A step costs two gradients.

    variance_reduction: g is replaced by g(θ) - g(θ̃) + ∇L(θ̃), with the gradients of the batch at θ and at a snapshot θ̃ of the
    weights, and the gradient ∇L of the whole training set, without augmentation, at the snapshot (SVRG, Johnson & Zhang 2013). A
    new snapshot is taken every ``snapshot_period`` steps. This costs a third gradient a step, and an epoch of them a snapshot.

    control: pairs are dropped, the oldest first, until the eigenvalues of H lie in [``lowest``, ``highest``]; without pairs γ is
    moved to where they do. exact: their extremes, from products on 2m dimensions. bounds: bounds on them, of which the upper
    one may be thousands of times too large, so that good pairs are dropped, too.

    ``diagnostics`` holds pairs, gamma, weight (ϑ of the newest pair), and with control the eigenvalues smallest_eigenvalue and
    largest_eigenvalue.

    Source: Wang, Ma, Goldfarb & Liu 2017 (arXiv 1607.01231), algorithms 3.1 and 3.2, where H before the newest pair is I/γ in the
    damping. Control of the eigenvalues is by the abstract of Lotfi, Bonniot de Ruisselet, Orban & Lodi 2020 (arXiv 2012.05783):
    which pairs are dropped, and the limits, are our reconstruction and not theirs. Clipping is applied to g, and not to y.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        memory: int = 10,
        damping: float = 0.25,
        gamma_min: float = 1.0,
        variance_reduction: bool = False,
        snapshot_period: int = 100,
        control: str = "none",
        lowest: float = 1e-5,
        highest: float = 1e5,
    ) -> None:
        require_common(lr, 0.0)
        require(memory >= 1, "memory", memory, ">= 1")
        require(0 < damping < 1, "damping", damping, "in (0, 1)")
        require(gamma_min > 0, "gamma_min", gamma_min, "> 0")
        require(snapshot_period >= 1, "snapshot_period", snapshot_period, ">= 1")
        require(control in CONTROLS, "control", control, f"one of {', '.join(CONTROLS)}")
        require(0 < lowest <= highest, "lowest", lowest, f"in (0, highest={highest}]")
        defaults = {
            "lr": lr,
            "memory": memory,
            "damping": damping,
            "gamma_min": gamma_min,
            "variance_reduction": variance_reduction,
            "snapshot_period": snapshot_period,
            "control": control,
            "lowest": lowest,
            "highest": highest,
            "gamma": 1.0,
            "step": 0,
        }
        super().__init__(parameters_given(params), defaults)
        krylov.only_group(self, type(self).__name__)
        self.diagnostics: dict[str, float] = {}

    @classmethod
    def from_model(cls, model: nn.Module, lr: float, **options: Any) -> "SdLBFGS":
        """The method for all parameters of ``model`` that require a gradient."""
        return cls(trainable(model), lr=lr, **options)

    def check(self, objective: Objective) -> None:
        """Raise UserError where variance reduction has no gradient of the whole training set."""
        if self.param_groups[0]["variance_reduction"]:
            objective.check_population("optimizer.variance_reduction=true")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update on the batch of ``closure``, an ``Objective``; returns the loss at the start of the step.

        Raises UserError for another closure.
        """
        objective = krylov.require_objective(closure, type(self).__name__, "gradients that are not clipped")
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
        loss, before = _evaluated(objective, parameters)
        gradient = self._reduced(objective, parameters, before) if group["variance_reduction"] else before
        group["step"] += 1
        direction = self._inverse_hessian(parameters) @ krylov.clipped(gradient, objective.execution.clip_norm)
        if not bool(direction.isfinite().all()):
            return loss
        step = -group["lr"] * direction
        krylov.move(parameters, step)
        change = _evaluated(objective, parameters)[1] - before
        if bool(step.any()) and bool(change.isfinite().all()):
            self._remember(parameters, step, change)
        return loss

    def _inverse_hessian(self, parameters: list[Tensor]) -> InverseHessian:
        state, size = self.state[parameters[0]], sum(map(torch.numel, parameters))
        none = parameters[0].new_zeros(0, size)
        return InverseHessian(state.get("steps", none), state.get("changes", none), self.param_groups[0]["gamma"])

    def _remember(self, parameters: list[Tensor], step: Tensor, change: Tensor) -> None:
        """Add the pair to the memory, and drop pairs that are too old or give eigenvalues beyond the limits."""
        group, known = self.param_groups[0], self._inverse_hessian(parameters)
        pair = damped(step, change, group["damping"], group["gamma_min"])
        if not float(step @ pair.change) > 0:  # it is too small for its square
            return
        steps = torch.cat([known.steps, step[None]])[-group["memory"] :]
        changes = torch.cat([known.changes, pair.change[None]])[-group["memory"] :]
        found = InverseHessian(steps, changes, pair.gamma)
        self.diagnostics = {"weight": pair.weight}
        if group["control"] != "none":
            found, smallest, largest = _controlled(found, group["control"], group["lowest"], group["highest"])
            self.diagnostics |= {"smallest_eigenvalue": smallest, "largest_eigenvalue": largest}
        group["gamma"] = found.gamma
        self.state[parameters[0]] |= {"steps": found.steps, "changes": found.changes}
        self.diagnostics |= {"pairs": float(len(found.steps)), "gamma": found.gamma}

    def _reduced(self, objective: Objective, parameters: list[Tensor], gradient: Tensor) -> Tensor:
        """g(θ) - g(θ̃) + ∇L(θ̃), with a new snapshot θ̃ = θ if one is due."""
        state, group = self.state[parameters[0]], self.param_groups[0]
        if group["step"] % group["snapshot_period"] == 0:
            whole = flatten(objective.population_gradient())
            state["snapshot"], state["whole_gradient"] = flatten(parameters), whole
            return whole
        here = [parameter.clone() for parameter in parameters]
        torch._foreach_copy_(parameters, unflatten(state["snapshot"], parameters))
        there = _evaluated(objective, parameters)[1]
        torch._foreach_copy_(parameters, here)
        reduced: Tensor = gradient - there + state["whole_gradient"]
        return reduced


def _evaluated(objective: Objective, parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient before it is clipped, (P,)."""
    with torch.enable_grad():
        loss = objective()
    return loss, krylov.unclipped_gradient(objective, parameters)


def _controlled(
    found: InverseHessian, control: str, lowest: float, highest: float
) -> tuple[InverseHessian, float, float]:
    """``found`` with as many of its newest pairs as keep the eigenvalues within the limits; and the smallest and largest."""
    for first in range(len(found.steps)):
        kept = InverseHessian(found.steps[first:], found.changes[first:], found.gamma)
        smallest, largest = kept.extreme_eigenvalues() if control == "exact" else kept.eigenvalue_bounds()
        if lowest <= smallest and largest <= highest:
            return kept, smallest, largest
    gamma = min(max(found.gamma, 1 / highest), 1 / lowest)
    return InverseHessian(found.steps[:0], found.changes[:0], gamma), 1 / gamma, 1 / gamma
