"""The largest stable learning rates as functions of the batch.

On a quadratic of top eigenvalue λ₁, gradient descent is stable for η < 2/λ₁ and heavy-ball momentum for η < 2 (1 + β)/λ₁.
Granziol, Zohren, Roberts 2022 (arXiv 2006.09092) replace λ₁ by the top eigenvalue of the batch's Hessian, which grows as the
batch shrinks. With λ₁' = λ₁ (1 + b*/b̃) the largest rate is proportional to the batch below b* and constant above.

That form holds for noise that is aligned with the top eigenvector or positive semi-definite. With isotropic symmetric noise
the outlier vanishes at b̃ = b*, and below it λ₁' = 2s grows only as 1/√b̃, so that the rate never grows faster than √b.
Therefore a slope of 1 must be measured, and cannot be assumed.
"""

import numpy as np

from optbench.theory.effective_batch import Numbers
from optbench.theory.spiked_additive import noise_radius


def largest_learning_rate(top: Numbers, momentum: float = 0.0) -> Numbers:
    """2 (1 + β)/λ₁: the rate above which SGD with heavy-ball momentum β is unstable, for the top eigenvalue λ₁."""
    return 2 * (1 + momentum) / top


def largest_learning_rate_at_batch(top: float, batch: Numbers, critical_batch: float, momentum: float = 0.0) -> Numbers:
    """(2 (1 + β)/λ₁)/(1 + b*/b̃), for the effective ``batch`` b̃ and a critical batch b* that was predicted or fitted.

    top: λ₁ of the Hessian of all data. Half of the flat maximum is reached at b̃ = b*.
    """
    return largest_learning_rate(top * (1 + critical_batch / batch), momentum)


def mean_square_threshold(curvature: float, variance: float, batch: Numbers) -> Numbers:
    """2 h/(h² + v/b): the rate above which E θ² grows in one dimension of curvature h + ξ with Var ξ = v/b.

    Exact for independent ξ, since E θ² is multiplied in each step by 1 - 2 η h + η² (h² + v/b). The largest value,
    2/h, is halved at b = v/h².
    """
    return 2 * curvature / (curvature**2 + variance / batch)


def largest_adaptive_learning_rate(top: float, noise: float, batch: Numbers, damping: float) -> Numbers:
    """min(2 (λ₁ + d)/λ₁, d/s): the largest rate of a method that divides by its estimate of the curvature plus d.

    noise: P σ², so that s = √(P σ²/b̃) for the effective ``batch`` b̃. A preconditioner (H + d)⁻¹ reduces the outlier to
    λ₁/(λ₁ + d), and the edge 2s of the bulk of the noise to 2s/d. So the rate grows as d √b̃/(σ √P), the square root of the
    batch, until the reduced outlier limits it. It is an upper bound, because the shift of the outlier by noise is left out.
    The argument for the square root follows Granziol, Zohren, Roberts 2022; the exact form is our own (unverified).
    """
    return np.minimum(2 * (top + damping) / top, damping / noise_radius(noise, batch))


def adaptive_crossover(top: float, noise: float, damping: float) -> float:
    """The effective batch at which ``largest_adaptive_learning_rate`` turns from a square root to a constant.

    P σ² (2 (λ₁ + d)/(λ₁ d))², from d/s = 2 (λ₁ + d)/λ₁.
    """
    return noise * (2 * (top + damping) / (top * damping)) ** 2


def least_damping(learning_rate: float, top: float, noise: float, batch: Numbers) -> Numbers:
    """η P σ²/(2 b̃ λ₁): a damping with which a rate of at most 2 is stable, in the spike form; proportional to η/b.

    η λ₁' ≤ 2 (λ₁ + d) with λ₁' = λ₁ + P σ²/(b̃ λ₁) gives d ≥ η P σ²/(2 b̃ λ₁) - (1 - η/2) λ₁. The last term is dropped; the
    result is exact at η = 2.

    Raises ValueError for a rate above 2, which no damping of this size makes stable.
    """
    if not 0 < learning_rate <= 2:
        raise ValueError(f"learning_rate={learning_rate}: must be in (0, 2]")
    return learning_rate * noise / (2 * batch * top)
