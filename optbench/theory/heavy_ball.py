"""Heavy-ball momentum on a quadratic: the condition and rate of contraction, and the optimal parameters.

One eigendirection of curvature h, v ← β v + h θ, θ ← θ - η v, has the roots of z² - (1 + β - η h) z + β = 0 as its modes.
It is stable for 0 < η h < 2 (1 + β), and for (1 - √β)² ≤ η h ≤ (1 + √β)² both roots have the modulus √β.

Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods".
"""

import math

from optbench.theory.rates import Contraction, check_range, larger_modulus


class HeavyBall(Contraction):
    """A learning rate η and a momentum β of the heavy-ball method, and the asymptotic contraction factor of a step."""


def polyak(largest: float, smallest: float) -> HeavyBall:
    """The parameters with the best worst contraction over curvatures in [smallest, largest] = [m, L].

        η = (2/(√L + √m))²    β = ((√L - √m)/(√L + √m))²    contraction √β

    Raises ValueError unless 0 < m ≤ L.
    """
    check_range(largest, smallest)
    upper, lower = math.sqrt(largest), math.sqrt(smallest)
    root = (upper - lower) / (upper + lower)
    return HeavyBall((2 / (upper + lower)) ** 2, root**2, root)


def heavy_ball_modulus(learning_rate: float, momentum: float, curvature: float) -> float:
    """The larger modulus of the two modes of one eigendirection; the method contracts if it is below 1."""
    return larger_modulus(1 + momentum - learning_rate * curvature, momentum)
