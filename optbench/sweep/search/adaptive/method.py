"""search=adaptive: the optimum along one axis for each condition, and the law by which it moves."""

from collections.abc import Sequence

from optbench.errors import UserError
from optbench.sweep.search.adaptive.confirming import unconfirmed
from optbench.sweep.search.adaptive.costs import budget_of
from optbench.sweep.search.adaptive.lattice import Cell, Layout, Outcomes, layout
from optbench.sweep.search.adaptive.rounds import Round
from optbench.sweep.search.adaptive.state import Memory
from optbench.sweep.search.adaptive.words import line, rows, surrogate
from optbench.sweep.search.method import Answer, Choice, Options, Pick, Problem, Seen


class Adaptive:
    """Pools all conditions in a surrogate, and trains the cells that narrow the answer most for their cost.

    Each combination of the axes other than ``over``, ``law`` and the seed is a search of its own; they share the budget. The
    surrogate is described in `surrogate`, the answer in `answers`, the choice in `picking` and `rounds`.
    """

    needs_evaluations = False

    def __init__(self) -> None:
        self._problem: Problem | None = None
        self._layouts: dict[tuple[object, object], Layout] = {}
        self._memory = Memory()

    def check(self, problem: Problem, options: Options) -> None:
        """Raise UserError for axes or options with which there is no search."""
        found = self._layout(problem, options)
        budget_of(problem, options).check()
        if options["width"] is not None and all(search.law is None for search in found.searches):
            raise UserError(
                f"search.width={options['width']}: the sweep has no axis search.law, so there is no exponent; accepted: null, "
                "and search.factor for the optimum itself"
            )

    def choose(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Choice:
        """The next cells of all searches, by gain for their cost; first of all the grids that are too short to search.

        Once a search would be over, seeds at the chosen rates follow, as many as `confirm` says.
        """
        if not seen:
            whole = tuple(pick for pick in self._layout(problem, options).whole_picks() if problem.exists(pick))
            if whole:
                return Choice(whole)
        outcomes = self.outcomes(problem, seen, options)
        round_ = Round(problem, seen, outcomes, options, self._memory)
        picks = round_.picks or unconfirmed(problem, outcomes, options, self._memory)
        return Choice(tuple(picks), "" if picks else round_.why)

    def answer(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Answer:
        """The exponents and the optima of all searches, with their intervals."""
        outcomes = self.outcomes(problem, seen, options)
        states = [
            self._memory.state(number, each, options) if each.is_trained else None
            for number, each in enumerate(outcomes)
        ]
        laws = [state.law if state is not None else None for state in states]
        tables = [state.tables if state is not None else None for state in states]
        return Answer(line(outcomes, laws), rows(outcomes, laws), surrogate(outcomes, tables))

    def place(self, problem: Problem, pick: Pick, options: Options) -> tuple[int, Cell] | None:
        """The number of the search of a pick, and its cell; None for a cell of a grid that is trained whole."""
        found = self._layout(problem, options)
        number = found.of(pick)
        return None if number is None else (number, found.searches[number].cell(pick))

    def outcomes(self, problem: Problem, seen: Sequence[Seen], options: Options) -> list[Outcomes]:
        """The results of each search."""
        found = self._layout(problem, options)
        outcomes = [Outcomes(search) for search in found.searches]
        for each in seen:
            number = found.of(each.pick)
            if number is not None:
                outcomes[number].add(each, problem.higher)
        return outcomes

    def _layout(self, problem: Problem, options: Options) -> Layout:
        if problem is not self._problem:
            self._problem, self._layouts, self._memory = problem, {}, Memory()
        key = (options["over"], options["law"])
        if key not in self._layouts:
            self._layouts[key] = layout(problem, options)
        return self._layouts[key]
