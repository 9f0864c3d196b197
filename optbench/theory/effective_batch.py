"""The noise of a batch: the equivalent batch of independent draws, and the critical batch below which noise dominates."""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# A number, or an array of numbers to which a formula applies element by element.
Numbers: TypeAlias = float | NDArray[np.float64]


def effective_batch(batch: Numbers, examples: int | None = None) -> Numbers:
    """The number b̃ of independent draws whose mean has the variance of ``batch`` examples drawn without replacement.

        1/b̃ = (1/b) (N - b)/(N - 1)

    examples: N, the size of the population; None for draws with replacement (or an infinite population), where b̃ = b. The
    result is infinite for b = N: the mean over all examples does not vary. From the variance of a mean of draws from a
    finite population.

    Raises ValueError for a batch below 1 or above N.
    """
    batches = np.asarray(batch, dtype=np.float64)
    if (batches < 1).any() or (examples is not None and (batches > examples).any()):
        raise ValueError(f"batch={batch}: must be at least 1" + (f" and at most {examples}" if examples else ""))
    if examples is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            # For N = b = 1, (N - b)/(N - 1) is 0/0; the result is infinite as for every b = N.
            batches = np.where(batches == examples, math.inf, batches * (examples - 1) / (examples - batches))
    return float(batches) if batches.ndim == 0 else batches


def critical_batch(noise: float, top: float) -> float:
    """b* = P σ²/λ₁²: the effective batch at which the noise of the Hessian has the size of its top eigenvalue λ₁.

    noise: P σ², the number of parameters times the variance of one element of one example's Hessian. At b̃ = b* the
    radius s = √(P σ²/b̃) of the noise is λ₁, and in the additive spiked model the outlier vanishes in the bulk.

    Raises ValueError for a top eigenvalue that is not positive.
    """
    if not top > 0:
        raise ValueError(f"top={top}: must be positive")
    return noise / top**2
