"""Judge the predictions by criteria that were fixed before the runs.

A quantity agrees if its 95 % Student interval over seeds lies in the accepted range, disagrees if all of it lies outside, and is
undecided otherwise. A factor by which a curve is off disagrees only if it is also above the factor that the finite number of
drawn batches would give to a curve that is exactly right.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from optbench.analysis.claim_outcomes import within
from optbench.analysis.statistics.intervals import Interval, student

#: Rates are searched on grids that double: a curve that is off by less than half a step chooses the right point of such a grid or
#: the next one. The bisected rates are known to 2^(1/8), far better.
CURVE_FACTOR = 2**0.5
#: Batch sizes double, so that a critical batch is located to one of them.
CRITICAL_BATCH_FACTOR = 2.0
#: Smaller batches of a trained network contain almost no example with a loss: b* is fitted from here on. Seen on other seeds.
FITTED_FROM = 8
#: Half the distance between the slopes of the linear and of the square-root rule: at most one of them can agree.
SLOPE_MARGIN = 0.25
#: The factor of a curve that is exactly right lies above this quantile of its resamples in one of twenty studies.
NULL_QUANTILE = 0.95

Row = dict[str, object]


def deviation(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The root mean square over batch sizes of the logarithm of predicted / measured."""
    return float(np.sqrt(np.mean(np.log(predicted / measured) ** 2)))


def null_factor(tops: Sequence[np.ndarray], repetitions: int = 2000, seed: int = 0) -> float:
    """The factor that a curve which is exactly right stays below with probability ``NULL_QUANTILE``.

    tops: for each seed the eigenvalues (batch sizes, draws). The draws of a seed are resampled with replacement, the same ones
    for all batch sizes, because the batches of a draw are nested; the mean over all draws stands for the right curve.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(repetitions)
    for top in tops:
        counts = generator.multinomial(top.shape[1], np.full(top.shape[1], 1 / top.shape[1]), size=repetitions)
        means = counts @ top.T / top.shape[1]
        # A resample of few draws in which all eigenvalues are negative has no logarithm.
        ratios = np.maximum(means / top.mean(axis=1), 1e-3)
        total += np.sqrt(np.mean(np.log(ratios) ** 2, axis=1))
    return float(np.exp(np.quantile(total / len(tops), NULL_QUANTILE)))


def curve(deviations: Sequence[float], null: float) -> Row:
    """The row of a curve from its `deviation` for each seed; ``null``: `null_factor`."""
    found = student(np.array(deviations)).exp()
    outcome: str = within(found.low, found.high, 0, CURVE_FACTOR)
    if outcome == "disagrees" and found.estimate <= null:
        outcome = "undecided"
    row: Row = {"estimate": found.estimate, "low": found.low, "high": found.high, "least": 1.0, "most": CURVE_FACTOR}
    return row | {"null": null, "outcome": outcome, "seeds": len(deviations)}


def ratio(ratios: Sequence[float]) -> Row:
    """The row of a predicted critical batch over the fitted one, one for each seed; NaN if one is not positive."""
    values = np.array(ratios)
    found = student(np.log(np.where(values > 0, values, np.nan))).exp()
    least, most = 1 / CRITICAL_BATCH_FACTOR, CRITICAL_BATCH_FACTOR
    row: Row = {"estimate": found.estimate, "low": found.low, "high": found.high, "least": least, "most": most}
    return row | {"null": np.nan, "outcome": within(found.low, found.high, least, most), "seeds": len(ratios)}


def slope(exponent: Mapping[str, float], expected: float) -> Row:
    """The row of a log-log slope: ``exponent`` has its estimate as exponent, low, high and seeds."""
    least, most = expected - SLOPE_MARGIN, expected + SLOPE_MARGIN
    found = Interval(exponent["exponent"], exponent["low"], exponent["high"])
    row: Row = {"estimate": found.estimate, "low": found.low, "high": found.high, "least": least, "most": most}
    return row | {
        "null": np.nan,
        "outcome": within(found.low, found.high, least, most),
        "seeds": int(exponent["seeds"]),
    }
