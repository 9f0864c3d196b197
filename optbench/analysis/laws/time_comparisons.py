"""Critical batches, local slopes and ratios of steps from curves of times, each computed again in every draw.

The intervals hold the choice of the rate, the cells that a search did not train, and the seeds (`time_curves`).
"""

import math
from itertools import pairwise

import numpy as np
import pandas as pd

from optbench.analysis.laws.critical_batch import CriticalBatchIntervals, fit_critical_batch, fits, regime
from optbench.analysis.laws.scaling_laws import exponents
from optbench.analysis.laws.time_curves import STEPS, TimeCurves
from optbench.analysis.statistics.intervals import Interval, interval_of_draws
from optbench.analysis.statistics.time_search import TimeRatios

# The share of the runs at the chosen rate that must reach the target for a restricted mean to be a point of a fit.
_ENOUGH = 0.8
# From so many intervals between evaluations on, the line between two of them is close enough to a curve.
_RESOLVED = 5


def critical_batch_of(curves: TimeCurves) -> CriticalBatchIntervals:
    """The fit of S = S_min (1 + B_c / B) to the restricted means at the rates that are chosen in every draw.

    Batches at which no run reached the target have no part. Where less than 80 % of the runs at the chosen rate reached it, the
    restricted mean is a lower bound. A time of fewer than five intervals between evaluations is unresolved: ``ends`` are the fits
    with such times half an interval shorter and longer.
    """
    kept = curves.is_reached
    sizes, places = curves.batches[kept], [int(b) for b in np.flatnonzero(kept)]
    bounds = _bounds(curves)
    middle = np.exp(np.median(np.log(curves.least()[:, kept]), 0))
    of_tables, of_resamples = _fitted(curves, False), _fitted(curves, True)
    gaps = np.array([_gap(curves, b) for b in places])
    is_unresolved = middle < _RESOLVED * gaps
    ends = [
        fit_critical_batch(sizes, np.where(is_unresolved, middle + half * gaps, middle), bounds).batch
        for half in (-0.5, 0.5)
    ]

    def interval(column: int, with_column: int | None = None) -> Interval:
        values = [
            each[:, column] * (1 if with_column is None else each[:, with_column]) for each in (of_tables, of_resamples)
        ]
        with np.errstate(divide="ignore"):
            return curves.interval(*(np.log(each) for each in values)).exp()

    return CriticalBatchIntervals(
        fit_critical_batch(sizes, middle, bounds),
        interval(0),
        interval(1),
        interval(0, 1),
        {float(curves.batches[b]): curves.steps(b) for b in places},
        tuple(map(float, sizes[bounds])),
        tuple(map(float, sizes[is_unresolved])),
        (ends[0], ends[1]),
        tuple(map(float, curves.batches[~kept])),
        float((of_resamples[:, 3] != 0).mean()),
    )


def critical_batch_ratio_of(first: TimeCurves, second: TimeCurves) -> Interval:
    """B_c of ``first`` over that of ``second``, draw by draw."""
    parts = []
    for resampled in (False, True):
        parts.append(_difference(*(np.log(_fitted(curves, resampled)[:, 1]) for curves in (first, second))))
    return interval_of_draws(parts[0], parts[1], max(first.stretch, second.stretch)).exp()


def time_ratios_of(first: TimeCurves, second: TimeCurves) -> TimeRatios:
    """The steps of ``first`` over those of ``second`` at every common batch, and the slope of the log ratio over log batch.

    At one batch size the ratio of steps is that of examples. Batches at which one of them has not reached the target have no
    part; fewer than three have no trend.
    """
    reached = [set(curves.batches[curves.is_reached].tolist()) for curves in (first, second)]
    sizes = np.array(sorted(reached[0] & reached[1]))
    if not len(sizes):
        return TimeRatios({}, Interval(math.nan, math.nan, math.nan))
    parts = []
    for resampled in (False, True):
        logs = [
            np.log(curves.least(resampled)[:, np.searchsorted(curves.batches, sizes)]) for curves in (first, second)
        ]
        parts.append(_difference(*logs))
    stretch = max(first.stretch, second.stretch)
    ratios = {
        float(size): interval_of_draws(parts[0][:, b], parts[1][:, b], stretch).exp() for b, size in enumerate(sizes)
    }
    if len(sizes) < 3:
        return TimeRatios(ratios, Interval(math.nan, math.nan, math.nan))
    slopes, resampled_slopes = (exponents(sizes, np.exp(part)) for part in parts)
    return TimeRatios(ratios, interval_of_draws(slopes, resampled_slopes, stretch))


def slopes_of(curves: TimeCurves) -> pd.DataFrame:
    """The steps that a larger batch saves, for neighbouring batches at which the target is reached, with intervals.

    Columns: batch_low, batch_high; slope of log steps over log batch with low and high; regime, by the slope
    (`critical_batch.local_slopes`); steps_saved, the steps at the smaller over those at the larger batch; examples_spent, the
    examples at the larger over those at the smaller one. steps_saved times examples_spent is the ratio of the batches.
    """
    places = np.flatnonzero(curves.is_reached)
    rows = []
    for small, large in pairwise(places):
        width = math.log(curves.batches[large] / curves.batches[small])
        draws = (np.log(curves.least(resampled)) for resampled in (False, True))
        found = curves.interval(*((part[:, large] - part[:, small]) / width for part in draws))
        rows.append({
            "batch_low": curves.batches[small],
            "batch_high": curves.batches[large],
            "slope": found.estimate,
            "low": found.low,
            "high": found.high,
            "regime": regime(found.estimate),
            "steps_saved": math.exp(-width * found.estimate),
            "examples_spent": math.exp(width * (1 + found.estimate)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _bounds(curves: TimeCurves) -> np.ndarray:
    """True for each batch at which the target is reached, but by too few of the runs at the chosen rate.

    False where no run has this rate, whose time the surrogate of the search predicts.
    """
    times = [curves.times(int(b)) for b in np.flatnonzero(curves.is_reached)]
    return np.array([len(own) > 0 and np.isfinite(own).mean() < _ENOUGH for own in times], dtype=bool)


def _fitted(curves: TimeCurves, resampled: bool) -> np.ndarray:
    """`critical_batch.fits` of every draw."""
    kept = curves.is_reached
    steps = curves.least(resampled)[:, kept]
    return fits(curves.batches[kept], steps, np.tile(_bounds(curves), (len(steps), 1)))


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``first`` minus ``second``, draw by draw; a grid that was trained whole has one draw for all."""
    count = min(len(first), len(second)) if 1 not in (len(first), len(second)) else max(len(first), len(second))
    return np.asarray(first[:count] - second[:count])


def _gap(curves: TimeCurves, b: int) -> float:
    """The median distance in steps of the evaluations around the times at the chosen rate; 0 if it is not known."""
    own = curves.at(b)
    own = own[np.isfinite(own[STEPS])]
    known = {"steps_before", "steps_after"} <= set(own.columns) and len(own)
    return float((own["steps_after"] - own["steps_before"]).median()) if known else 0.0
