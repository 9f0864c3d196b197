"""Arrays of numbers for charts."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def floats(values: ArrayLike) -> Floats:
    """``values`` as an array of float64."""
    return np.asarray(values, dtype=np.float64)


def spans_decades(*values: ArrayLike, ratio: float = 30.0) -> bool:
    """Return True if the finite values are all positive and the greatest is more than ``ratio`` times the smallest."""
    together = np.concatenate([floats(value).ravel() for value in values])
    together = together[np.isfinite(together)]
    return bool(together.size and together.min() > 0 and together.max() > ratio * together.min())
