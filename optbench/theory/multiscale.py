"""Losses in one dimension that are not quadratic: the cycles on which gradient descent ends, and growth at several scales.

A step is x ← x - η f'(x). For an even f it has a cycle between A and -A where η f'(A) = 2 A. A small distance from the cycle is
multiplied in each step by 1 - η f''(A), so that the cycle attracts if 0 < η f''(A) < 2. Where f grows more slowly than a
quadratic, f'(A)/A falls with A: at a rate that is unstable at the minimum, the steps end on a cycle whose loss rises with η, and
decay of η lowers the loss. Where f grows faster than a quadratic, no cycle attracts.

The question is that of Ma, Kunin, Wu & Ying 2022, "Beyond the quadratic approximation: the multiscale structure of neural network
loss landscapes" (arXiv 2204.11326). These closed forms are our own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optbench.theory.effective_batch import Numbers


@dataclass(frozen=True)
class Cycle:
    """Steps from ``amplitude`` to -``amplitude`` and back.

    loss: f there. multiplier: of a small distance from the cycle, in each step.
    """

    amplitude: float
    loss: float
    multiplier: float

    @property
    def attracts(self) -> bool:
        """True if steps from nearby end on the cycle."""
        return abs(self.multiplier) < 1


def power_cycle(exponent: float, learning_rate: float) -> Cycle:
    """The cycle on f(x) = |x|^p, which attracts for 1 < p < 2 at every rate and repels for p > 2.

        A = (η p/2)^(1/(2 - p))    η f''(A) = 2 (p - 1)    multiplier 3 - 2p

    The second derivative at 0 is infinite for p < 2, and nevertheless no step diverges. Raises ValueError unless p > 1, p ≠ 2
    and η > 0.
    """
    if not exponent > 1 or exponent == 2 or not learning_rate > 0:
        raise ValueError(f"exponent {exponent}, rate {learning_rate}: must be p > 1, not 2, and a rate > 0")
    amplitude = (learning_rate * exponent / 2) ** (1 / (2 - exponent))
    return Cycle(amplitude, amplitude**exponent, 3 - 2 * exponent)


def quartic_cycle(curvature: float, quartic: float, learning_rate: float) -> Cycle | None:
    """The cycle on f(x) = ½ h x² + ¼ q x⁴, None where there is none.

        A² = (2/η - h)/q    η f''(A) = 6 - 2 η h

    For q < 0, slower growth than the quadratic, it exists for η h > 2 and attracts up to η h = 3. For q > 0, faster growth, it
    exists for η h < 2 alone and repels: steps from outside of it diverge. Raises ValueError for q = 0 and unless h, η > 0.
    """
    if quartic == 0 or not curvature > 0 or not learning_rate > 0:
        raise ValueError(f"h = {curvature}, q = {quartic}, rate {learning_rate}: must be h > 0, q ≠ 0 and a rate > 0")
    square = (2 / learning_rate - curvature) / quartic
    if not square > 0:
        return None
    loss = curvature * square / 2 + quartic * square**2 / 4
    return Cycle(math.sqrt(square), loss, 2 * learning_rate * curvature - 5)


def pseudo_huber(x: Numbers, height: float, radius: float) -> Numbers:
    """a (√(1 + x²/r²) - 1), with a = ``height`` and r = ``radius``: ½ (a/r²) x² for |x| << r, and a |x|/r for |x| >> r."""
    scaled = np.square(x / radius)
    found: Numbers = height * scaled / (np.sqrt(1 + scaled) + 1)  # without cancellation at small x
    return found


def pseudo_huber_cycle(terms: Sequence[tuple[float, float]], learning_rate: float) -> Cycle:
    """The cycle on the sum of ``pseudo_huber`` over ``terms`` (a, r), the minimum 0 where η Σ a/r² <= 2.

        Σ (a/r²)/√(1 + A²/r²) = 2/η    one term: A = r √((η a/2r²)² - 1), f(A) = a (η a/2r² - 1)

    f'(A)/A falls with A, so that there is one cycle, and f''(A) < f'(A)/A, so that it attracts. Several terms whose r differ by
    decades give a staircase: as η decays, each term leaves the cycle at η = 2 r²/a. Raises ValueError without terms and unless
    all a, r and η are positive.
    """
    if not terms or not learning_rate > 0 or not all(height > 0 and radius > 0 for height, radius in terms):
        raise ValueError(f"terms {list(terms)}, rate {learning_rate}: must be positive numbers, and one term or more")
    heights, radii = np.array(terms, dtype=float).T
    curvatures = heights / radii**2

    def secant(amplitude: float) -> float:
        return float((curvatures / np.hypot(1, amplitude / radii)).sum())

    def second_derivative(amplitude: float) -> float:
        return float((curvatures / np.hypot(1, amplitude / radii) ** 3).sum())

    if learning_rate * secant(0.0) <= 2:
        return Cycle(0.0, 0.0, 1 - learning_rate * second_derivative(0.0))
    # f'(A) is below Σ a/r, and so A below η Σ (a/r)/2.
    low, high = 0.0, learning_rate * float((heights / radii).sum()) / 2
    while low < (middle := (low + high) / 2) < high:
        if learning_rate * secant(middle) > 2:
            low = middle
        else:
            high = middle
    loss = sum(float(pseudo_huber(high, height, radius)) for height, radius in terms)
    return Cycle(high, loss, 1 - learning_rate * second_derivative(high))


def saturating_loss(weight: Numbers, magnitudes: Sequence[float]) -> Numbers:
    """The mean over examples x in ``magnitudes`` of h(x w), h(u) = u²/(1 + u²): quadratic for |w| << 1/x, flat for |w| >> 1/x.

    Two magnitudes 1 and M >> 1 give two steps, near w = 1/M and near w = 1, each of the height ½.
    """
    squares = np.square(np.multiply.outer(np.asarray(weight, dtype=float), np.asarray(magnitudes, dtype=float)))
    found: Numbers = (squares / (1 + squares)).mean(-1)
    return found


def saturating_loss_of_pareto_data(weight: Numbers, tail: float) -> Numbers:
    """E h(x w) of ``saturating_loss`` as w → 0, for examples with P(x > t) = t^-α, t >= 1, and 0 < α < 2.

        α w^α π/(2 sin(πα/2))

    Data of all magnitudes make a loss whose growth exponent is α, below 2 at every small w. Raises ValueError for other α.
    """
    if not 0 < tail < 2:
        raise ValueError(f"tail {tail}: must be between 0 and 2")
    found: Numbers = tail * np.power(weight, tail) * math.pi / (2 * math.sin(math.pi * tail / 2))
    return found
