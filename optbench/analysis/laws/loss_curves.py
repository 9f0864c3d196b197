"""The loss against the learning rate at every batch size, as draws: of a grid that was trained whole, or in part by a search."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from optbench.analysis.frames import outcomes
from optbench.analysis.laws.noisy_optima import Vertices, curves_of, means_of_resamples
from optbench.analysis.laws.optima import Optima
from optbench.analysis.statistics.intervals import Interval, interval_of_draws
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better
from optbench.sweep.search.adaptive.lattice import LEAST_ERROR, Outcomes
from optbench.sweep.search.adaptive.method import Adaptive
from optbench.sweep.search.adaptive.state import STRETCH, Memory
from optbench.sweep.search.reading import Search

_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class LossCurves:
    """The mean loss over seeds of one method at every batch size and learning rate.

    batches (B,), rates (U,): ascending. tables (M, B, U): the loss in each draw of the cells that are not trained, and one table
    if all are; infinity if a seed diverged, NaN where the grid has no cell. resampled (N, B, U): the same with resampled seeds.
    runs (B,): finished at each batch. cells: of the whole grid. stretch: the factor by which the arms of intervals are longer
    than those of the quantiles (`optbench.sweep.search.adaptive.state`).
    """

    batches: np.ndarray
    rates: np.ndarray
    tables: np.ndarray
    resampled: np.ndarray
    runs: np.ndarray
    cells: int
    stretch: float = 1.0

    @cached_property
    def optima(self) -> Optima:
        """The optima of `tables`."""
        return Optima.of(self.rates, self.tables)

    @cached_property
    def resampled_optima(self) -> Optima:
        """The optima of `resampled`."""
        return Optima.of(self.rates, self.resampled)

    def vertices(self) -> Vertices:
        """The optima for the fit of a law: medians over the tables, and the draws, spread by ``stretch``."""
        found, drawn = self.optima, self.resampled_optima
        centre = np.nanmedian(np.log(found.rates), 0)
        middle = np.nanmedian(np.log(drawn.rates), 0)
        draws = np.exp(middle + self.stretch * (np.log(drawn.rates) - middle))
        borders = np.array([np.bincount(column).argmax() for column in found.borders.T])
        losses = np.nanmedian(found.losses, 0)
        return Vertices(self.batches, np.exp(centre), losses, borders, draws, drawn.borders)

    def interval(self, values: np.ndarray, resampled: np.ndarray, level: float = 0.95) -> Interval:
        """`interval_of_draws` of values over the tables and over the resampled tables."""
        return interval_of_draws(values, resampled, self.stretch, level)

    def best_rate(self, b: int) -> Interval:
        """The optimal rate of the batch ``b``, an index, with its interval."""
        return self.interval(np.log(self.optima.rates[:, b]), np.log(self.resampled_optima.rates[:, b])).exp()

    def excess(self, rates: np.ndarray, resampled: bool = False) -> np.ndarray:
        """The loss at ``rates`` (M or N, B) relative to the smallest of its batch, minus 1.

        Losses between the rates of the grid are interpolated linearly in the logarithms. Infinity where the run at one of the
        two neighbours diverged, NaN beyond the grid.
        """
        means, best = (self.resampled, self.resampled_optima) if resampled else (self.tables, self.optima)
        x, at = np.log(self.rates), np.log(rates)
        right = np.clip(np.searchsorted(x, at), 1, len(x) - 1)
        place = (at - x[right - 1]) / (x[right] - x[right - 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(means)
            low, high = (np.take_along_axis(logs, side[..., None], -1)[..., 0] for side in (right - 1, right))
            between = np.where(place <= 0, low, np.where(place >= 1, high, low + place * (high - low)))
            found = np.exp(between - np.log(np.minimum(best.losses, np.nanmin(means, -1)))) - 1
        outside = (place < -1e-9) | (place > 1 + 1e-9) | np.isnan(rates)
        return np.where(outside, math.nan, found)


def loss_curves(
    study: Study, metric: str = "validation_loss", rate: str = "base_learning_rate", without_seed: int | None = None
) -> dict[str, LossCurves]:
    """The curves of each optimizer of a study whose axes are the optimizer, its learning rate, the batch and the seed.

    If search=adaptive has trained a part of the grid, the rest is drawn from its surrogate. Otherwise the seeds of the grid are
    resampled, the same ones at all rates and batches, because a seed's losses resemble each other there. without_seed: as if
    the runs of this seed did not exist.
    """
    search = Search.of(study.plan)
    runs = study.runs[study.runs["seed"] != without_seed]
    if search is None or not isinstance(search.method, Adaptive):
        return {
            str(name): of_grid(own, metric, rate) for name, own in runs.groupby("optimizer") if _trained(own, metric)
        }
    found, memory = {}, Memory()
    seen = [each for each in search.seen(search.record()) if each.pick.cell.get("seed") != str(without_seed)]
    all_outcomes = search.method.outcomes(search.problem, seen, search.options)
    optimizers = runs["optimizer"].dropna().unique()
    for number, each in enumerate(all_outcomes):
        if each.is_trained:
            state = memory.state(number, each, search.options)
            name = each.search.fixed.get("optimizer") or (optimizers[0] if len(optimizers) == 1 else each.search.grid)
            units = each.units[:, None]
            found[str(name)] = _of_search(each, state.tables.means * units, state.tables.resampled_means * units)
    return found


def _of_search(outcomes: Outcomes, tables: np.ndarray, resampled: np.ndarray) -> LossCurves:
    search = outcomes.search
    runs = (~np.isnan(outcomes.losses)).sum((1, 2))
    return LossCurves(search.conditions, search.rates, tables, resampled, runs, int(search.exists.sum()), STRETCH)


def _trained(runs: pd.DataFrame, metric: str) -> bool:
    return metric in runs and bool(np.isfinite(outcomes(runs, metric)).any())


def of_grid(runs: pd.DataFrame, metric: str, rate: str, seed: int = 0) -> LossCurves:
    """The curves of one optimizer from a frame of its runs. Raises UserError for a ``metric`` of held-out test data."""
    curves = curves_of(runs.dropna(subset=[rate, "batch"]), metric, rate)
    batches, rates = np.array(sorted(curves)), np.unique(np.concatenate([curve.rates for curve in curves.values()]))
    seeds = next(iter(curves.values())).losses.shape[1]
    drawn = np.random.default_rng([seed, seeds]).integers(seeds, size=(_RESAMPLES, seeds))
    # The first row is the sample itself.
    weights = np.vstack([np.ones(seeds), (drawn[:, :, None] == np.arange(seeds)).sum(1)])
    means = np.full((len(weights), len(batches), len(rates)), math.nan)
    for b, batch in enumerate(batches):
        losses = curves[batch].losses
        losses = np.maximum(losses, LEAST_ERROR) if higher_is_better(metric) else losses
        means[:, b, np.searchsorted(rates, curves[batch].rates)] = means_of_resamples(losses, weights)
    finished = np.array([(~np.isnan(curves[batch].losses)).sum() for batch in batches])
    return LossCurves(batches, rates, means[:1], means[1:], finished, len(batches) * len(rates) * seeds)
