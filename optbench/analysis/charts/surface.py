"""The levels of the contours of a surface, for both libraries."""

import numpy as np
from numpy.typing import ArrayLike

from optbench.analysis.charts.numbers import Floats, floats, spans_decades

# Far corners of a surface can be extremely high, and would leave only one level for the basin of interest.
HIGHEST_OVER_LOWEST = 1e4


def levels(values: ArrayLike, count: int = 16) -> Floats:
    """Contour levels: evenly spaced in the logarithm if the values are positive and span a decade, otherwise evenly spaced.

    values: of the surface, or the two ends of a scale that several surfaces have in common. The levels end at 1e4 times the
    lowest value. Values that are not finite are left out; without any finite value the levels are 0 and 1.
    """
    finite = floats(values)[np.isfinite(floats(values))]
    if not finite.size:
        return floats([0.0, 1.0])
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return floats([low - 0.5, low + 0.5])
    if spans_decades(finite, ratio=10):
        return np.geomspace(low, min(high, HIGHEST_OVER_LOWEST * low), count)
    return np.linspace(low, high, count)


def are_logarithmic(steps: Floats) -> bool:
    """True for levels that are evenly spaced in the logarithm."""
    return bool(steps[0] > 0 and not np.allclose(np.diff(steps), steps[1] - steps[0]))
