"""Gradient descent and Nesterov's method on a quadratic with curvatures in [m, L]: contraction and stability.

A step of a method multiplies the state of one eigendirection of curvature h by a matrix. The largest modulus of its
eigenvalues is the asymptotic contraction factor ρ of the distance to the minimum; the method is stable if it is below 1.
``optbench.theory.heavy_ball`` holds the same for heavy-ball momentum.

Sources: Nesterov 2004, "Introductory lectures on convex optimization", section 2.2 (α = 1/L); Lessard, Recht, Packard 2016
(arXiv 1408.3595; gradient descent and the parameters that are optimal on quadratics).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Contraction:
    """A learning rate α, a momentum β, and the asymptotic contraction factor of a step."""

    learning_rate: float
    momentum: float
    contraction: float


def check_range(largest: float, smallest: float) -> None:
    """Raises ValueError unless 0 < m ≤ L < ∞."""
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(f"curvatures in [{smallest}, {largest}]: must be positive, finite and in ascending order")


def larger_modulus(trace: float, determinant: float) -> float:
    """The larger modulus of the two roots of z² - ``trace`` z + ``determinant``."""
    half = trace / 2
    discriminant = half**2 - determinant
    if discriminant <= 0:
        return math.sqrt(determinant)
    return abs(half) + math.sqrt(discriminant)


def gradient_descent(largest: float, smallest: float) -> Contraction:
    """The rate with the best worst contraction over curvatures in [``smallest``, ``largest``] = [m, L].

        α = 2/(L + m)    contraction (κ - 1)/(κ + 1), with κ = L/m

    Raises ValueError unless 0 < m ≤ L.
    """
    check_range(largest, smallest)
    return Contraction(2 / (largest + smallest), 0.0, (largest - smallest) / (largest + smallest))


def gradient_descent_modulus(learning_rate: float, curvature: float) -> float:
    """The factor |1 - α h| of one eigendirection; gradient descent contracts for 0 < α h < 2."""
    return abs(1 - learning_rate * curvature)


def nesterov(largest: float, smallest: float) -> Contraction:
    """Nesterov's parameters for curvatures in [``smallest``, ``largest``] = [m, L], valid for every strongly convex loss.

        α = 1/L    β = (√κ - 1)/(√κ + 1)    contraction 1 - 1/√κ, with κ = L/m

    The contraction is that on a quadratic. Raises ValueError unless 0 < m ≤ L.
    """
    check_range(largest, smallest)
    root = math.sqrt(largest / smallest)
    return Contraction(1 / largest, (root - 1) / (root + 1), 1 - 1 / root)


def nesterov_on_quadratics(largest: float, smallest: float) -> Contraction:
    """The parameters of Nesterov's method with the best worst contraction over curvatures in [m, L].

        α = 4/(3L + m)    β = (√(3κ + 1) - 2)/(√(3κ + 1) + 2)    contraction 1 - 2/√(3κ + 1), with κ = L/m

    Both ends of the range contract alike. Raises ValueError unless 0 < m ≤ L.
    """
    check_range(largest, smallest)
    root = math.sqrt(3 * largest / smallest + 1)
    return Contraction(4 / (3 * largest + smallest), (root - 2) / (root + 2), 1 - 2 / root)


def nesterov_modulus(learning_rate: float, momentum: float, curvature: float) -> float:
    """The larger modulus of the two modes of one eigendirection, the roots of z² - (1 + β) q z + β q with q = 1 - α h.

    For v ← β v + g, θ ← θ - α (g + β v), as in torch, and for every other form of the method with constant α and β.
    """
    kept = 1 - learning_rate * curvature
    return larger_modulus((1 + momentum) * kept, momentum * kept)


def largest_nesterov_learning_rate(top: float, momentum: float) -> float:
    """2 (1 + β)/((1 + 2 β) λ₁): the rate above which Nesterov's method is unstable, for the top eigenvalue λ₁.

    There the root -1 appears: 1 + (1 + β) q + β q = 0. Unlike that of heavy ball it falls as the momentum grows, from 2/λ₁
    to 4/(3 λ₁).
    """
    return 2 * (1 + momentum) / ((1 + 2 * momentum) * top)
