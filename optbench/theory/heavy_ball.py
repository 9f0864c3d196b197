"""Heavy-ball momentum on a quadratic: the condition and rate of contraction, and the optimal parameters.

One eigendirection of curvature h, v ← β v + h θ, θ ← θ - η v, has the roots of z² - (1 + β - η h) z + β = 0 as its modes.
It is stable for 0 < η h < 2 (1 + β), and for (1 - √β)² ≤ η h ≤ (1 + √β)² both roots have the modulus √β.

Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods".
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class HeavyBall:
    """A learning rate η, a momentum β, and the asymptotic contraction factor of a step."""

    learning_rate: float
    momentum: float
    contraction: float


def polyak(largest: float, smallest: float) -> HeavyBall:
    """The parameters with the best worst contraction over curvatures in [smallest, largest] = [m, L].

        η = (2/(√L + √m))²    β = ((√L - √m)/(√L + √m))²    contraction √β

    Raises ValueError unless 0 < m ≤ L.
    """
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(f"curvatures in [{smallest}, {largest}]: must be positive, finite and in ascending order")
    upper, lower = math.sqrt(largest), math.sqrt(smallest)
    root = (upper - lower) / (upper + lower)
    return HeavyBall((2 / (upper + lower)) ** 2, root**2, root)


def heavy_ball_modulus(learning_rate: float, momentum: float, curvature: float) -> float:
    """The larger modulus of the two modes of one eigendirection; the method contracts if it is below 1."""
    half = (1 + momentum - learning_rate * curvature) / 2
    discriminant = half**2 - momentum
    if discriminant <= 0:
        return math.sqrt(momentum)
    return abs(half) + math.sqrt(discriminant)
