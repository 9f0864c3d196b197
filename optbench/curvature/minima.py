"""The minimum of a loss near a point, by Newton's method with conjugate gradients in a trust region."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from optbench.curvature.swapped_parameters import place
from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten
from optbench.theory.noisy_quadratic import Array

# Radii of the trust region, in the norm of the parameters: small, so that the minimum is that of the basin of the start.
_FIRST_RADIUS, _LARGEST_RADIUS = 0.1, 1.0


class PenalizedLoss:
    """L(θ) + ½ Σ λᵢ θᵢ² as a function of the trainable parameters of an objective, flat vectors (P,), float64 on the CPU.

    decay: λ, (P,). Every evaluation leaves the parameters of the objective's model where it was taken. ``products`` counts the
    products with the Hessian.
    """

    def __init__(self, objective: Objective, decay: Array) -> None:
        self.objective, self.decay = objective, decay
        self.products = 0
        self._parameters = objective.network.parameters

    @property
    def position(self) -> Array:
        """The present parameters."""
        return _numbers(flatten([parameter.detach() for parameter in self._parameters]))

    def loss(self, at: Array) -> float:
        """The value at θ = ``at``."""
        self._go(at)
        return float(self.objective.loss()) + 0.5 * float(self.decay @ at**2)

    def gradient(self, at: Array) -> Array:
        """The gradient there."""
        self._go(at)
        return _numbers(flatten(self.objective.gradient())) + self.decay * at

    def product(self, at: Array, vector: Array) -> Array:
        """The Hessian there times ``vector``."""
        self._go(at)
        self.products += 1
        found = self.objective.hvp(unflatten(self._placed(vector), self._parameters))
        return _numbers(flatten(found)) + self.decay * vector

    def _go(self, at: Array) -> None:
        if not np.array_equal(at, self.position):  # the graph of the present position is kept
            place(self._parameters, unflatten(self._placed(at), self._parameters))

    def _placed(self, vector: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(vector)).to(self._parameters[0])


@dataclass(frozen=True)
class Minimum:
    """The result of `minimum_near`: the point (P,), the loss and the norm of the gradient there, and the iterations taken."""

    point: Array
    loss: float
    gradient_norm: float
    iterations: int


def minimum_near(function: PenalizedLoss, start: Array, tolerance: float = 1e-7, iterations: int = 300) -> Minimum:
    """The point that descent from ``start`` reaches when the norm of the gradient is at most ``tolerance``.

    SciPy's Newton method, in a trust region whose steps conjugate gradients find (Steihaug 1983); it takes no step that raises
    the loss. After ``iterations`` it ends where it is, which the norm of the gradient shows.

    Raises ValueError if the loss at ``start`` is not finite.
    """
    if not np.isfinite(function.loss(start)):
        raise ValueError("the loss is not finite where the descent to a minimum begins")
    found = minimize(
        function.loss,
        start,
        jac=function.gradient,
        hessp=function.product,
        method="trust-ncg",
        options={
            "gtol": tolerance,
            "maxiter": iterations,
            "initial_trust_radius": _FIRST_RADIUS,
            "max_trust_radius": _LARGEST_RADIUS,
        },
    )
    point = np.asarray(found.x, dtype=np.float64)
    return Minimum(point, float(found.fun), float(np.linalg.norm(found.jac)), int(found.nit))


def barrier(function: PenalizedLoss, start: Array, end: Array, points: int = 11) -> float:
    """The height of the loss on the line between two points above the higher one of them; 0 if it is nowhere above.

    points: the number of places on the line, both ends among them.
    """
    losses = [function.loss(start + x * (end - start)) for x in np.linspace(0, 1, points)]
    return max(max(losses) - max(losses[0], losses[-1]), 0.0)


def _numbers(vector: Tensor) -> Array:
    return np.asarray(vector.detach().cpu().double().numpy(), dtype=np.float64)
