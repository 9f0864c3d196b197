"""Replay a search on a grid that is trained: the search sees only the results of the cells that it has chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from optbench.sweep.search.method import Grid, Method, Options, Pick, Seen

_Key = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Table:
    """A trained grid as the problem of a search.

    losses (B, U, S): of each condition, rate and seed; infinity is a diverged run, NaN a cell that the grid does not have.
    taken (B, U, S): the steps of each run. planned (B,): those of a whole run. first: the loss before training; NaN if unknown.
    """

    conditions: np.ndarray
    rates: np.ndarray
    losses: np.ndarray
    taken: np.ndarray
    planned: np.ndarray
    first: float = math.nan
    over: str = "optimizer.learning_rate"
    law: str = "batch"
    higher: bool = False

    @cached_property
    def grids(self) -> Sequence[Grid]:
        """The one grid."""
        axes = {
            self.law: tuple(f"{value:g}" for value in self.conditions),
            self.over: tuple(repr(float(value)) for value in self.rates),
            "seed": tuple(str(seed) for seed in range(self.losses.shape[2])),
        }
        return [Grid("", axes)]

    @cached_property
    def size(self) -> int:
        """The number of cells that the grid has."""
        return int((~np.isnan(self.losses)).sum())

    @cached_property
    def total_steps(self) -> int:
        """The steps of all of them, as far as they are known before training."""
        return int(((~np.isnan(self.losses)).sum((1, 2)) * self.planned).sum())

    def exists(self, pick: Pick) -> bool:
        """True if the grid has the cell."""
        return not math.isnan(self.losses[self.cell(pick)])

    def steps(self, pick: Pick) -> int:
        """The steps of the whole run of a cell."""
        return int(self.planned[self.cell(pick)[0]])

    def search_space(self, pick: Pick) -> Mapping[str, Mapping[str, Any]]:
        """Nothing: only cells of the grid are trained."""
        return {}

    def rungs(self, pick: Pick, shares: Sequence[float]) -> Sequence[int]:
        """None: a table has the results of whole runs only."""
        return ()

    def cell(self, pick: Pick) -> tuple[int, int, int]:
        """The indices of a cell."""
        return self._cells[pick.cell[self.law], pick.cell[self.over], pick.cell["seed"]]

    @cached_property
    def _cells(self) -> dict[_Key, tuple[int, int, int]]:
        conditions, rates, seeds = self.grids[0].axes.values()
        return {
            (condition, rate, seed): (b, u, s)
            for b, condition in enumerate(conditions)
            for u, rate in enumerate(rates)
            for s, seed in enumerate(seeds)
        }

    def trained(self, seen: Seen) -> Seen:
        """The result of a chosen cell."""
        cell = self.cell(seen.pick)
        loss = float(self.losses[cell])
        if math.isinf(loss):
            return replace(seen, state="diverged", steps=int(self.taken[cell]))
        return replace(seen, state="done", value=loss, steps=int(self.taken[cell]))

    def permuted(self, seed: int) -> "Table":
        """The table with its seeds in another order, which no search may notice."""
        order = np.random.default_rng([seed, 3]).permutation(self.losses.shape[2])
        return replace(self, losses=self.losses[:, :, order], taken=self.taken[:, :, order])


def replay(method: Method, table: Table, options: Options) -> tuple[list[Seen], str]:
    """The cells that a search chooses until it is over, with their results, and the reason for which it is over.

    As while workers train: a round is chosen without the results of the round before it.
    """
    method.check(table, options)
    seen: list[Seen] = []
    latest: list[Seen] = []
    number = 0
    while True:
        choice = method.choose(table, [*seen, *latest], options)
        seen += [table.trained(each) for each in latest]
        if not choice.picks and latest:
            choice = method.choose(table, seen, options)
        if not choice.picks:
            return seen, choice.why
        latest = [_waiting(table, pick, number) for pick in choice.picks]
        number += 1


def _waiting(table: Table, pick: Pick, number: int) -> Seen:
    first = table.first if math.isfinite(table.first) else None
    return Seen(pick, number, "waiting", planned=table.steps(pick), first=first)
