"""Measured rates of convergence: slopes along a run, slopes across runs of different length, and factors of a step.

    sublinear    value = C k^slope along a run          `tail_slope`, in the last decade of the steps k
                 value = C K^slope across runs          `slope_across`, for methods whose step size depends on the length K
    linear       value = C factor^k along a run         `step_factor`

A bound such as ‖∇f‖ = O(k^-1/2) limits the slope from above: a method may be faster.

Source: Danilova et al. 2020, "Recent theoretical advances in non-convex optimization", arXiv 2012.06188.
"""

import math
from collections.abc import Sequence

import numpy as np

from optbench.analysis.laws.scaling_laws import power_law
from optbench.analysis.statistics.intervals import Interval, bootstrap


def tail_slope(steps: np.ndarray, values: np.ndarray, decades: float = 1.0) -> float:
    """The least-squares slope of log value on log step over the last ``decades`` of the steps; NaN from less than two of them.

    steps: (n,), positive and evenly spaced; values: (n,), positive. All steps of the decade have equal weight. For gradient
    descent on |x|^p with a constant step the slope of the gradient tends to -(p - 1)/(p - 2). For p = 4, from 1 with the step
    1 / (2 f''(1)), it is off by 0.0029 after 10⁴ steps; with steps evenly spaced in log k it would be off by 0.0035, and over all
    steps by 0.016 and 0.07. Raises ValueError for values that are not positive.
    """
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if not len(steps):
        return math.nan
    last = steps >= steps[-1] / 10**decades
    return power_law(steps[last], values[last]).exponent


def slope_across(lengths: Sequence[float], values: Sequence[np.ndarray], repetitions: int = 2000) -> Interval:
    """The slope of log of the root mean square of ``values`` over runs, on the log of their length.

    lengths: K of each group; values: for each, (runs,). The bounds are those of a 95 % bootstrap over the runs of each group.

    A bound for a step size that depends on K, such as SGD with α ∝ K^-1/2, is about runs of different K. Along one of these runs
    the slope is another number. Raises ValueError for values that are not positive, or if there are less than two lengths.
    """
    if len({*lengths}) < 2:
        raise ValueError(f"a slope across lengths {[*lengths]}: there must be two different ones")
    x = np.log(np.asarray(lengths, dtype=float))
    x = x - x.mean()

    def slope(groups: list[np.ndarray]) -> np.ndarray:
        squares = np.stack([np.mean(np.square(group), axis=-1) for group in groups], axis=-1)
        if (squares <= 0).any():
            raise ValueError("a rate is measured on positive values")
        found: np.ndarray = 0.5 * np.log(squares) @ x / (x @ x)
        return found

    return bootstrap(slope, list(values), repetitions)


def step_factor(steps: np.ndarray, values: np.ndarray, below: float, above: float = 0.0) -> float:
    """The factor of one step, exp of the least-squares slope of log value on step, where ``above`` < value < ``below``.

    steps, values: (n,). The range is from the first value below ``below`` to the last step before the values first fall to
    ``above``, so that neither the way to the minimum nor rounding counts. NaN if it holds less than three steps.
    """
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    start = _first(values < below)
    stop = _first(values <= above)
    x, y = steps[start:stop], values[start:stop]
    if len(x) < 3:
        return math.nan
    centred = x - x.mean()
    return math.exp(float(centred @ np.log(y) / (centred @ centred)))


def _first(holds: np.ndarray) -> int:
    """The first index at which ``holds`` is true; its length if there is none."""
    return int(holds.argmax()) if holds.any() else len(holds)
