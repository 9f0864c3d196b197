"""The draws and the answer of one search, remembered until its results change."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

from optbench.sweep.search.adaptive.answers import Law, Tables, answer
from optbench.sweep.search.adaptive.lattice import Outcomes
from optbench.sweep.search.adaptive.surrogate import Posterior, posterior
from optbench.sweep.search.method import Options

# The arms of all intervals are longer than the quantiles of the draws say: the process does not know that picks were made for
# being near the optimum, nor the tails of the noise.
STRETCH = 1.4
_KEPT = 4


@dataclass(frozen=True, eq=False)
class State:
    """The draws of one search, and its answer."""

    outcomes: Outcomes
    drawn: Posterior
    tables: Tables

    @cached_property
    def law(self) -> Law:
        """The answer, which picks do not need."""
        return answer(self.tables, self.outcomes, STRETCH)


class Memory:
    """The states of a few searches, and the gains of all. Each entry is a function of its key, so this only saves time."""

    def __init__(self) -> None:
        self._states: OrderedDict[tuple[object, ...], State] = OrderedDict()
        self.gains: dict[int, tuple[tuple[object, ...], float]] = {}

    def state(self, number: int, outcomes: Outcomes, options: Options) -> State:
        """The state of search ``number``."""
        quality = options["quality"]
        key = (number, options.seed, quality, *outcomes.key())
        if key not in self._states:
            drawn = posterior(outcomes, options.seed)
            self._states[key] = State(outcomes, drawn, Tables(outcomes, drawn, quality))
            while len(self._states) > _KEPT:
                self._states.popitem(last=False)
        return self._states[key]
