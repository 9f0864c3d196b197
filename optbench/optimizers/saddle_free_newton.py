"""Saddle-free Newton: Newton's step with the absolute values of the Hessian's eigenvalues."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench.curvature.lanczos import on_flat_vectors
from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten
from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import parameters_given, trainable
from optbench.optimizers.subspace import Projection, Subspace, check_twice_differentiable, require_dense_fits


class SaddleFreeNewton(torch.optim.Optimizer):
    """Newton's method that is repelled by saddle points: it divides by |eigenvalue|, and uses the best of several dampings.

    With the Hessian H = Q diag(e) Qᵀ of the loss L of the batch and its gradient g, each damping λ of ``damping_ladder`` gives

        δ(λ) = -lr Q (|e| + λ)⁻¹ Qᵀ g,

    and the step is the δ(λ) with the lowest L(θ + δ(λ)) on the same batch. That search controls the length of the step; if no
    λ lowers the loss, θ stays. lr = 1 is the method.

    subspace: dense computes H of all P parameters by P products and an eigendecomposition, for P up to ``dense_limit``; krylov
    restricts H to the span of ``krylov_dimension`` Lanczos steps from g (see ``curvature.lanczos``) and, with
    ``previous_direction``, of the last step, which costs one more product. With krylov_dimension = P both are the same.
    inner_steps: the number of updates on the batch with the same space and the same H in it, each with its own gradient and
    search; the part of the gradient outside of the space is ignored.

    It needs activations with informative second derivatives: for a network of ReLUs, H lacks part of the curvature. With
    clipped gradients, g is the clipped one. After every step, ``diagnostics`` holds damping (λ of the last update; infinity
    for no step), updates, smallest_eigenvalue and largest_eigenvalue (of H in the space), step_norm.

    Source: Dauphin et al. 2014, "Identifying and attacking the saddle point problem in high-dimensional non-convex
    optimization" (arXiv 1406.2572), algorithm 1 and its Krylov version; 500 Krylov vectors there. The values of the ladder
    are not in the paper.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        subspace: str = "krylov",
        krylov_dimension: int = 20,
        previous_direction: bool = True,
        inner_steps: int = 1,
        damping_ladder: Sequence[float] = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4),
        dense_limit: int = 2000,
    ) -> None:
        require_common(lr, 0.0)
        require(subspace in ("krylov", "dense"), "subspace", subspace, "one of krylov, dense")
        require(krylov_dimension >= 1, "krylov_dimension", krylov_dimension, ">= 1")
        require(inner_steps >= 1, "inner_steps", inner_steps, ">= 1")
        ladder = [float(damping) for damping in damping_ladder]
        require(
            bool(ladder) and all(0 <= damping < math.inf for damping in ladder),
            "damping_ladder",
            damping_ladder,
            "a list of at least one number >= 0",
        )
        defaults = {
            "lr": lr,
            "subspace": subspace,
            "krylov_dimension": krylov_dimension,
            "previous_direction": previous_direction,
            "inner_steps": inner_steps,
            "damping_ladder": ladder,
            "dense_limit": dense_limit,
        }
        super().__init__(parameters_given(params), defaults)
        group = krylov.only_group(self, type(self).__name__)
        require_dense_fits(self, group)
        self.diagnostics: dict[str, float] = {}

    @classmethod
    def from_model(cls, model: nn.Module, lr: float, **options: Any) -> "SaddleFreeNewton":
        """The method for all parameters of ``model`` that require a gradient."""
        return cls(trainable(model), lr=lr, **options)

    def check(self, objective: Objective) -> None:
        """Raise UserError if no step can be taken on ``objective``: torch must be able to differentiate its model twice."""
        check_twice_differentiable(objective)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make ``inner_steps`` updates on the batch of ``closure``, an ``Objective``; returns the loss at the start of the step.

        Raises UserError for another closure.
        """
        objective = krylov.require_objective(closure, type(self).__name__)
        with torch.enable_grad():
            loss = value = objective()
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
        gradient = krylov.flat_gradient(parameters)
        total = torch.zeros_like(gradient)
        self.diagnostics = {"damping": math.inf, "updates": 0, "step_norm": 0.0}
        # With a zero gradient no direction is better than its opposite.
        if not (bool(value.isfinite()) and bool(gradient.isfinite().all()) and bool(gradient.any())):
            return loss
        space = self._subspace(objective, group, parameters, gradient)
        for update in range(group["inner_steps"]):
            if update:
                with torch.enable_grad():
                    value = objective()
                gradient = krylov.flat_gradient(parameters)
            change = self._best_change(objective, group, parameters, space, gradient, float(value))
            if change is None:
                break
            krylov.move(parameters, change)
            total += change
        if group["previous_direction"] and group["subspace"] == "krylov":
            for parameter, part in zip(parameters, unflatten(total, parameters), strict=True):
                self.state[parameter]["previous_step"] = part.clone()
        self.diagnostics |= {
            "smallest_eigenvalue": float(space.values[0]),
            "largest_eigenvalue": float(space.values[-1]),
            "step_norm": float(total.norm()),
        }
        return loss

    def _denominators(self, eigenvalues: Tensor, damping: float) -> Tensor:
        """The divisors of the gradient's coordinates along the eigenvectors."""
        return eigenvalues.abs() + damping

    def _best_change(
        self,
        objective: Objective,
        group: dict[str, Any],
        parameters: list[Tensor],
        space: Subspace,
        gradient: Tensor,
        before: float,
    ) -> Tensor | None:
        """The change δ(λ) that lowers the loss most, over all dampings λ; None if none lowers it."""
        coordinates = space.coordinates(gradient)
        lowest, best = before, None
        for damping in group["damping_ladder"]:
            scaled = coordinates / self._denominators(space.values, damping)
            if not bool(scaled.isfinite().all()):
                continue  # without damping, for a direction without curvature
            change = -group["lr"] * space.vector(scaled, gradient)
            value = krylov.loss_after(objective, parameters, change)
            if value < lowest:
                lowest, best = value, change
                self.diagnostics["damping"] = damping
        self.diagnostics["updates"] += best is not None
        return best

    def _subspace(
        self, objective: Objective, group: dict[str, Any], parameters: list[Tensor], gradient: Tensor
    ) -> Subspace:
        if group["subspace"] == "dense":
            return Subspace.whole(objective, parameters)
        product = on_flat_vectors(objective.hvp, parameters)
        found = Projection.krylov(product, gradient, group["krylov_dimension"])
        if all("previous_step" in self.state[parameter] for parameter in parameters):
            found, _ = found.extended(
                product, flatten([self.state[parameter]["previous_step"] for parameter in parameters])
            )
        return found.diagonalized()
