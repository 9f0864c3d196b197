"""The optimal and the largest stable learning rate of a grid, at every batch size, and their scaling exponents.

A sweep is batch -> learning rate -> losses over seeds; a diverged run has the loss infinity. The rates are a fixed grid, no draws
of a search, so that intervals resample seeds alone: they are about this grid with new seeds, the kind W of
`optbench.analysis.claims.ESTIMANDS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, outcomes, require_selectable
from optbench.analysis.laws.optima import Optimum, optimum
from optbench.analysis.laws.scaling_laws import Crossover, crossover, power_law
from optbench.analysis.statistics.intervals import Interval, bootstrap_fit
from optbench.analysis.statistics.settings import seeds_only
from optbench.store.measured import higher_is_better

Sweep = Mapping[float, Mapping[float, np.ndarray]]


@dataclass(frozen=True)
class StableLimit:
    """The largest stable learning rate, within the resolution of a grid.

    stable: the largest tested rate below every unstable one (0: none). unstable: the smallest unstable one (infinity: none).
    """

    stable: float
    unstable: float

    @property
    def known(self) -> bool:
        """True if the limit lies between two rates of the grid."""
        return self.stable > 0 and math.isfinite(self.unstable)

    def between(self, place: float) -> float:
        """The rate at ``place``, from 0 to 1, of the way from stable to unstable in logarithms; NaN if it is not known."""
        return self.stable * (self.unstable / self.stable) ** place if self.known else math.nan

    @property
    def learning_rate(self) -> float:
        """The geometric mean of the two rates between which the limit lies; NaN if it lies outside of the grid."""
        return self.between(0.5)


def stable_limit(rates: np.ndarray, diverged: np.ndarray, tolerance: float = 0.0) -> StableLimit:
    """The limit of stability from the share of runs that ``diverged`` at each rate; more than ``tolerance`` is unstable."""
    order = np.argsort(np.asarray(rates, dtype=float))
    x, shares = np.asarray(rates, dtype=float)[order], np.asarray(diverged, dtype=float)[order]
    unstable = np.flatnonzero(shares > tolerance)
    first = int(unstable[0]) if len(unstable) else len(x)
    return StableLimit(float(x[first - 1]) if first else 0.0, float(x[first]) if first < len(x) else math.inf)


# ---- over batch sizes ---------------------------------------------------------------------------------------------------


def sweep_of(
    runs: pd.DataFrame, metric: str = "validation_loss", rate: str = "learning_rate", batch: str = "batch"
) -> dict[float, dict[float, np.ndarray]]:
    """The sweep in a frame of runs of ONE optimizer; for an accuracy the error 1 - accuracy is used.

    Runs without an outcome are left out; `frames.count` counts them.
    """
    require_selectable(metric)
    runs = seeds_only(runs, [batch, rate])
    values = outcomes(runs, metric)
    table = runs.assign(_loss=1 - values if higher_is_better(metric) else values).dropna(subset=["_loss"])
    return {
        float(key[batch]): {float(inner[rate]): rows["_loss"].to_numpy(float) for inner, rows in cells(cell, [rate])}
        for key, cell in cells(table, [batch])
    }


def by_batch(sweep: Sweep, tolerance: float = 0.0) -> pd.DataFrame:
    """One row for each batch size: the optimum, the limit of stability, and their basis.

    Columns batch, optimal, loss, border, stable, unstable, limit (their geometric mean), rates, runs, diverged. The loss at
    a rate is the mean over seeds, so that one diverged seed excludes the rate.
    """
    rows = []
    for batch, grid in sorted(sweep.items()):
        best, limit = _optimum_of(grid), _limit_of(grid, tolerance)
        losses = np.concatenate(list(grid.values()))
        counts = (len(grid), len(losses), int(np.isinf(losses).sum()))
        found = (best.learning_rate, best.loss, best.border, limit.stable, limit.unstable, limit.learning_rate)
        rows.append((batch, *found, *counts))
    names = "batch optimal loss border stable unstable limit rates runs diverged"
    return pd.DataFrame(rows, columns=names.split())


def _optimum_of(grid: Mapping[float, np.ndarray]) -> Optimum:
    return optimum(np.array(list(grid)), np.array([losses.mean() for losses in grid.values()]))


def _limit_of(grid: Mapping[float, np.ndarray], tolerance: float) -> StableLimit:
    return stable_limit(
        np.array(list(grid)), np.array([np.isinf(losses).mean() for losses in grid.values()]), tolerance
    )


@dataclass(frozen=True)
class ScalingExponent:
    """rate = coefficient * batch^exponent. batches: those of the fit; excluded: those at the border of their grid."""

    exponent: Interval
    coefficient: Interval
    batches: tuple[float, ...]
    excluded: tuple[float, ...]


def exponent_over_seeds(
    sweep: Sweep,
    of: Literal["optimal", "stable"] = "optimal",
    tolerance: float = 0.0,
    repetitions: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ScalingExponent:
    """The log-log slope of the optimal or the largest stable rate against batch, with a bootstrap over seeds.

    Seeds are resampled within every (batch, learning rate). A batch whose optimum is the lowest or highest rate of its grid,
    or whose grid does not contain the limit of stability, would bias the slope; it is left out, decided anew in each resample.
    A limit of stability is only known to lie between two rates of the grid. Each resample draws it from this range, uniformly
    in the logarithm, so that the interval is not narrower than the grid allows.
    """
    batches = np.array(sorted(sweep))

    def fit(rates: np.ndarray) -> tuple[float, float]:
        law = power_law(batches, rates)
        return law.exponent, law.coefficient

    exponent, coefficient = _over_seeds(fit, sweep, of, tolerance, repetitions, level, seed)
    return _scaling_exponent(exponent, coefficient, batches, _rates(sweep, _strata(sweep), of, tolerance))


def crossover_over_seeds(
    sweep: Sweep,
    of: Literal["optimal", "stable"] = "optimal",
    exponents: tuple[float, float] | None = (1.0, 0.0),
    tolerance: float = 0.0,
    repetitions: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Crossover, Interval]:
    """The two-piece law of `scaling_laws.crossover`, and the interval of its crossover batch.

    Resampling and excluded batches are as in `exponent_over_seeds`. ``undefined`` of the interval is the share of resamples
    whose crossover is outside the range of batches; the bounds come from the others.
    """
    batches = np.array(sorted(sweep))

    def fit(rates: np.ndarray) -> tuple[float]:
        law = crossover(batches, rates, exponents)
        return (law.batch if law.inside else math.nan,)

    (interval,) = _over_seeds(fit, sweep, of, tolerance, repetitions, level, seed)
    return crossover(batches, _rates(sweep, _strata(sweep), of, tolerance), exponents), interval


def _over_seeds(
    fit: Callable[[np.ndarray], Sequence[float]],
    sweep: Sweep,
    of: Literal["optimal", "stable"],
    tolerance: float,
    repetitions: int,
    level: float,
    seed: int,
) -> list[Interval]:
    """The intervals of the results of ``fit`` for the rates of all batches; for the resampling see `exponent_over_seeds`."""
    generator = np.random.default_rng([seed, 1])
    return bootstrap_fit(
        lambda losses: fit(_rates(sweep, losses, of, tolerance)),
        _strata(sweep),
        repetitions,
        level,
        seed,
        resampled_fit=lambda losses: fit(_rates(sweep, losses, of, tolerance, generator.uniform(size=len(sweep)))),
    )


def _strata(sweep: Sweep) -> list[np.ndarray]:
    """The losses of a sweep, one array for each batch and learning rate, both ascending."""
    return [np.asarray(sweep[batch][rate], dtype=float) for batch in sorted(sweep) for rate in sorted(sweep[batch])]


def _rates(
    sweep: Sweep,
    losses: list[np.ndarray],
    of: Literal["optimal", "stable"],
    tolerance: float,
    places: np.ndarray | None = None,
) -> np.ndarray:
    """The optimal or largest stable rate of every batch with ``losses`` in place of the sweep's; NaN if unknown.

    places: the assumed position of each limit of stability in its step of the grid (`StableLimit.between`); by default the
    middle.
    """
    remaining, found = iter(losses), []
    for number, batch in enumerate(sorted(sweep)):
        grid = {rate: next(remaining) for rate in sorted(sweep[batch])}
        if of == "stable":
            found.append(_limit_of(grid, tolerance).between(0.5 if places is None else float(places[number])))
        else:
            best = _optimum_of(grid)
            found.append(math.nan if best.border in ("lowest", "highest") else best.learning_rate)
    return np.array(found)


def _scaling_exponent(
    exponent: Interval, coefficient: Interval, batches: np.ndarray, rates: np.ndarray
) -> ScalingExponent:
    used = np.isfinite(rates)
    return ScalingExponent(exponent, coefficient, tuple(map(float, batches[used])), tuple(map(float, batches[~used])))
