"""The independent searches of a sweep as lattices of conditions x rates x seeds, and their outcomes as arrays."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from optbench.errors import UserError, nearest
from optbench.sweep.search.method import Grid, Options, Pick, Problem, Seen

RATE, BATCH, SEED = "optimizer.learning_rate", "batch", "seed"
# The least number of rates among which an optimum is searched; of fewer, all are trained.
FEWEST_RATES = 3
# The largest lattice of conditions x rates: the time of a round grows with its third power.
LARGEST = 2000
# Up to so many cells it is asked of each whether it exists; up to so many conditions x rates, of the first seed; of a larger
# sweep, only of the cells that are to be picked.
_EXAMINED, _EXAMINED_RATES = 1_000, 5_000
# The least error 1 - accuracy: a perfect score has no logarithm.
LEAST_ERROR = 1e-4
# The seeds that are drawn for an answer, even if fewer have begun; more stand for those that no run has used.
_COLUMNS = 5

Cell = tuple[int, int, int]
"""The indices of a condition, a rate and a seed."""


@dataclass(frozen=True, eq=False)
class Search:
    """One search: where along ``rates`` (U,) is the optimum of each of the ``conditions`` (B,), and how does it move?

    grid, axes: the name of the grid, and those of its axes. over, law, seed: the names of those that it varies; None if there is
    none. fixed: the values of the others. rates, conditions: ascending, with the words of the command line. exists (B, U, S):
    False for excluded cells. planned (B,): the steps of a run, which are taken to be the same at all rates.
    """

    grid: str
    axes: tuple[str, ...]
    fixed: Mapping[str, str]
    over: str
    law: str | None
    seed: str | None
    rates: np.ndarray
    rate_words: tuple[str, ...]
    conditions: np.ndarray
    condition_words: tuple[str, ...]
    seed_words: tuple[str, ...]
    exists: np.ndarray
    planned: np.ndarray

    @cached_property
    def u(self) -> np.ndarray:
        """The rates in octaves."""
        return np.asarray(np.log2(self.rates))

    @cached_property
    def v(self) -> np.ndarray:
        """The conditions in octaves."""
        return np.asarray(np.log2(self.conditions))

    @cached_property
    def places(self) -> dict[tuple[str, str, str], Cell]:
        """The cells by their words."""
        words = itertools.product(*map(enumerate, (self.condition_words, self.rate_words, self.seed_words)))
        return {(b[1], u[1], s[1]): (b[0], u[0], s[0]) for b, u, s in words}

    def pick(self, cell: Cell) -> Pick:
        """The cell in words."""
        b, u, s = cell
        words = {**self.fixed, self.over: self.rate_words[u]}
        if self.law is not None:
            words[self.law] = self.condition_words[b]
        if self.seed is not None:
            words[self.seed] = self.seed_words[s]
        return Pick({name: words[name] for name in self.axes}, self.grid)

    def cell(self, pick: Pick) -> Cell:
        """The cell of a pick of this search; raises UserError for one that the grid does not have, as it was changed."""
        law = pick.cell[self.law] if self.law is not None else ""
        seed = pick.cell[self.seed] if self.seed is not None else ""
        try:
            return self.places[law, pick.cell[self.over], seed]
        except KeyError:
            words = " ".join(f"{name}={word}" for name, word in pick.cell.items())
            raise UserError(
                f"{words}: the search has chosen this cell, and its grid does not have it any more; accepted: the values with "
                "which the search began, or a new one, sweep=NAME"
            ) from None


class Outcomes:
    """The results of the cells of one search, as far as they are known.

    losses (B, U, S): NaN if none, infinity if diverged. pending: chosen, without a result. lost: ended without an outcome.
    diverged: infinite because the run diverged. steps, seconds: those taken, NaN if unknown. first: the loss before training; NaN
    if unknown.

    A time to a target is a share of the budget of its run, so that conditions with budgets of different length have one scale.
    It is infinite if the run ended without reaching the target; in means over seeds it then counts as the ``horizon``, which is
    1 for times, and infinity for other goals: a mean of times is a restricted mean.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.losses = np.full(search.exists.shape, math.nan)
        self.pending, self.lost, self.diverged = (np.zeros(search.exists.shape, dtype=bool) for _ in range(3))
        self.steps, self.seconds = (np.full(search.exists.shape, math.nan) for _ in range(2))
        self.first, self.horizon = math.nan, math.inf

    def add(self, seen: Seen, higher: bool) -> None:
        """Enter one result."""
        cell = self.search.cell(seen.pick)
        if seen.state in ("waiting", "paused"):
            self.pending[cell] = True
            return
        self.steps[cell] = seen.steps or math.nan
        self.seconds[cell] = math.nan if seen.seconds is None else seen.seconds
        self.diverged[cell] = seen.state == "diverged"
        share = 1.0
        if seen.horizon is not None:
            self.horizon, share = 1.0, 1.0 / max(seen.horizon, 1)
        if seen.state == "diverged" or seen.censored:
            self.losses[cell] = math.inf
        elif seen.state == "done" and seen.value is not None:
            self.losses[cell] = _loss(seen.value * share, higher)
        else:
            self.lost[cell] = True
        if seen.first is not None:
            # The greatest: the order of arrival must not matter.
            self.first = float(np.fmax(self.first, _loss(seen.first, higher)))

    @property
    def open(self) -> np.ndarray:
        """The cells (B, U, S) that may be picked."""
        found: np.ndarray = self.search.exists & np.isnan(self.losses) & ~self.pending & ~self.lost
        return found

    @property
    def is_trained(self) -> bool:
        """True if a run has ended with a loss."""
        return bool(np.isfinite(self.losses).any())

    @property
    def started(self) -> int:
        """The number of seeds of which a run was chosen, counted up to the last of them."""
        used = (~np.isnan(self.losses) | self.pending | self.lost).any((0, 1))
        return int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0

    @property
    def finished(self) -> int:
        """The number of cells with an outcome."""
        return int((~np.isnan(self.losses)).sum())

    def key(self) -> tuple[object, ...]:
        """All values that a posterior depends on."""
        return self.losses.tobytes(), self.lost.tobytes(), self.started, self.first, self.horizon

    @property
    def units(self) -> np.ndarray:
        """The factor of a loss of each condition (B,) for a person: the budget in steps if it is a time, else 1."""
        is_time = math.isfinite(self.horizon)
        return self.search.planned.astype(float) if is_time else np.ones(len(self.search.conditions))

    def columns(self) -> np.ndarray:
        """The losses (C, B, U) of the seeds that a posterior draws: those started, and some that stand for all others."""
        count = min(len(self.search.seed_words), max(self.started + 1, _COLUMNS))
        return np.moveaxis(self.losses, 2, 0)[:count]

    def weights(self) -> np.ndarray:
        """The number of seeds (C, B, U) for which each column of `columns` stands; 0 for a cell that has no outcome."""
        counted = np.moveaxis(self.search.exists & ~self.lost, 2, 0).astype(float)
        columns, started = len(self.columns()), self.started
        weights = counted[:columns].copy()
        if columns < len(counted):
            weights[started:] = counted[started:].sum(0) / (columns - started)
        return weights


def _loss(value: float, higher: bool) -> float:
    loss = max(1 - value, LEAST_ERROR) if higher else value
    return loss if loss > 0 and not math.isnan(loss) else (1e-12 if loss <= 0 else math.inf)


# ---- from the axes of a sweep ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layout:
    """All searches of a sweep, and the grids that are too short along the axis to be searched, which are trained whole."""

    searches: tuple[Search, ...]
    whole: tuple[Grid, ...]
    by_words: Mapping[tuple[str, tuple[tuple[str, str], ...]], int]

    def of(self, pick: Pick) -> int | None:
        """The number of the search of a pick; None for a cell of a grid that is trained whole."""
        axes = self._axes.get(pick.grid, frozenset())
        own = tuple(sorted((name, word) for name, word in pick.cell.items() if name not in axes))
        return self.by_words.get((pick.grid, own))

    @cached_property
    def _axes(self) -> dict[str, frozenset[str | None]]:
        return {each.grid: frozenset((each.over, each.law, each.seed)) for each in self.searches}

    def whole_picks(self) -> Iterator[Pick]:
        """All cells of the grids that are trained whole."""
        for grid in self.whole:
            for words in itertools.product(*grid.axes.values()):
                yield Pick(dict(zip(grid.axes, words, strict=True)), grid.name)


def layout(problem: Problem, options: Options) -> Layout:
    """The searches of a sweep; raises UserError for axes that cannot be searched."""
    over, law = _over(problem.grids, options["over"]), options["law"]
    if law is not None and not any(len(_numbers(grid, law)) > 1 for grid in problem.grids):
        raise UserError(f"search.law={law}: no axis of the sweep with two numbers or more; {_axes(problem.grids, 2)}")
    if law == over:
        raise UserError(f"search.law={law}: this is the axis of search.over; {_axes(problem.grids, 2)}")
    searches: list[Search] = []
    whole = []
    for grid in problem.grids:
        for key in grid.intervals:
            raise UserError(
                f"{key}: search=adaptive chooses among values, not from an interval; accepted: a list of values"
            )
        if len(_numbers(grid, over)) < FEWEST_RATES:
            whole.append(grid)
        else:
            searches.extend(_searches(problem, grid, over, law))
    keys = [(search.grid, tuple(sorted(search.fixed.items()))) for search in searches]
    return Layout(tuple(searches), tuple(whole), {key: number for number, key in enumerate(keys)})


def _over(grids: Sequence[Grid], over: str | None) -> str:
    name = RATE if over is None else over
    if max((len(_numbers(grid, name)) for grid in grids), default=0) >= FEWEST_RATES:
        return name
    said = "search.over: the sweep has no axis" if over is None else f"search.over={name}: the sweep has no such axis"
    return _refuse(
        f"{said}{f' {RATE}' if over is None else ''} with three numbers or more; {_axes(grids, FEWEST_RATES)}"
    )


def _refuse(message: str) -> str:
    raise UserError(message)


def _axes(grids: Sequence[Grid], fewest: int) -> str:
    return nearest("", {name for grid in grids for name in grid.axes if len(_numbers(grid, name)) >= fewest})


def _numbers(grid: Grid, axis: str) -> dict[float, str]:
    """The values of an axis, ascending, each with its word; none unless all are positive numbers."""
    found: dict[float, str] = {}
    for word in grid.axes.get(axis, ()):
        try:
            number = float(word)
        except ValueError:
            return {}
        if not 0 < number < math.inf:
            return {}
        found.setdefault(number, word)
    return dict(sorted(found.items()))


def _searches(problem: Problem, grid: Grid, over: str, law: str | None) -> Iterator[Search]:
    rates = _numbers(grid, over)
    named = law if law is not None else (BATCH if over != BATCH else None)
    conditions = _numbers(grid, named) if named is not None else {}
    axis = named if len(conditions) > 1 else None
    if axis is None:
        conditions = {1.0: ""}
    seed = SEED if SEED in grid.axes and over != SEED and axis != SEED else None
    seeds = grid.axes[seed] if seed is not None else ("",)
    seeds = tuple(dict.fromkeys(seeds))
    examined = len(seeds) if problem.size <= _EXAMINED else int(problem.size <= _EXAMINED_RATES * len(seeds))
    if len(rates) * len(conditions) > LARGEST:
        raise UserError(
            f"search=adaptive: {len(conditions)} values of {axis} times {len(rates)} of {over} are "
            f"{len(rates) * len(conditions)}; accepted: up to {LARGEST} in one search"
        )
    others = {name: words for name, words in grid.axes.items() if name not in (over, axis, seed)}
    for words in itertools.product(*others.values()):
        found = Search(
            grid.name,
            tuple(grid.axes),
            dict(zip(others, words, strict=True)),
            over,
            axis,
            seed,
            np.array(list(rates)),
            tuple(rates.values()),
            np.array(list(conditions)),
            tuple(conditions.values()),
            seeds,
            np.ones((len(conditions), len(rates), len(seeds)), dtype=bool),
            np.ones(len(conditions)),
        )
        _examine(problem, found, examined)
        if found.exists.any():
            yield _with_cells(found)


def _with_cells(search: Search) -> Search:
    """Without the conditions that the experiment excludes at every rate."""
    kept = search.exists.any((1, 2))
    if kept.all():
        return search
    return replace(
        search,
        conditions=search.conditions[kept],
        condition_words=tuple(search.condition_words[b] for b in np.flatnonzero(kept)),
        exists=search.exists[kept],
        planned=search.planned[kept],
    )


def _examine(problem: Problem, search: Search, seeds: int) -> None:
    """Enter which cells of the first ``seeds`` exist, the others like the last of these, and the steps of each condition."""
    conditions, rates, _ = search.exists.shape
    for b, u, s in np.ndindex(conditions, rates, seeds):
        search.exists[b, u, s:] = problem.exists(search.pick((b, u, s)))
    for b in range(conditions):
        there = np.argwhere(search.exists[b])
        if len(there):
            u, s = map(int, there[0])
            search.planned[b] = max(problem.steps(search.pick((b, u, s))), 1)
