"""Newton's method with cubic regularization, which leaves saddle points."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench import randomness
from optbench.curvature.lanczos import on_flat_vectors
from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten
from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import parameters_given, trainable
from optbench.optimizers.subspace import Projection, Subspace, check_twice_differentiable, require_dense_fits

# The bounds of an adaptive M: below, a step on a quadratic function is Newton's in all digits.
_SMALLEST, _LARGEST = 1e-8, 1e20
_VERY_SUCCESSFUL, _SUCCESSFUL = 0.9, 0.1


def cubic_minimizer(gradient: Tensor, eigenvalues: Tensor, regularization: float) -> Tensor:
    """The global minimizer s of m(s) = cᵀs + ½ Σ eᵢ sᵢ² + M/6 ‖s‖³, (k,), float64.

    gradient: c, (k,), in the coordinates of the eigenvectors; eigenvalues: e, (k,), ascending; regularization: M > 0. With
    r = ‖s‖ the minimizer has

        (e + ½ M r) s = -c,    e₁ + ½ M r >= 0.

    It is found by bisection for t = e₁ + ½ M r >= 0, of which the divisors eᵢ - e₁ + t lose no digits near 0. If c has no part
    along the lowest eigenvectors and the equation has no root (the hard case), then r = -2 e₁ / M, and s has the part along the
    first eigenvector that this length takes; of its two signs, the positive one.

    Source: Nesterov & Polyak 2006, section 5; Cartis, Gould & Toint 2011, "Adaptive cubic regularisation methods for
    unconstrained optimization, part I", section 6.1.
    """
    c, e = gradient.to(torch.float64), eigenvalues.to(torch.float64)
    lowest, size = float(e[0]), float(c.norm())
    gaps = e - lowest
    rounding = 10 * torch.finfo(torch.float64).eps
    bottom = gaps <= rounding * float(e.abs().max())
    if lowest < 0 and float(c[bottom].norm()) <= rounding * size:
        c = torch.where(bottom, 0.0, c)
        step = torch.where(bottom, 0.0, -c / gaps.where(~bottom, 1.0))
        missing = (2 * lowest / regularization) ** 2 - float(step.square().sum())
        if missing >= 0:
            step[0] = math.sqrt(missing)
            return step
    if size == 0:
        return torch.zeros_like(c)
    low, high = max(lowest, 0.0), (lowest + math.sqrt(lowest**2 + 2 * regularization * size)) / 2
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        length = float((c / (gaps + middle)).norm())
        low, high = (middle, high) if length > 2 * (middle - lowest) / regularization else (low, middle)
    return -c / (gaps + high)


def cubic_model(gradient: Tensor, eigenvalues: Tensor, regularization: float, step: Tensor) -> float:
    """m(s), as in `cubic_minimizer`."""
    quadratic = gradient @ step + 0.5 * (eigenvalues * step) @ step
    return float(quadratic + regularization / 6 * step.norm() ** 3)


class CubicNewton(torch.optim.Optimizer):
    """θ ← θ + lr s with the global minimizer s of m(s) = gᵀs + ½ sᵀHs + M/6 ‖s‖³, with gradient g and Hessian H of the batch.

    If M is at least the Lipschitz constant of H, m is an upper bound on the change of the loss. Where H has a negative eigenvalue
    the step follows its direction, also where g is 0, so that saddle points are left. lr = 1 is the method.

    regularization: M at the start. adaptive: with the ratio ρ of the change of the loss on the batch to m(s), M is halved if
    ρ > 0.9 and doubled if ρ < 0.1, and then the step is not made, but tried again with the larger M, up to ``trials`` times a
    batch. Without, M stays and every step is made.

    subspace: dense computes H of all P parameters by P products and an eigendecomposition, for P up to ``dense_limit``; krylov
    minimizes m over the span of ``krylov_dimension`` Lanczos steps from g, and of ``random_directions`` steps from a random
    direction, which sees negative curvature that the Krylov space of g does not, as on the ridge that leads to a saddle point.
    In a space of P dimensions both are the same; a Krylov space of one dimension gives the Cauchy point.

    After every step ``diagnostics`` holds regularization (the next M), ratio (ρ of the last trial; 0 without ``adaptive``),
    accepted, step_norm, smallest_eigenvalue (of H in the space). seed: the random direction of step k is a function of
    (seed, k, position of the weight).

    Source: Nesterov & Polyak 2006, "Cubic regularization of Newton method and its global performance"; Cartis, Gould & Toint 2011
    (ARC) for the ratio, with their regularizer σ = M/2; Carmon & Duchi 2018 (arXiv 1806.09222) for Krylov spaces with a random
    direction. Deviation: rounding is allowed for in ρ as by Conn, Gould & Toint 2000, "Trust-region methods", section 17.4.2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        regularization: float = 1.0,
        adaptive: bool = True,
        trials: int = 5,
        subspace: str = "krylov",
        krylov_dimension: int = 20,
        random_directions: int = 2,
        dense_limit: int = 2000,
        seed: int = 0,
    ) -> None:
        require_common(lr, 0.0)
        require(regularization > 0, "regularization", regularization, "> 0")
        require(trials >= 1, "trials", trials, ">= 1")
        require(subspace in ("krylov", "dense"), "subspace", subspace, "one of krylov, dense")
        require(krylov_dimension >= 1, "krylov_dimension", krylov_dimension, ">= 1")
        require(random_directions >= 0, "random_directions", random_directions, ">= 0")
        defaults = {
            "lr": lr,
            "regularization": float(regularization),
            "adaptive": adaptive,
            "trials": trials,
            "subspace": subspace,
            "krylov_dimension": krylov_dimension,
            "random_directions": random_directions,
            "dense_limit": dense_limit,
            "step": 0,
        }
        super().__init__(parameters_given(params), defaults)
        self._seed = seed
        require_dense_fits(self, krylov.only_group(self, type(self).__name__))
        self.diagnostics: dict[str, float] = {}

    @classmethod
    def from_model(cls, model: nn.Module, lr: float, **options: Any) -> "CubicNewton":
        """The method for all parameters of ``model`` that require a gradient."""
        return cls(trainable(model), lr=lr, **options)

    def check(self, objective: Objective) -> None:
        """Raise UserError if no step can be taken on ``objective``: torch must be able to differentiate its model twice."""
        check_twice_differentiable(objective)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make at most one update on the batch of ``closure``, an ``Objective``; returns the loss at the start of the step.

        Raises UserError for another closure.
        """
        objective = krylov.require_objective(closure, type(self).__name__)
        with torch.enable_grad():
            loss = objective()
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
        gradient = krylov.flat_gradient(parameters)
        self.diagnostics = {"regularization": group["regularization"], "ratio": 0.0, "accepted": 0.0, "step_norm": 0.0}
        if bool(loss.isfinite()) and bool(gradient.isfinite().all()):
            space = self._space(objective, group, parameters, gradient)
            if space is not None:
                self._descend(objective, group, parameters, gradient, space, float(loss))
        group["step"] += 1
        return loss

    def _descend(
        self,
        objective: Objective,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradient: Tensor,
        space: Subspace,
        before: float,
    ) -> None:
        """Move to the minimizer of the model, with an ``adaptive`` M after as many trials as it takes."""
        self.diagnostics["smallest_eigenvalue"] = float(space.values[0])
        slopes = space.coordinates(gradient)
        rounding = 10 * torch.finfo(gradient.dtype).eps * abs(before)
        for _ in range(group["trials"]):
            regularization = group["regularization"]
            step = group["lr"] * cubic_minimizer(slopes, space.values, regularization)
            predicted = -cubic_model(slopes, space.values, regularization, step)
            if not bool(step.any()):
                return
            change = space.vector(step, gradient)
            if group["adaptive"]:
                after = krylov.loss_after(objective, parameters, change)
                ratio = (before - after + rounding) / (predicted + rounding)
                # A loss that is not a number is no success.
                factor = 0.5 if ratio > _VERY_SUCCESSFUL else 1.0 if ratio >= _SUCCESSFUL else 2.0
                group["regularization"] = min(max(regularization * factor, _SMALLEST), _LARGEST)
                self.diagnostics |= {"regularization": group["regularization"], "ratio": ratio}
                if not ratio >= _SUCCESSFUL:
                    continue
            krylov.move(parameters, change)
            self.diagnostics |= {"accepted": 1.0, "step_norm": float(change.norm())}
            return

    def _space(
        self, objective: Objective, group: dict[str, Any], parameters: list[Tensor], gradient: Tensor
    ) -> Subspace | None:
        """The Hessian in the space of the step; None for a gradient of 0 without random directions."""
        if group["subspace"] == "dense":
            return Subspace.whole(objective, parameters)
        product = on_flat_vectors(objective.hvp, parameters)
        more = group["random_directions"]
        if not bool(gradient.any()):
            if not more:
                return None
            steps = group["krylov_dimension"] + more
            return Projection.krylov(product, self._random(parameters, group["step"]), steps).diagonalized()
        found = Projection.krylov(product, gradient, group["krylov_dimension"])
        direction: Tensor | None = self._random(parameters, group["step"]) if more else None
        for _ in range(more):
            if direction is None:
                break
            found, direction = found.extended(product, direction)
        return found.diagonalized()

    def _random(self, parameters: list[Tensor], step: int) -> Tensor:
        """A direction of ``step``, (P,), uniform over all; parameters on which the loss does not depend have no part in it."""
        size = sum(map(torch.numel, parameters))
        key = randomness.key(self._seed, "cubic_newton", step)
        drawn = randomness.normal(key, torch.arange(size, device=parameters[0].device)).to(parameters[0].dtype)
        parts = zip(unflatten(drawn, parameters), parameters, strict=True)
        return flatten([part * (parameter.grad is not None) for part, parameter in parts])
