"""SGD and momentum on least squares, where the gradient noise grows with the error: exact second moments and stability.

y = xᵀθ* + ε with x ~ N(0, diag h) and ε ~ N(0, σₙ²), and the gradient of ½ (xᵀθ - y)² averaged over B fresh examples. For the
error e = θ - θ*, with sᵢ = E eᵢ², its mean is hᵢ eᵢ and its expected conditional variance, by Gaussian fourth moments,

    cᵢ = (hᵢ (σₙ² + Σⱼ hⱼ sⱼ) + hᵢ² sᵢ)/B

so that the directions interact. In each, v ← β v + g, θ ← θ - α v has the second moments S ← A S Aᵀ + cᵢ b bᵀ of the noisy
quadratic model (``LinearMethod.momentum``), and the stationary sᵢ = κᵢ cᵢ with

    κᵢ = α (1 + β)/((1 - β) hᵢ (2 (1 + β) - α hᵢ))

The response of E e² to c has no negative terms, so that the method is stable in mean square if and only if the matrix K of
s = κ c(s), K = diag(κᵢ hᵢ²/B) + (κᵢ hᵢ/B) hᵀ, has a spectral radius below 1. With qᵢ = κᵢ hᵢ²/B that is

    qᵢ < 1 for all i    and    f = Σ qᵢ/(1 - qᵢ) < 1

Sources: SGD as Defossez & Bach 2015 (arXiv 1412.0156) treat it; the form for momentum is our own.
"""

import numpy as np

from optbench.theory.effective_batch import Numbers
from optbench.theory.noisy_quadratic import Array, LinearMethod


def least_squares_moments(
    curvatures: Array,
    learning_rate: float,
    batch: float,
    deviation: float,
    steps: int,
    start: Numbers = 1.0,
    momentum: float = 0.0,
) -> Array:
    """E eᵢ² of all directions after ``steps`` steps from E eᵢ² = ``start``.

    curvatures: hᵢ. deviation: σₙ. For β = 0 it is sᵢ ← sᵢ (1 - 2 α hᵢ + α² (1 + 1/B) hᵢ²) + (α²/B) hᵢ (Σⱼ hⱼ sⱼ + σₙ²).
    """
    methods = [LinearMethod.momentum(learning_rate, momentum, float(h)) for h in curvatures]
    matrices = np.array([method.matrix for method in methods])
    noises = np.array([np.outer(method.noise, method.noise) for method in methods])
    states = np.zeros((len(curvatures), 2, 2))
    states[:, 0, 0] = start
    for _ in range(steps):
        moments = states[:, 0, 0]
        variances = (curvatures * (deviation**2 + curvatures @ moments) + curvatures**2 * moments) / batch
        states = matrices @ states @ matrices.swapaxes(1, 2) + variances[:, None, None] * noises
    return np.asarray(states[:, 0, 0], dtype=np.float64)


def stationary_least_squares_moments(
    curvatures: Array, learning_rate: float, batch: float, deviation: float, momentum: float = 0.0
) -> Array:
    """The stationary E eᵢ², the solution of s = κ c(s): (κᵢ hᵢ/B) σₙ²/((1 - qᵢ) (1 - f)).

    Since Σ hⱼ sⱼ = (σₙ² + Σ hⱼ sⱼ) f. Raises ValueError for a rate that is not positive or not below
    ``largest_least_squares_learning_rate``.
    """
    largest = largest_least_squares_learning_rate(curvatures, batch, momentum)
    if not 0 < learning_rate < largest:
        raise ValueError(
            f"learning_rate={learning_rate}: must be positive and below {largest:.6g}, the limit of stability"
        )
    gains = _gains(curvatures, learning_rate, batch, momentum)
    shares = gains / (1 - gains)
    return np.asarray(shares / curvatures * deviation**2 / (1 - shares.sum()), dtype=np.float64)


def largest_least_squares_learning_rate(curvatures: Array, batch: float, momentum: float = 0.0) -> float:
    """The rate above which E eᵢ² grows: the α with f = 1, from the equation above.

    For β = 0 it solves Σ α hᵢ/(B (2 - α hᵢ (1 + 1/B))) = 1. Momentum lowers it at small batches, about in proportion to
    1 - β, and raises it to 2 (1 + β)/h at large ones. Raises ValueError for curvatures or a batch that are not positive,
    and for a momentum outside [0, 1).
    """
    if not (np.asarray(curvatures) > 0).all() or not batch > 0 or not 0 <= momentum < 1:
        raise ValueError(f"batch={batch}, momentum={momentum}: must be positive and in [0, 1), and curvatures positive")
    # f grows with α from 0, without bound towards the rate at which the first qᵢ is 1.
    room = batch * (1 - momentum)
    low, high = 0.0, 2 * room * (1 + momentum) / (float(np.max(curvatures)) * (1 + momentum + room))
    while low < (middle := (low + high) / 2) < high:
        gains = _gains(curvatures, middle, batch, momentum)
        if (gains < 1).all() and (gains / (1 - gains)).sum() < 1:
            low = middle
        else:
            high = middle
    return low


def _gains(curvatures: Array, learning_rate: float, batch: float, momentum: float) -> Array:
    """qᵢ = κᵢ hᵢ²/B."""
    rates = learning_rate * curvatures
    return rates * (1 + momentum) / (batch * (1 - momentum) * (2 * (1 + momentum) - rates))
