"""The choice of one round: the searches of a sweep share a budget by the gains of their best cells."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from optbench.sweep.search.adaptive.costs import budget_of, cost_of, costs_of
from optbench.sweep.search.adaptive.lattice import Outcomes
from optbench.sweep.search.adaptive.picking import Proposal, propose
from optbench.sweep.search.adaptive.state import Memory
from optbench.sweep.search.method import Options, Pick, Problem, Seen

# The finished runs of a search before it may be over because its answer is known well enough.
_FEWEST = 12
# The share of the conditions whose optimum has to be known.
_SHARE_OF_CONDITIONS = 0.9
# The cost of a round, as a share of the whole grid: a round of the dearest cells would spend the budget at once.
_ROUND = 0.012
# The gain of a search of which no run has trained, divided by its cells: such searches go first.
_UNTRAINED = 1e300


class Round:
    """The cells of one round, and the reason if there are none."""

    def __init__(
        self, problem: Problem, seen: Sequence[Seen], outcomes: Sequence[Outcomes], options: Options, memory: Memory
    ) -> None:
        self._problem, self._outcomes, self._options, self._memory = problem, outcomes, options, memory
        self._budget = budget_of(problem, options)
        whole = float(problem.total_steps if self._budget.in_steps else problem.size)
        spent = self._budget.spent(seen)
        self._left = self._budget.limit - spent
        self._largest = _ROUND * whole
        self._is_early = spent < options["minimum"] * whole
        self._cost = 0.0
        self._is_spent = False
        self.picks: list[Pick] = []
        self._known = [self._is_known(number) for number in range(len(outcomes))]
        self._choose()

    @property
    def why(self) -> str:
        """The reason for which no cell was chosen."""
        if self._outcomes and all(self._known):
            return "the answer is known as closely as was asked"
        if self._is_spent:
            return self._budget.why
        if not any(each.is_trained for each in self._outcomes):
            return "no rate trained: every run diverged or failed"
        return "no further run would change the answer"

    def _choose(self) -> None:
        gains = {number: self._gain(number) for number, known in enumerate(self._known) if not known}
        proposals: dict[int, Iterator[Proposal]] = {}
        while gains and len(self.picks) < self._options.round_size:
            number = max(gains, key=lambda each: (gains[each], -each))
            if number not in proposals:
                proposals[number] = self._proposals(number)
            found = next(proposals[number], None)
            if found is None:
                del gains[number]
                continue
            search = self._outcomes[number].search
            pick = search.pick(found.cell)
            if self._problem.exists(pick):
                self.picks.append(pick)
                self._cost += float(self._prices(number)[found.cell[0]])
            gains[number] = found.gain if math.isfinite(found.gain) else gains[number] / 2

    def _gain(self, number: int) -> float:
        """The gain of the best cell of a search for its cost."""
        outcomes = self._outcomes[number]
        if not outcomes.is_trained:
            return _UNTRAINED / (1 + outcomes.finished + int(outcomes.pending.sum()))
        allowed = self._allowed(number)
        key = (
            self._options.seed,
            self._options["picks"],
            self._options["quality"],
            outcomes.key(),
            outcomes.pending.tobytes(),
            allowed.tobytes(),
        )
        known = self._memory.gains.get(number)
        if known is None or known[0] != key:
            first = next(self._proposals(number), None)
            known = self._memory.gains[number] = (key, first.gain if first is not None else -1.0)
        return known[1]

    def _proposals(self, number: int) -> Iterator[Proposal]:
        outcomes = self._outcomes[number]
        if not outcomes.is_trained:
            return start(outcomes, lambda: self._allowed(number))
        state = self._memory.state(number, outcomes, self._options)
        costs = costs_of(outcomes, cost_of(self._options))
        picks = str(self._options["picks"])
        return propose(outcomes, state.drawn, state.tables, costs, lambda: self._allowed(number), picks)

    def _prices(self, number: int) -> np.ndarray:
        search = self._outcomes[number].search
        return search.planned if self._budget.in_steps else np.ones(len(search.conditions))

    def _allowed(self, number: int) -> np.ndarray:
        """The conditions (B,) of which one more run can be paid, in this round."""
        prices = self._prices(number) + self._cost
        is_paid: np.ndarray = prices <= self._left
        self._is_spent |= not is_paid.all()
        return is_paid & (prices <= self._largest) if self.picks else is_paid

    def _is_known(self, number: int) -> bool:
        """True if the answer of a search is as narrow as asked."""
        width, factor = self._options["width"], self._options["factor"]
        outcomes = self._outcomes[number]
        is_asked = factor is not None or (width is not None and outcomes.search.law is not None)
        if not is_asked or self._is_early or outcomes.finished < _FEWEST or not outcomes.is_trained:
            return False
        law = self._memory.state(number, outcomes, self._options).law
        exponent = law.exponent.high - law.exponent.low
        if width is not None and outcomes.search.law is not None and not exponent <= 2 * width:
            return False
        if factor is None:
            return True
        known = [row.optimum.high <= factor**2 * row.optimum.low for row in law.conditions]
        return bool(sum(known) >= _SHARE_OF_CONDITIONS * len(known))


def start(outcomes: Outcomes, allowed: Callable[[], np.ndarray]) -> Iterator[Proposal]:
    """Cells of one seed, from the cheapest conditions on, until one of them trains.

    In the two cheapest, the rates begin a quarter from the lowest, and spread; where one diverged, larger ones are left out. If
    none trains there, the other conditions begin with the lowest rate.
    """
    search = outcomes.search
    free = outcomes.open
    diverged = np.asarray(outcomes.diverged.any(-1))
    order = [int(b) for b in np.argsort(search.planned, kind="stable")]
    lowest = [(b, 0) for b in order[2:]]
    for b, u in [*((b, u) for u in _spread(len(search.rates)) for b in order[:2]), *lowest]:
        seeds = np.flatnonzero(search.exists[b, u])
        if not diverged[b, : u + 1].any() and len(seeds) and free[b, u, seeds[0]] and allowed()[b]:
            yield Proposal((b, u, int(seeds[0])), math.inf)


def _spread(count: int) -> list[int]:
    """All of range(count), the quarters first."""
    return list(dict.fromkeys([count // 4, count // 2, 0, 3 * count // 4, *range(count)]))
