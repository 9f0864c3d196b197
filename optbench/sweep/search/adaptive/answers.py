"""The answer of a search: what the analysis of the whole grid says, as a distribution over the cells that are not trained.

A completed table has the finished cells as they are, and draws of the posterior for all others. The analysis of the grid is
applied to each: `laws.optima.optima` to the mean over seeds, `laws.scaling_laws.exponents` over the conditions. Once every cell
is finished, all tables are the grid itself, and so is the answer. Intervals also resample the seeds of each table within each
condition and rate, as those of the analysis do: a cell that was chosen because it is low is low by chance, too.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from optbench.analysis.laws.optima import HIGHEST, LOWEST, Optima
from optbench.analysis.laws.scaling_laws import exponents
from optbench.analysis.statistics.intervals import Interval, interval_of_draws
from optbench.sweep.search.adaptive.lattice import Outcomes
from optbench.sweep.search.adaptive.surrogate import Posterior

OUTSIDE = (LOWEST, HIGHEST)
"""The borders (indices of `laws.optima.BORDERS`) that say that the optimum may lie outside of the rates."""
# A diverged run counts as so many times the loss before training where a rate is chosen.
_PRICE_OF_DIVERGENCE = 4.0
# The importance of a condition that never comes near the least loss: its optimum is still looked for, as the last one.
_LEAST_IMPORTANCE = 1e-3
# A second optimum is reported if it lies so many rates away with this probability.
_APART, _SECOND = 3, 0.1


class Tables:
    """The completed tables of one search.

    losses (C, B, U, M): of each drawn column of seeds. weights (C, B, U): the seeds for which a column stands. quality: a
    condition with a best loss of (1 + e) times the least has the importance min(1, quality / e); None: all have 1. horizon: as
    of `Outcomes`.
    """

    def __init__(self, outcomes: Outcomes, drawn: Posterior, quality: float | None = None) -> None:
        self.search = outcomes.search
        self._quality = quality
        self.horizon = outcomes.horizon
        self.weights = outcomes.weights()
        observed = outcomes.columns()
        shape = (*observed.shape, drawn.z.shape[-1])
        seen = ~np.isnan(observed)
        self.losses = np.where(seen[..., None], observed[..., None], drawn.scale.losses(drawn.z.reshape(shape)))

    @cached_property
    def means(self) -> np.ndarray:
        """The mean loss over seeds (M, B, U); infinity if a seed diverged, NaN where the grid has no cell.

        Of times it is the restricted mean, and infinity only if no seed reached the target within the horizon.
        """
        return self._mean(self.losses, self.weights[..., None])

    @cached_property
    def rates(self) -> np.ndarray:
        """The optimal rate (M, B) in octaves; that of the border where it may lie beyond, NaN if all diverged."""
        return self._found[0]

    @cached_property
    def importance(self) -> np.ndarray:
        """The importance of each condition (B,), the mean over tables; one at which no rate trains has the least."""
        if self._quality is None:
            return np.ones(len(self.search.conditions))
        best = np.min(np.where(np.isnan(self.means), math.inf, self.means), -1)
        least = best.min(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.minimum(self._quality / (best / least - 1), 1.0)
        return np.asarray(np.maximum(np.where(np.isfinite(best), found, 0.0).mean(0), _LEAST_IMPORTANCE))

    @cached_property
    def slopes(self) -> np.ndarray:
        """The exponent of each table (M,), weighted by importance, without conditions whose optimum may lie outside.

        NaN if fewer than two remain.
        """
        return self._slopes(*self._found)

    @cached_property
    def outside(self) -> np.ndarray:
        """The border (M, B), an index of `laws.optima.BORDERS`."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[np.ndarray, np.ndarray]:
        return self._optima(self.means)

    @cached_property
    def resampled(self) -> tuple[np.ndarray, np.ndarray]:
        """The optimal rates (M, B) in octaves and the exponents (M,) of the tables with resampled seeds."""
        found, border = self._optima(self.resampled_means)
        return found, self._slopes(found, border)

    @cached_property
    def resampled_means(self) -> np.ndarray:
        """As `means`, with the seeds of each condition and rate drawn with replacement."""
        columns, conditions, rates, draws = self.losses.shape
        generator = np.random.default_rng([0, draws])
        counts = np.zeros(self.losses.shape)
        total = self.weights.sum(0)
        shares = np.cumsum(self.weights, 0) / np.where(total > 0, total, math.nan)
        for number in range(int(total.max(initial=0))):
            place = generator.random((conditions, rates, draws))
            column = (place[None] >= shares[..., None]).sum(0)
            column = np.minimum(column, columns - 1)
            counted = (number < np.round(total))[..., None]
            np.put_along_axis(counts, column[None], np.take_along_axis(counts, column[None], 0) + counted[None], 0)
        return self._mean(self.losses, counts)

    def _mean(self, losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
        total = weights.sum(0)
        summed = np.where(weights > 0, np.minimum(losses, self.horizon), 0.0) * weights
        means: np.ndarray = summed.sum(0) / np.where(total > 0, total, math.nan)
        if math.isfinite(self.horizon):
            means = np.where(means >= self.horizon * (1 - 1e-9), math.inf, means)
        return np.moveaxis(means, -1, 0)

    def _optima(self, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = Optima.of(self.search.rates, means)
        return np.log2(found.rates), found.borders

    def _slopes(self, rates: np.ndarray, border: np.ndarray) -> np.ndarray:
        inner = np.where(np.isin(border, OUTSIDE), math.nan, rates)
        return exponents(self.search.conditions, 2.0**inner, self.importance)


@dataclass(frozen=True)
class Condition:
    """The answer for one condition.

    optimum: the optimal rate with its interval. chosen: the rate of the lattice with the least expected loss; NaN if no rate is
    expected to reach the target of a time. below, above: the
    probabilities that the optimum lies beyond the lowest or the highest rate. second, second_share: the likeliest rate at
    least three rates away from the likeliest, and the probability of all of those; NaN and 0 unless it is above 0.1.
    """

    condition: float
    optimum: Interval
    chosen: float
    below: float
    above: float
    second: float
    second_share: float
    runs: int


@dataclass(frozen=True)
class Law:
    """The answer of one search: the exponent of the optimal rate over the conditions, and the optimum of each."""

    exponent: Interval
    conditions: tuple[Condition, ...]


def answer(tables: Tables, outcomes: Outcomes, stretch: float = 1.0, level: float = 0.95) -> Law:
    """The medians over the tables, and intervals of the tables with resampled seeds, whose arms are ``stretch`` times as long."""
    search = tables.search
    rates, slopes = tables.resampled
    exponent = interval_of_draws(tables.slopes, slopes, stretch, level)
    means = tables.means
    known = ~np.isnan(means[0])
    expected = expected_losses(means, outcomes.first, tables.horizon)
    rows = []
    for b, condition in enumerate(search.conditions):
        inner = interval_of_draws(tables.rates[:, b], rates[:, b], stretch, level)
        optimum = Interval(2.0**inner.estimate, 2.0**inner.low, 2.0**inner.high, level, inner.undefined)
        second, share = _second(means[:, b], known[b])
        rows.append(
            Condition(
                float(condition),
                optimum,
                float(search.rates[int(np.argmin(expected[b]))]) if expected[b].min() < tables.horizon else math.nan,
                float((tables.outside[:, b] == LOWEST).mean()),
                float((tables.outside[:, b] == HIGHEST).mean()),
                float(search.rates[second]) if share > _SECOND else math.nan,
                share if share > _SECOND else 0.0,
                int((~np.isnan(outcomes.losses[b])).sum()),
            )
        )
    return Law(exponent, tuple(rows))


def expected_losses(means: np.ndarray, first: float, horizon: float = math.inf) -> np.ndarray:
    """The expectation of mean losses (M, ...) over M tables, by which a rate is chosen; infinity where there is no cell.

    A table in which a seed diverged counts as a fixed price, ``_PRICE_OF_DIVERGENCE`` times the loss before training (first), or
    times the worst finite one of all where that is unknown (NaN). A time counts as at most the ``horizon``, if that is finite.
    """
    reference = first if math.isfinite(first) else float(np.max(means, initial=0.0, where=np.isfinite(means)))
    price = horizon if math.isfinite(horizon) else _PRICE_OF_DIVERGENCE * reference
    found: np.ndarray = np.minimum(means, price).mean(0)
    return np.where(np.isnan(found), math.inf, found)


def _second(means: np.ndarray, known: np.ndarray) -> tuple[int, float]:
    """The likeliest place of the least mean loss (M, U) away from the likeliest, and the probability of all places there."""
    if not known.any():
        return 0, 0.0
    shares = np.bincount(np.argmin(np.where(known, means, math.inf), -1), minlength=len(known)) / len(means)
    away = np.abs(np.arange(len(known)) - int(np.argmax(shares))) >= _APART
    return int(np.argmax(np.where(away, shares, -1.0))), float(shares[away].sum())
