"""The search of a sweep as its folder describes it: its grids, its method, and the results of the cells chosen so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optbench import config as configuration
from optbench.config.run_config import RunConfig
from optbench.errors import UserError
from optbench.store import RunDirectory
from optbench.store.claims import waits
from optbench.store.files import StoreError
from optbench.store.run_directory import FINISHED
from optbench.sweep.grid.lattice import Lattice
from optbench.sweep.plan import Plan
from optbench.sweep.search.goal import Goal
from optbench.sweep.search.method import Answer, Grid, Key, Method, Options, Pick, Seen, State
from optbench.sweep.search.methods import method
from optbench.sweep.search.record import Chosen, Record, searched_by

ENDED: tuple[State, ...] = ("done", "diverged", "failed", "paused")
_ROUND = 4  # cells in a round for round: auto


@dataclass(frozen=True)
class SearchedGrid:
    """The problem of a search: the lattice and the goal. cells, total_steps: of the whole grid."""

    lattice: Lattice
    goal: Goal
    size: int
    total_steps: int

    @property
    def grids(self) -> Sequence[Grid]:
        """All grids of the sweep."""
        return self.lattice.grids

    @property
    def higher(self) -> bool:
        """True if a larger value of the goal is better."""
        return self.goal.higher

    def exists(self, pick: Pick) -> bool:
        """False if a condition of the experiment excludes the cell, or it cannot run."""
        try:
            return self.lattice.exists(pick)
        except UserError:
            return False

    def steps(self, pick: Pick) -> int:
        """The optimizer steps of the whole run of a cell."""
        return self.lattice.steps(pick)

    def rungs(self, pick: Pick, shares: Sequence[float]) -> Sequence[int]:
        """The evaluations at or after these ``shares`` of the run of a cell, in steps; empty for a cell that does not exist."""
        cell = self.lattice.cell(pick)
        return () if cell is None else configuration.rungs(RunConfig.of(cell.config), shares)

    def search_space(self, pick: Pick) -> Mapping[str, Mapping[str, Any]]:
        """The search space of the optimizer of a cell, by keys of the command line."""
        return self.lattice.search_space(pick)


@dataclass
class Search:
    """The search of one sweep.

    problem, method, options: a choice is a function of these and of the results alone.
    """

    plan: Plan
    problem: SearchedGrid
    name: str
    method: Method
    options: Options
    _results: dict[str, tuple[str, Seen]] = field(default_factory=dict, repr=False)

    @classmethod
    def planned(cls, plan: Plan, lattice: Lattice, choice: Mapping[str, Any]) -> "Search":
        """The search that the configuration ``choice`` of the group asks for; raises UserError for one that cannot work."""
        search = cls._of(plan, lattice, choice, *lattice.totals)
        search.method.check(search.problem, search.options)
        return search

    @classmethod
    def of(cls, plan: Plan) -> "Search | None":
        """The search of a sweep that was started before; None if its whole grid is trained.

        Its grids are composed again from the words of its command, so that this must be the installation that started it.
        """
        information = plan.information()
        choice = searched_by(information)
        if choice is None:
            return None
        from optbench.sweep.grid.again import compose_again

        composed = compose_again([word for word in information["command"] if word != "--multirun"])
        if not isinstance(composed, Lattice):
            raise StoreError(f"{plan.path / 'sweep.json'}: its command has no search any more, its entry has one")
        return cls._of(plan, composed, choice, int(choice["cells"]), int(choice["steps"]))

    @classmethod
    def _of(cls, plan: Plan, lattice: Lattice, choice: Mapping[str, Any], cells: int, steps: int) -> "Search":
        options, name = _options(choice), str(choice["name"])
        grid = SearchedGrid(lattice, Goal.of(options.values, lattice.samples), cells, steps)
        return cls(plan, grid, name, method(name), options)

    def information(self) -> dict[str, Any]:
        """The entry of sweep.json from which `of` reads the search again."""
        values = {"name": self.name, **self.options.values}
        return {**values, "cells": self.problem.size, "steps": self.problem.total_steps}

    def record(self) -> Record:
        """The cells chosen so far."""
        return Record.of(self.plan.path)

    def seen(self, record: Record) -> list[Seen]:
        """The chosen cells with their results, in the order of choice; each cell once, with its latest pick."""
        latest: dict[Key, Chosen] = {}
        first: dict[Key, int] = {}
        for each in record.chosen:
            latest[each.pick.key] = each
            first.setdefault(each.pick.key, each.round)
        paused_at = record.paused_at()
        return [self._seen(each, first[key], paused_at[key]) for key, each in latest.items()]

    def without_latest(self, record: Record, seen: Sequence[Seen]) -> list[Seen]:
        """``seen`` with the cells of the last round as "waiting", even if they have ended."""
        latest, paused_at = record.latest(), record.paused_at()
        return [
            self._waiting(latest[key], each.round, paused_at[key]) if (key := each.pick.key) in latest else each
            for each in seen
        ]

    def _waiting(self, chosen: Chosen, first_round: int, paused_at: int) -> Seen:
        """A cell without its result; its evaluations are those up to its last pause, which do not change any more."""
        known: tuple[tuple[int, float], ...] = ()
        if paused_at and self.method.needs_evaluations and chosen.run_id:
            rows = self.problem.goal.evaluations(self.plan.directory(chosen.run_id))
            known = tuple(each for each in rows if each[0] <= paused_at)
        first = self.problem.goal.untrained
        return Seen(chosen.pick, first_round, "waiting", evaluations=known, planned=chosen.planned, first=first)

    def _seen(self, chosen: Chosen, first_round: int, paused_at: int) -> Seen:
        if not chosen.run_id:
            return Seen(chosen.pick, first_round, "failed")
        directory = self.plan.directory(chosen.run_id)
        status = directory.status()
        stamp = f"{status.state} {status.since} {chosen.pick.until}"
        kept = self._results.get(chosen.run_id)
        if kept is not None and kept[0] == stamp and kept[1].pick == chosen.pick:
            return kept[1]
        seen = self._read(chosen, first_round, directory, status.state, paused_at)
        if seen.state in ENDED:
            self._results[chosen.run_id] = (stamp, seen)
        return seen

    def _read(self, chosen: Chosen, first_round: int, directory: RunDirectory, state: str, paused_at: int) -> Seen:
        goal, detailed = self.problem.goal, self.method.needs_evaluations
        if state == "failed":
            rows = goal.evaluations(directory) if detailed else ()
            steps = rows[-1][0] if rows else 0
            return Seen(chosen.pick, first_round, "failed", evaluations=rows, steps=steps, planned=chosen.planned)
        summary = directory.summary() if state in FINISHED else None
        if summary is not None:
            return goal.of_summary(chosen, first_round, summary, directory, detailed)
        if state == "paused" and not waits(directory.status(), chosen.pick.until):
            return goal.of_history(chosen, first_round, directory)
        return self._waiting(chosen, first_round, paused_at)

    def answer(self, record: Record | None = None) -> Answer:
        """The answer of the runs that have ended."""
        seen = self.seen(record if record is not None else self.record())
        return self.method.answer(self.problem, seen, self.options)

    def spent(self, record: Record, seen: Sequence[Seen]) -> str:
        """The cost so far, such as "142 of 2,655 runs (5 %), 3 % of the steps"; a run that is several cells is trained once."""
        ids = {each.pick.key: each.run_id for each in record.chosen}
        steps = {ids[each.pick.key] or each.pick.key: each.steps for each in seen}
        return self.share([each.pick for each in seen], sum(steps.values()), len(steps))

    def share(self, picks: Sequence[Pick], steps: int, runs: int | None = None) -> str:
        """The cost of ``picks`` that take ``steps``, as shares of the grid; without shares if some are no cells of the grid.

        runs: of how many runs the picks are; None: of as many.
        """
        cells, axes = len(picks), {grid.name: grid.axes.keys() for grid in self.problem.grids}
        trained = cells if runs is None else runs
        if not picks or any(pick.cell.keys() != axes[pick.grid] for pick in picks):
            return f"{trained:,} runs, {steps:,} steps"
        share, cost = _percent(cells, self.problem.size), _percent(steps, self.problem.total_steps)
        of_size = f"of {self.problem.size:,}"
        counted = f"{cells:,} {of_size} runs" if trained == cells else f"{trained:,} runs for {cells:,} {of_size} cells"
        return f"{counted} ({share}), {cost} of the steps"


def _percent(part: float, whole: float) -> str:
    share = 100 * part / max(whole, 1)
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


def _options(choice: Mapping[str, Any]) -> Options:
    known = configuration.read_choice("search", str(choice["name"]))
    values = {name: choice.get(name, known[name]) for name in known["info"]["schema"]}
    size = values.get("round", "auto")
    return Options(values, int(values.get("seed", 0)), _ROUND if size == "auto" else int(size))
