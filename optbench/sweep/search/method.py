"""The interface of a search: which cells of a grid to train next, and the answer that the finished ones give.

A method is a pure function of the grid, the results of the cells that it has chosen before, its options and its seed. It never
sees a clock, a process or the store. A search that was killed therefore chooses the same cells again.

Cells are chosen in rounds. A round is asked for as soon as all cells of the round before the last have ended, so that workers
have work while the last cells of a round are trained. `Seen.state` of those of the last round is "waiting", even if they have
ended: the choice must not depend on which worker was faster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

#: A cell as the command line spells it: {"batch": "64", "optimizer.learning_rate": "0.1", "seed": "0"}.
CellWords = Mapping[str, str]
#: The name of the grid of a cell, and its values.
Key = tuple[str, frozenset[tuple[str, str]]]
State = Literal["waiting", "paused", "done", "diverged", "failed"]


@dataclass(frozen=True)
class Grid:
    """One grid: every combination of the values of its axes, the last axis fastest.

    name: as in the experiment; empty if there is only one. axes: the values of each axis, as on the command line.
    intervals: axes typed as intervals, which have no values to list, as distributions of `optbench.config.tuning`:
        optimizer.learning_rate=interval(1e-5,0.1) is {distribution: uniform, low: 1e-5, high: 0.1}, and
        tag(log,interval(1e-5,0.1)) the same with log_uniform.
    """

    name: str
    axes: Mapping[str, tuple[str, ...]]
    intervals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of its cells."""
        count = 1
        for values in self.axes.values():
            count *= len(values)
        return count


@dataclass(frozen=True)
class Pick:
    """One cell that a search chooses.

    cell: one value for each axis of the grid, and for each of its intervals. A method may choose a value that no axis lists,
        and may add values of options in `Problem.search_space`.
    grid: the name of its grid.
    until: the steps after which the run is paused; None: it runs to its end. To continue a paused run, a method picks its cell
        again with a larger ``until``.
    """

    cell: CellWords
    grid: str = ""
    until: int | None = None

    @property
    def key(self) -> Key:
        """The cell, hashable; the same for all picks of a cell."""
        return self.grid, frozenset(self.cell.items())


@dataclass(frozen=True)
class Seen:
    """A cell that was chosen before, with its result.

    round: the number of the round that chose it first, from 0.
    state: waiting (no result yet), paused (at ``pick.until``), done, diverged or failed.
    value: of the goal at the end of the run, or at the last evaluation of a paused one; None if there is none.
    censored: True if the goal is a time to a target and the run ended at ``value`` without reaching it.
    evaluations: (step, value of the goal) of each evaluation so far, in order; only for methods that ask for them. While a
        run waits, those up to its last pause.
    steps: the optimizer steps taken. planned: the steps of the whole run.
    seconds: of training; None if unknown.
    first: the value of the goal before the first step; None if unknown.
    horizon: the steps after which a run that has not reached the target is censored; None if the goal is no time.
    """

    pick: Pick
    round: int
    state: State
    value: float | None = None
    censored: bool = False
    evaluations: tuple[tuple[int, float], ...] = ()
    steps: int = 0
    planned: int = 0
    seconds: float | None = None
    first: float | None = None
    horizon: int | None = None


@dataclass(frozen=True)
class Choice:
    """The cells of the next round; none if the search waits for results, or is over.

    why: the reason for which the search is over, such as "the budget of 10 % is spent"; empty while it goes on.
    """

    picks: tuple[Pick, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Answer:
    """The current answer of a search.

    line: one sentence for the live table, such as "batch: exponent 0.52 [0.41, 0.60]; 9 of 9 optima known to a factor 1.3".
    rows: one mapping of plain values for each condition (or pair, or setting), for tables and figures.
    surrogate: curves for the report's figure of the search, as plain values; empty if the method has none.
    """

    line: str
    rows: tuple[Mapping[str, Any], ...] = ()
    surrogate: tuple[Mapping[str, Any], ...] = ()


class Problem(Protocol):
    """The part of a sweep that a method may ask about."""

    @property
    def grids(self) -> Sequence[Grid]:
        """All grids of the sweep."""

    @property
    def size(self) -> int:
        """The number of cells of all grids, without those that a condition of the experiment excludes."""

    @property
    def total_steps(self) -> int:
        """The optimizer steps of all cells of all grids: the cost of the whole."""

    @property
    def higher(self) -> bool:
        """True if a larger value of the goal is better."""

    def exists(self, pick: Pick) -> bool:
        """False if a condition of the experiment excludes the cell."""

    def steps(self, pick: Pick) -> int:
        """The optimizer steps of the whole run of a cell."""

    def rungs(self, pick: Pick, shares: Sequence[float]) -> Sequence[int]:
        """The evaluations at or after these ``shares`` of the run of a cell, in steps (`optbench.config.rungs`).

        Raises UserError if two of them are the same, or one is the end of the run.
        """

    def search_space(self, pick: Pick) -> Mapping[str, Mapping[str, Any]]:
        """The search space of the optimizer of a cell, by keys of the command line ("optimizer.learning_rate").

        The distributions are those of `optbench.config.tuning`. Options that the command line or the experiment sets are left
        out. ``pick.cell`` has one value for each axis, and may lack the intervals.
        """


@dataclass(frozen=True)
class Options:
    """The options of a search: those of conf/search/NAME.yaml, and the number of picks in a round."""

    values: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    round_size: int = 4

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class Method(Protocol):
    """A search; `optbench.sweep.search.methods` lists them by the names of conf/search."""

    needs_evaluations: bool

    def check(self, problem: Problem, options: Options) -> None:
        """Raise UserError for options or axes with which the method cannot work, before anything starts."""

    def choose(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Choice:
        """The next round; ``seen`` is in the order in which the cells were chosen."""

    def answer(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Answer:
        """The answer of the finished cells; works for any number of them, also none."""
