"""The time at which a series of evaluations crosses a target, interpolated between two of them."""

import math

import numpy as np


def crossing(values: np.ndarray, target: float, higher: bool, start: float = math.nan) -> float:
    """The position of the first crossing, as a fractional index into ``values``; infinity if there is none.

    The first value at or beyond ``target`` is a crossing, even if a later value falls back. The crossing is interpolated
    linearly between it and the previous value, because otherwise evaluations every n steps would round all times up to
    multiples of n. There is no interpolation if the previous value is not finite.

    start: the value before training, which stands at the position -1, if the first of ``values`` is later. Without it (NaN), a
    crossing before the first value is at the first value.
    """
    series = np.concatenate([[start], np.asarray(values, dtype=float)])
    # A comparison with NaN is false, so that NaN does not reach the target.
    reached = np.flatnonzero(series >= target if higher else series <= target)
    if len(reached) == 0:
        return math.inf
    last = int(reached[0])
    if last == 0 or not np.isfinite(series[last - 1]):
        return float(last - 1)
    return last - 2 + float((target - series[last - 1]) / (series[last] - series[last - 1]))


def at_position(values: np.ndarray, position: float, start: float = 0.0) -> float:
    """``values`` at a fractional index, linear in between; infinity at infinity. ``start`` is the value at the position -1."""
    if math.isinf(position):
        return math.inf
    return float(np.interp(position, np.arange(-1, len(values)), [start, *np.asarray(values, dtype=float)]))
