"""The optimum of noisy curves of loss against learning rate: a weighted quadratic, and its resamples over seeds.

`optima.optima` passes a parabola through three points, and jumps with the noise of each. Here all points near the optimum take
part, and an optimum at an end of the grid is a bound, not a point.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, outcomes, require_selectable
from optbench.analysis.laws.optima import HIGHEST, LOWEST, UNSTABLE, optima
from optbench.analysis.statistics.search_intervals import means_over_seeds
from optbench.analysis.statistics.settings import seeds_only
from optbench.store.measured import higher_is_better

# The excess of the logarithm of the loss up to which rates take part in the fit, and that at which their weight is one half.
_NEAR, _HALF = 0.15, 0.1
_FEWEST = 4


def quadratic_optima(rates: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vertices of weighted quadratics in log rate, fitted to log loss around the best tested rates.

    rates (R,): ascending. losses (..., R): means over seeds; infinity is a rate at which a run diverged. Returns the optimal
    rates, their losses and the indices of their borders in `optima.BORDERS`, each of shape (...).

    From the best rate, the rates of a fit extend to the better neighbour while its log loss exceeds the best by at most 0.15, to
    at least four rates, and never across a rate that diverged. The weight of an excess e is 1 / (1 + (e / 0.1)²). The vertex
    stays between the neighbours of the best rate; where the quadratic has no minimum it is the vertex through the best rate and
    its two neighbours. At a border it is the best tested rate: at an end of the grid, a bound of the optimum. If all diverged,
    it is NaN. Raises ValueError if a loss or a rate is not positive.
    """
    x, y = np.asarray(rates, dtype=float), np.asarray(losses, dtype=float)
    rate, loss, border = optima(x, y)
    last = len(x) - 1
    inner = (border == 0) & np.isfinite(rate)
    if last < 2 or not inner.any():
        return rate, loss, border
    curves = y[inner]
    best = np.argmin(curves, axis=-1)
    lowest = np.take_along_axis(curves, best[:, None], -1)
    excess = np.log(curves / lowest)
    used = _rates_of_fit(excess, best)
    # In units of the distance between the neighbours, so that the equations are well conditioned.
    scale = np.log(x[best + 1] / x[best - 1])[:, None]
    u = np.log(x / x[best][:, None]) / scale
    v = np.where(used, excess, 0.0)
    weights = np.where(used, 1 / (1 + (v / _HALF) ** 2), 0.0)
    basis = np.stack([np.ones_like(u), u, u**2], axis=-1)
    weighted = (basis * weights[..., None]).swapaxes(-1, -2)
    c0, c1, c2 = np.linalg.solve(weighted @ basis, weighted @ v[..., None])[..., 0].T
    convex = c2 > 0
    vertex = np.divide(-c1, 2 * c2, out=np.zeros_like(c1), where=convex)
    left, right = (np.log(x[best + step] / x[best]) / scale[:, 0] for step in (-1, 1))
    vertex = np.clip(vertex, left, right)
    found = x[best] * np.exp(vertex * scale[:, 0])
    least = lowest[:, 0] * np.exp(c0 + c1 * vertex + c2 * vertex**2)
    rate[inner], loss[inner] = np.where(convex, found, rate[inner]), np.where(convex, least, loss[inner])
    return rate, loss, border


def _rates_of_fit(excess: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Which rates (curves, R) take part in each fit; see `quadratic_optima`."""
    last = excess.shape[-1] - 1
    low, high = best.copy(), best.copy()

    def beyond(at: np.ndarray) -> np.ndarray:
        """The excess at a rate; infinity outside of the grid."""
        inside = np.clip(at, 0, last)
        return np.where(at == inside, np.take_along_axis(excess, inside[:, None], -1)[:, 0], math.inf)

    for _ in range(last):
        down, up = beyond(low - 1), beyond(high + 1)
        nearer = np.minimum(down, up)
        extends = np.isfinite(nearer) & ((nearer <= _NEAR) | (high - low + 1 < _FEWEST))
        low, high = low - (extends & (down <= up)), high + (extends & (up < down))
    places = np.arange(last + 1)
    found: np.ndarray = (places >= low[:, None]) & (places <= high[:, None])
    return found


# ---- over batch sizes and seeds -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Losses (R, S) at the rates (R,), ascending, of S seeds: infinity is a diverged run, NaN one without an outcome."""

    rates: np.ndarray
    losses: np.ndarray


def curves_of(
    runs: pd.DataFrame, metric: str = "validation_loss", rate: str = "learning_rate", batch: str = "batch"
) -> dict[float, Curve]:
    """The curve of every batch size in a frame of runs of ONE optimizer; column s of all curves is the same seed.

    As in `learning_rates.sweep_of`, the error 1 - accuracy stands for an accuracy; rates without an outcome are left out.
    """
    require_selectable(metric)
    runs = seeds_only(runs, [batch, rate])
    values = outcomes(runs, metric)
    table = runs.assign(_loss=1 - values if higher_is_better(metric) else values).dropna(subset=["_loss"])
    seeds = sorted(table["seed"].unique())
    found = {}
    for key, cell in cells(table, [batch]):
        grid = cell.pivot(index=rate, columns="seed", values="_loss").reindex(columns=seeds).sort_index()
        found[float(key[batch])] = Curve(grid.index.to_numpy(float), grid.to_numpy(float))
    return found


@dataclass(frozen=True)
class Vertices:
    """The optimal rate at each of B batch sizes, and N draws of all of them from what is not known.

    batches, rates, losses, borders: (B,); borders are indices of `optima.BORDERS`. Where the lowest or highest rate of a grid is
    the best, the rate is a bound of the optimum: half a step of the grid inside of it, because the vertex of a parabola may lie
    there. draws, draw_borders: (N, B), resamples of the seeds or draws of a surrogate; NaN is a draw without an optimum.
    """

    batches: np.ndarray
    rates: np.ndarray
    losses: np.ndarray
    borders: np.ndarray
    draws: np.ndarray
    draw_borders: np.ndarray

    @classmethod
    def of_draws(cls, batches: np.ndarray, losses: np.ndarray, draws: np.ndarray) -> "Vertices":
        """Vertices with draws (N, B) in place of seeds, as the surrogate of search=adaptive gives them: medians, no borders."""
        sampled = np.asarray(draws, dtype=float)
        centres = np.exp(np.nanmedian(np.log(sampled), axis=0))
        borders = np.zeros(sampled.shape, dtype=int)
        return cls(np.asarray(batches, float), centres, np.asarray(losses, float), borders[0], sampled, borders)


def vertices(curves: Mapping[float, Curve], repetitions: int = 1000, seed: int = 0) -> Vertices:
    """`quadratic_optima` of the mean losses, and of resamples of the seeds.

    A resample takes the same seeds at all rates and batch sizes, because the losses of a seed at neighbouring rates agree in
    their noise. A rate of which it has no run keeps the mean of all its runs. Where the next higher rate diverges, the optimum is
    known to a step of the grid: a resample draws it from the step around the best rate, uniformly in the logarithm.

    Raises ValueError unless all curves have the same seeds, at least one.
    """
    widths = {curve.losses.shape[1] for curve in curves.values()}
    if len(widths) != 1 or widths == {0}:
        raise ValueError(f"curves of {sorted(widths)} seeds: all need the same seeds, at least one")
    generator = np.random.default_rng(seed)
    count = widths.pop()
    # The first row is the sample itself.
    weights = np.vstack([np.ones(count), generator.multinomial(count, np.full(count, 1 / count), repetitions)])
    batches = np.array(sorted(curves))
    found = [
        quadratic_optima(curves[batch].rates, means_of_resamples(curves[batch].losses, weights)) for batch in batches
    ]
    rates, losses, borders = (np.stack(columns, axis=-1) for columns in zip(*found, strict=True))
    for column, batch in enumerate(batches):
        grid, rate, border = curves[batch].rates, rates[:, column], borders[:, column]
        if len(grid) > 1:
            rate[border == LOWEST] *= math.sqrt(grid[1] / grid[0])
            rate[border == HIGHEST] *= math.sqrt(grid[-2] / grid[-1])
        unstable = np.flatnonzero(border[1:] == UNSTABLE) + 1
        best = np.searchsorted(grid, rate[unstable])
        places = generator.uniform(-0.5, 0.5, len(best))
        rate[unstable] *= np.sqrt(grid[best + 1] / grid[best - 1]) ** places
    return Vertices(batches, rates[0], losses[0], borders[0], rates[1:], borders[1:])


def means_of_resamples(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean losses (N, R) over the seeds of a curve (R, S) with the weights (N, S) of each resample.

    A rate of which a resample has no run keeps the mean of all its runs.
    """
    drawn = means_over_seeds(losses, weights)
    return np.where(np.isnan(drawn), means_over_seeds(losses, np.ones((1, losses.shape[1]))), drawn)
