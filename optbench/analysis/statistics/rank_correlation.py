"""Rank correlation of a measure with an outcome over runs, of which several share a setting.

The units are settings; seeds are replicas, since runs of one setting are alike in both values. A p-value that counts runs as
units rejects an absent relation in a quarter of the studies of six settings and three seeds. Here whole settings are permuted:
the outcomes of all seeds of a setting move together.

Source: Spearman 1904; permutation of exchangeable units: Good 2005, "Permutation, parametric and bootstrap tests of hypotheses".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import pandas as pd

from optbench.analysis.frames import require
from optbench.analysis.statistics.intervals import percentile_bounds

# Permutations are enumerated up to this number, that of seven units.
_MOST = math.factorial(7)
# Correlations that are equal may differ by rounding.
_ROUNDING = 1e-9
#: The fewest settings over which a correlation is more than a hint.
UNITS = 12


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation over all runs.

    low, high: between which the correlations of new settings and seeds lie, by resampling both; p: two-sided, the share of the
    permutations of settings with a correlation as far from 0; units: the number of settings; runs: that of runs; exact: whether
    all permutations were enumerated. What does not exist, as for a single setting or a constant measure, is NaN.
    """

    rho: float
    low: float
    high: float
    p: float
    units: int
    runs: int
    exact: bool


def rank_correlation(
    frame: pd.DataFrame,
    measure: str,
    outcome: str,
    units: Sequence[str],
    blocks: str = "seed",
    partial: Sequence[str] = (),
    repetitions: int = 20_000,
    level: float = 0.95,
    seed: int = 0,
) -> RankCorrelation:
    """Spearman's correlation of two columns over runs, with a p-value and an interval in which settings are the units.

    units: the columns that make a setting. blocks: the column that numbers its replicas; those that all settings have, with both
    values, are used. partial: columns whose effect is taken out: ranks are taken, and settings are permuted and resampled, within
    groups of settings that agree in them. All permutations are enumerated if they are at most 5,040, seven settings without
    ``partial``; otherwise ``repetitions`` are drawn. The interval takes a tenth as many resamples.

    Raises UserError if a column is missing, and ValueError if ``partial`` is not among ``units``, or a setting has a block twice.
    """
    require(frame, [measure, outcome, *units, blocks])
    if not {*partial} <= {*units}:
        raise ValueError(f"partial {list(partial)}: must be among the columns of units, {list(units)}")
    table = frame.dropna(subset=[measure, outcome])
    wide = table.pivot(index=list(units), columns=blocks, values=[measure, outcome]).dropna(axis=1)
    if wide.empty:
        return RankCorrelation(math.nan, math.nan, math.nan, math.nan, len(wide), 0, True)
    x, y = (wide[name].to_numpy(float) for name in (measure, outcome))
    keys = wide.index.to_frame(index=False)[list(partial)]
    group = keys.groupby(list(partial)).ngroup().to_numpy() if partial else np.zeros(len(wide), int)
    groups = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    generator = np.random.default_rng(seed)
    rho = float(_correlations(x[None], y[None], groups)[0])
    orders, exact = _orders(groups, repetitions, generator)
    # A permutation keeps the ranks of each group.
    permuted = _product(_ranks(x[None], groups), _ranks(y[None], groups)[0][orders])
    extreme = (np.abs(permuted) >= abs(rho) - _ROUNDING).sum()
    # Drawn permutations and the observed one.
    p = extreme / len(orders) if exact else (extreme + 1) / (len(orders) + 1)
    low, high = percentile_bounds(_resampled(x, y, groups, max(1, repetitions // 10), generator), level)
    if math.isnan(rho):
        low = high = p = math.nan
    return RankCorrelation(rho, low, high, float(p), len(x), x.size, exact)


def _ranks(values: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """The ranks of ``values`` (resamples, units, blocks) within each group of units, less their mean; ties share theirs."""
    from scipy.stats import rankdata

    found = np.empty(values.shape)
    for members in groups:
        own = values[:, members]
        ranks = rankdata(own.reshape(len(own), -1), axis=1)
        found[:, members] = (ranks - ranks.mean(1, keepdims=True)).reshape(own.shape)
    return found


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The correlations (resamples,) of centred ranks (resamples, units, blocks)."""
    squares = (x**2).sum((1, 2)) * (y**2).sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (x * y).sum((1, 2)) / np.sqrt(squares)
    return found


def _correlations(x: np.ndarray, y: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    return _product(_ranks(x, groups), _ranks(y, groups))


def _orders(groups: Sequence[np.ndarray], repetitions: int, generator: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Permutations (permutations, units) of the units within groups, and whether they are all there are."""
    units = sum(map(len, groups))
    exact = math.prod(math.factorial(len(members)) for members in groups) <= _MOST
    if exact:
        choices = product(*(permutations(members) for members in groups))
        orders = np.array([np.concatenate(choice) for choice in choices])
    else:
        orders = np.concatenate(
            [generator.permuted(np.tile(members, (repetitions, 1)), axis=1) for members in groups], axis=1
        )
    found = np.empty((len(orders), units), int)
    found[:, np.concatenate(groups)] = orders
    return found, exact


def _resampled(
    x: np.ndarray, y: np.ndarray, groups: Sequence[np.ndarray], repetitions: int, generator: np.random.Generator
) -> np.ndarray:
    """The correlations (repetitions,) of settings drawn with replacement within groups, and of seeds for all of them."""
    drawn = np.empty((repetitions, len(x)), int)
    for members in groups:
        drawn[:, members] = members[generator.integers(len(members), size=(repetitions, len(members)))]
    seeds = generator.integers(x.shape[1], size=(repetitions, x.shape[1]))
    cells = drawn[:, :, None], seeds[:, None, :]
    return _correlations(x[cells], y[cells], groups)
