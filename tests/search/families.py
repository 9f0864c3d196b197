"""Grids whose losses are formulas: the optimum of each batch is known, and the noise of every run is drawn from its seed."""

import math

import numpy as np

from optbench.analysis.laws.learning_rates import by_batch, exponent_over_seeds
from optbench.sweep.search.adaptive.method import Adaptive
from optbench.sweep.search.method import Options
from optbench.sweep.search.replay import Table, replay

VALUES = {
    "over": None,
    "law": None,
    "budget": None,
    "cost": "auto",
    "width": None,
    "factor": None,
    "minimum": 0.05,
    "quality": None,
    "confirm": 0,
    "picks": "bracket",
}


def options(seed=0, size=4, **values):
    return Options({**VALUES, **values}, seed, size)


def asymmetric(d):
    return 0.08 * np.minimum(d, 0) ** 2 + 0.05 * np.maximum(d, 0) ** 2


def table(
    optimum=lambda v: v - 14, valley=asymmetric, noise=1.0, seeds=5, batches=range(4, 13), limit=-1.5, draw=0, rates=13
):
    """log L = log .5 + valley(u - optimum(v)) + noise; rates 2^-12 and up in octaves, diverged above 2^limit."""
    v, u = np.array(batches, dtype=float), np.arange(-12.0, rates - 12)
    generator = np.random.default_rng([11, draw])
    d = u - np.array([optimum(x) for x in v])[:, None]
    y = valley(d) + 0.04 * np.maximum(v - 9, 0)[:, None] ** 1.5
    spread = noise * 0.02 * (1 + 5 * y)
    own = noise * 0.01 * generator.standard_normal(seeds)
    losses = np.exp(
        math.log(0.5) + y[:, :, None] + spread[:, :, None] * generator.standard_normal((*y.shape, seeds)) + own
    )
    losses = np.minimum(losses, 2.3)
    unstable = np.broadcast_to(u[:, None] > limit, (len(v), len(u), seeds))
    losses[unstable] = math.inf
    planned = 2.0 ** (15 - v)
    taken = np.where(unstable, 3.0, planned[:, None, None])
    return Table(2.0**v, 2.0**u, losses, taken, planned, first=2.3)


def sweep(grid):
    """The grid as the analysis of a study reads it."""
    return {
        float(batch): {
            float(rate): runs[~np.isnan(runs)]
            for rate, runs in zip(grid.rates, row, strict=True)
            if not np.isnan(runs).all()
        }
        for batch, row in zip(grid.conditions, grid.losses, strict=True)
    }


def exponent(grid):
    """That of the whole grid."""
    return exponent_over_seeds(sweep(grid), repetitions=1).exponent.estimate


def optima(grid):
    """Those of the whole grid, by batch."""
    return by_batch(sweep(grid))


class Search:
    """A search that is over: the cells it chose, the answer, and the shares of the grid's cost and runs."""

    def __init__(self, grid, seed=0, size=4, share=None, **values):
        method, self.grid = Adaptive(), grid
        known = ~np.isnan(grid.losses)
        if share is not None:
            values["budget"] = f"{100 * share * grid.taken[known].sum() / grid.total_steps:.6f}%"
        self.seen, self.why = replay(method, grid, options(seed, size, **values))
        self.answer = method.answer(grid, self.seen, options(seed, size, **values))
        self.cells = [grid.cell(each.pick) for each in self.seen]
        self.cost = sum(each.steps for each in self.seen) / grid.taken[known].sum()

    @property
    def exponent(self):
        row = self.answer.rows[0]
        return row["exponent"], row["exponent_low"], row["exponent_high"]

    @property
    def regrets(self):
        """The mean loss at each chosen rate minus the least of that batch, and how many seeds diverge there."""
        means = self.grid.losses.mean(-1)
        found = []
        for b, row in enumerate(self.answer.rows):
            u = int(np.argmin(np.abs(np.log(self.grid.rates / row["chosen"]))))
            found.append(means[b, u] - np.nanmin(means[b]))
        return np.array(found)
