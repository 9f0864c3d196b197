"""Which cells of a search to train next: those that narrow the answer most for their cost.

The gain of a cell is the expected narrowing of the exponent and of all optima, to first order. With targets F_q and the outcome
z_c of a cell over M draws of the posterior,

    gain_c = Σ_q max(Cov(F_q, z_c)² / Var(z_c) - 4 Var(F_q) / M, 0);

the second term is what draws of something unrelated seem to explain. Once a cell is picked, F and z are replaced by the residuals
of their regression on it, which is right whatever its outcome; runs that are under way count as picked. This is the linear part
of the knowledge gradient of correlated normal beliefs (Frazier et al. 2009).

bracket: candidates are the rates that are likely the best of their condition, or beside the best. The parabola of the answer
stands on these three, and the answer does not rest on cells that were chosen for being low. Every few picks the least known rate
that no run has looked at is trained, because a second optimum may be there. information: any cell is a candidate.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from optbench.sweep.search.adaptive.answers import Tables
from optbench.sweep.search.adaptive.lattice import Cell, Outcomes
from optbench.sweep.search.adaptive.surrogate import DIVERGED_ABOVE, Posterior

# The weight of all optima against that of the exponent.
OPTIMA = 4.0
# The probability of being the best rate, or half of that of being beside it, from which a rate is near the optimum.
_NEAR = 0.15
# Every so many-th cell of a search is one that no run has looked at, so many rates or more away from the likeliest optimum,
# unless the loss there is likely close to divergence (z above this).
_LOOK, _AWAY, _HOPELESS = 10, 2, 2.6
# The cost of a run that diverges, as a share of its steps.
_COST_OF_DIVERGENCE = 1e-3
_DIGITS = 10

Allowed = Callable[[], np.ndarray]
"""Says (B,) of which conditions a run may still be picked; it is asked before each proposal."""


@dataclass(frozen=True)
class Proposal:
    """A cell to train, and its gain for its cost, by which searches share a budget."""

    cell: Cell
    gain: float


def propose(
    outcomes: Outcomes, drawn: Posterior, tables: Tables, costs: np.ndarray, allowed: Allowed, picks: str
) -> Iterator[Proposal]:
    """Propose cells in order, each taken as picked. costs (B,): of a run of each condition. picks: bracket or information.

    It ends where no cell would tell anything about the answer.
    """
    columns = len(drawn.z)
    shape = (columns, *outcomes.search.exists.shape[:2])
    free = np.moveaxis(outcomes.open, 2, 0)[:columns].copy()
    near = nearby(tables) >= (_NEAR if picks == "bracket" else 0.0)
    elsewhere = _elsewhere(outcomes, drawn, tables)
    draws = drawn.z.reshape(-1, drawn.z.shape[-1])
    deviations = draws - draws.mean(-1, keepdims=True)
    targets = _targets(tables)
    likely = (draws > DIVERGED_ABOVE).mean(-1).reshape(shape)
    price = (costs[:, None] * _shares(tables, likely)).ravel()
    for pending in np.flatnonzero(np.moveaxis(outcomes.pending, 2, 0)[:columns].ravel()):
        deviations, targets = _without(deviations, targets, int(pending))
    number = int((outcomes.search.exists & ~outcomes.open).sum())
    while True:
        number += 1
        possible = free & allowed()[:, None]
        gains = np.where(possible.ravel(), _gains(deviations, targets) / price, 0.0)
        close = np.where((possible & near).ravel(), gains, 0.0)
        unseen = np.where((possible & elsewhere).ravel(), (deviations**2).mean(-1) / price, 0.0)
        if picks == "bracket" and number % _LOOK == 0 and unseen.any():
            gains = unseen * gains.max() / unseen.max()
        elif close.any():
            gains = close
        cell = int(np.argmax(_rounded(gains)))
        if gains[cell] <= 0:
            return
        column, condition, rate = (int(index) for index in np.unravel_index(cell, shape))
        free[column, condition, rate] = False
        elsewhere[condition, rate] = False
        yield Proposal((condition, rate, column), float(gains[cell]))
        deviations, targets = _without(deviations, targets, cell)


def _shares(tables: Tables, likely: np.ndarray) -> np.ndarray:
    """The expected length (C, B, U) of a run as a share of its budget; ``likely``: the probability that it diverges.

    A run that is not known to reach its target takes its whole budget.
    """
    if math.isfinite(tables.horizon):
        return np.asarray(np.minimum(tables.losses, tables.horizon).mean(-1) / tables.horizon)
    return (1 - likely) + _COST_OF_DIVERGENCE * likely


def _gains(deviations: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The gain (N,) of each cell."""
    count = deviations.shape[-1]
    variance = np.maximum((deviations**2).mean(-1), 1e-12)
    covariance = targets @ deviations.T / count
    floor = 4 * (targets**2).mean(-1, keepdims=True) / count
    return np.asarray(np.maximum(covariance**2 / variance - floor, 0.0).sum(0))


def nearby(tables: Tables) -> np.ndarray:
    """The probability (B, U) of being the best rate, and half of that of being beside it."""
    known = ~np.isnan(tables.means[0])
    best = np.argmin(np.where(known, tables.means, math.inf), -1)
    shares = (best[..., None] == np.arange(known.shape[1])).mean(0) * known
    beside = np.zeros_like(shares)
    beside[:, 1:] += shares[:, :-1]
    beside[:, :-1] += shares[:, 1:]
    return np.asarray(shares + beside / 2)


def _elsewhere(outcomes: Outcomes, drawn: Posterior, tables: Tables) -> np.ndarray:
    """The rates (B, U) at which no run was chosen, away from the likeliest best, and where the loss may be low."""
    shares = nearby(tables)
    untouched = ~(outcomes.search.exists & ~outcomes.open).any(-1)
    away = np.abs(np.arange(shares.shape[1]) - np.argmax(shares, 1)[:, None]) >= _AWAY
    level = drawn.z.mean((0, -1)).reshape(shares.shape)
    return np.asarray(untouched & away & (level < _HOPELESS))


def _targets(tables: Tables) -> np.ndarray:
    """The quantities to be known (Q, M): the exponent and all optima, in units of octaves, without their outermost hundredths.

    Conditions count by their importance.
    """
    v, importance = tables.search.v, tables.importance
    slope = tables.slopes * math.sqrt((importance * (v - np.average(v, weights=importance)) ** 2).sum())
    shares = np.sqrt(OPTIMA * importance / importance.sum())
    rows = []
    for row in (slope, *(tables.rates.T * shares[:, None])):
        known = row[np.isfinite(row)]
        if len(known) > 1:
            low, high = np.quantile(known, [0.01, 0.99])
            rows.append(np.where(np.isfinite(row), np.clip(row, low, high) - known.mean(), 0.0))
    kept = np.array(rows).reshape(len(rows), len(slope))
    return np.asarray(kept - kept.mean(-1, keepdims=True))


def _without(deviations: np.ndarray, targets: np.ndarray, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """The rest once the cell is known: the residuals of the regression on it."""
    own = deviations[cell]
    square = float(own @ own)
    if square <= 0:
        return deviations, targets
    return deviations - np.outer(deviations @ own / square, own), targets - np.outer(targets @ own / square, own)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Relative to the largest, without the last bits, which depend on the number of threads of the linear algebra."""
    top = float(np.max(np.abs(values), initial=0.0))
    return np.asarray(np.round(values / top, _DIGITS)) if top > 0 else values
