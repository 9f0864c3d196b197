"""A power law of the optimal learning rate in the batch size that may break: the local slope, the bend, and what follows it.

    log rate = a + s₁ min(log B, k) + s₂ max(log B - k, 0)

One slope over a rise and a plateau is nobody's exponent, and an interval from seeds alone leaves out how the optima scatter
around the law. Here the slope is fitted where training reaches the best quality, and its interval is the union of that of
resampled seeds and that of the regression over batch sizes. A batch size whose optimum lies at an end of its grid is a bound: it
takes part, with the value of the bound, only if the law would pass on the wrong side of it.

Sources: Hudson 1966, "Fitting segmented curves whose join points have to be estimated"; Hansen 2000, "Sample splitting and
threshold estimation" (the test of a bend by simulation, because its place does not exist under a line).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optbench.analysis.laws.noisy_optima import Vertices
from optbench.analysis.laws.optima import HIGHEST, LOWEST
from optbench.analysis.statistics.intervals import Interval, percentile_bounds

#: The excess of the best loss over the least of all batch sizes, up to which a batch takes part in the slope; the first counts.
WITHIN = (0.05, 0.03, 0.10)
#: The same for the bend, as a ratio. Beyond it training has failed, and the rate that is best there says nothing of the law.
RATIO = 1.5
#: Below this p a bend is told from a line.
TOLD = 0.05
# Of batch sizes: for a law with a bend, which has four parameters, and for a slope whose scatter can be estimated.
_FEWEST, _SCATTER = 5, 4


@dataclass(frozen=True)
class LocalSlope:
    """The slope of log rate against log batch over the batch sizes whose best loss is within a factor of the least.

    within: the factor less 1. slope: with the union of both intervals. over_seeds: the percentile interval of resampled seeds
    (or draws); over_batches: the t interval of the regression, with n - 2 degrees of freedom. Both have the same estimate. From
    three batch sizes or fewer the scatter around the law is not known: ``over_batches`` and ``slope`` have no bounds.
    batches: those of the fit; bounds: those whose optimum is only a bound.
    """

    within: float
    slope: Interval
    over_seeds: Interval
    over_batches: Interval
    batches: tuple[float, ...]
    bounds: tuple[float, ...]


@dataclass(frozen=True)
class ScalingLaw:
    """The local slopes, first the one that counts, and the law with a bend.

    bend: the batch size exp(k). slope_before, slope_after: s₁ and s₂; change: s₁ - s₂. plateau: the rate at the bend. residual:
    root mean square of log2(rate / law). p_bend: the share of lines with the same scatter on which a bend improves the fit as
    much. batches_used: those of the bend. All of this is NaN below five batch sizes.
    """

    slopes: tuple[LocalSlope, ...]
    bend: Interval
    slope_before: Interval
    slope_after: Interval
    change: Interval
    plateau: Interval
    residual: float
    p_bend: float
    batches_used: tuple[float, ...]

    @property
    def slope(self) -> Interval:
        """The local slope that counts."""
        return self.slopes[0].slope

    @property
    def is_bent(self) -> bool:
        """True if a bend is told from a line: by the scatter of the optima, and by what is not known of each.

        p_bend knows the scatter alone. Optima of one surrogate lie on a smooth curve, however uncertain they are, so that the
        interval of the change of the slope has to exclude 0, too.
        """
        return self.p_bend < TOLD and not self.change.low <= 0 <= self.change.high

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """The law with its bend at ``batch``."""
        x = np.log(np.asarray(batch, dtype=float) / self.bend.estimate)
        powers = self.slope_before.estimate * np.minimum(x, 0) + self.slope_after.estimate * np.maximum(x, 0)
        found: np.ndarray = self.plateau.estimate * np.exp(powers)
        return found


def law(
    optima: Vertices,
    within: tuple[float, ...] = WITHIN,
    ratio: float = RATIO,
    level: float = 0.95,
    repetitions: int = 2000,
    seed: int = 0,
) -> ScalingLaw:
    """The local slopes and the bend of the optimal rates against the batch size.

    within: the qualities of the local slopes, first the one that counts. ratio: the quality of the bend. The interval of the bend
    and of its law is the percentile interval of refits to the draws of the optima, each with normal residuals of the standard
    deviation of the fit, because seeds alone leave out the scatter. repetitions: the lines of the test of a bend.
    """
    slopes = tuple(local_slope(optima, each, level) for each in within)
    used = _within(optima.losses, ratio)
    x = np.log(optima.batches[used])
    y = np.log(optima.rates[used])[None]
    sides = _sides(optima.borders[used])[None]
    (fit,), taking_part = _one_sided(x, y, sides, _broken)
    count = int(taking_part.sum())
    batches = tuple(map(float, optima.batches[used][taking_part[0]]))
    if not np.isfinite(fit).all() or count < _FEWEST:
        unknown = Interval(math.nan, math.nan, math.nan, level)
        return ScalingLaw(slopes, unknown, unknown, unknown, unknown, unknown, math.nan, math.nan, batches)
    generator = np.random.default_rng(seed)
    squares = float(fit[4])
    scatter = math.sqrt(squares / (count - 4))
    draws = np.log(optima.draws[:, used])
    draws = draws + scatter * generator.standard_normal(draws.shape)
    refits, _ = _one_sided(x, draws, _sides(optima.draw_borders[:, used]), _broken)
    intervals = [_percentiles(value, column, level) for value, column in zip(fit[:4], refits[:, :4].T, strict=True)]
    change = _percentiles(float(fit[1] - fit[2]), refits[:, 1] - refits[:, 2], level)
    places = x[taking_part[0]]
    lines = generator.standard_normal((repetitions, count))
    seen = float(_improvement(places, y[:, taking_part[0]])[0])
    p = (1 + int((_improvement(places, lines) >= seen).sum())) / (1 + repetitions)
    bend, before, after, plateau = intervals
    residual = math.sqrt(squares / count) / math.log(2)
    return ScalingLaw(slopes, bend.exp(), before, after, change, plateau.exp(), residual, p, batches)


def local_slope(optima: Vertices, within: float = WITHIN[0], level: float = 0.95) -> LocalSlope:
    """The slope over the batch sizes whose best loss is at most 1 + ``within`` times the least; see `LocalSlope`."""
    from scipy.special import stdtrit

    used = _within(optima.losses, 1 + within)
    x, y = np.log(optima.batches[used]), np.log(optima.rates[used])
    sides = _sides(optima.borders[used])
    (fit,), taking_part = _one_sided(x, y[None], sides[None], _line)
    draws, _ = _one_sided(x, np.log(optima.draws[:, used]), _sides(optima.draw_borders[:, used]), _line)
    part = taking_part[0]
    slope = float(fit[1])
    over_seeds = _percentiles(slope, draws[:, 1], level)
    over_batches = union = Interval(slope, math.nan, math.nan, level)
    if part.sum() >= _SCATTER and math.isfinite(slope):
        freedom = int(part.sum()) - 2
        spread = math.sqrt(float(fit[4]) / freedom / float(((x[part] - x[part].mean()) ** 2).sum()))
        width = float(stdtrit(freedom, (1 + level) / 2)) * spread
        over_batches = Interval(slope, slope - width, slope + width, level)
        low, high = min(slope - width, over_seeds.low), max(slope + width, over_seeds.high)
        union = Interval(slope, low, high, level, over_seeds.undefined)
    inside, bounds = (tuple(map(float, optima.batches[used][mask])) for mask in (sides == 0, sides != 0))
    return LocalSlope(within, union, over_seeds, over_batches, inside, bounds)


def _within(losses: np.ndarray, factor: float) -> np.ndarray:
    """The indices of the batch sizes whose best loss is at most ``factor`` times the least."""
    least = losses[np.isfinite(losses)].min(initial=math.inf)
    return np.flatnonzero(losses <= factor * least)


def _percentiles(estimate: float, values: np.ndarray, level: float) -> Interval:
    low, high = percentile_bounds(values, level) if len(values) > 1 else (math.nan, math.nan)
    undefined = float(np.isnan(values).mean()) if len(values) else 0.0
    return Interval(float(estimate), low, high, level, undefined)


def _sides(borders: np.ndarray) -> np.ndarray:
    """-1 where the optimum is at most, +1 where it is at least the given rate; 0 where it is known."""
    return np.where(borders == LOWEST, -1, np.where(borders == HIGHEST, 1, 0))


# ---- fits of many rows at once: columns k, s₁, s₂, the value at k, and the sum of squares --------------------------------

_Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Sums of squares below this, for each point, are rounding.
_ROUNDING = 1e-20


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The lines through the rows of y (N, n), as laws whose slopes before and after the mean of x are equal."""
    if len(x) < 2:
        return np.full((len(y), 5), math.nan)
    centred = x - x.mean()
    level = y.mean(axis=1)
    slope = y @ centred / (centred**2).sum()
    squares = ((y - level[:, None] - slope[:, None] * centred) ** 2).sum(axis=1)
    return np.column_stack([np.full(len(y), x.mean()), slope, slope, level, squares])


def _broken(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The continuous laws of two pieces with the least sum of squares, with at least two points on either side.

    Exact: between two neighbouring points, the best pieces are the lines of either side if they meet there; otherwise the best
    bend is at a point.
    """
    if len(x) < _FEWEST:
        return np.full((len(y), 5), math.nan)
    candidates = []
    for split in range(2, len(x) - 1):
        left, right = _line(x[:split], y[:, :split]), _line(x[split:], y[:, split:])
        rise = right[:, 3] - right[:, 1] * right[:, 0] - left[:, 3] + left[:, 1] * left[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            place = rise / (left[:, 1] - right[:, 1])
            level = left[:, 3] + left[:, 1] * (place - left[:, 0])
        squares = np.where((x[split - 1] <= place) & (place <= x[split]), left[:, 4] + right[:, 4], math.inf)
        candidates.append(np.column_stack([place, left[:, 1], right[:, 1], level, squares]))
    for place in x[1:-1]:
        basis = np.column_stack([np.minimum(x - place, 0), np.maximum(x - place, 0), np.ones_like(x)])
        coefficients = y @ np.linalg.pinv(basis).T
        squares = ((y - coefficients @ basis.T) ** 2).sum(axis=1)
        candidates.append(np.column_stack([np.full(len(y), place), coefficients, squares]))
    stacked = np.stack(candidates)
    found: np.ndarray = stacked[np.argmin(stacked[:, :, 4], axis=0), np.arange(len(y))]
    return found


def _improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sup-F of a bend for each row: ((squares of the line - squares with a bend) / 2) / (squares with a bend / (n - 4))."""
    line, bend = _line(x, y)[:, 4], _broken(x, y)[:, 4]
    found: np.ndarray = ((line - bend) / 2) / (np.maximum(bend, len(x) * _ROUNDING) / (len(x) - 4))
    return found


def _one_sided(x: np.ndarray, y: np.ndarray, sides: np.ndarray, fit: _Fit) -> tuple[np.ndarray, np.ndarray]:
    """``fit`` of each row of y (N, B), and which of its points took part.

    A value with a side is a bound. It takes part only if the law without it passes on the wrong side, which is repeated
    until the points no longer change. NaN takes no part.
    """
    known = np.isfinite(y)
    part = known & (sides == 0)
    found = np.full((len(y), 5), math.nan)
    for _ in range(len(x) + 1):
        masks, rows = np.unique(part, axis=0, return_inverse=True)
        for number, mask in enumerate(masks):
            chosen = rows.ravel() == number
            found[chosen] = fit(x[mask], y[chosen][:, mask])
        ahead = x - found[:, :1]
        predicted = found[:, 3:4] + found[:, 1:2] * np.minimum(ahead, 0) + found[:, 2:3] * np.maximum(ahead, 0)
        wrong = known & (sides * (predicted - y) < 0)
        changed = (sides == 0) & known | wrong
        if (changed == part).all():
            break
        part = changed
    return found, part
