"""The last runs of a search: seeds at the rates that it has chosen, which the narrowing of the answer does not need.

A search that knows where an optimum is need not train there. A study that reports the result at the optimum, such as a test
accuracy, asks for seeds at each chosen rate with ``search.confirm``. They come on top of the budget. If their results move a
chosen rate, the new one is confirmed, too.
"""

from collections.abc import Sequence

import numpy as np

from optbench.sweep.search.adaptive.lattice import Outcomes
from optbench.sweep.search.adaptive.state import Memory
from optbench.sweep.search.method import Options, Pick, Problem


def unconfirmed(problem: Problem, outcomes: Sequence[Outcomes], options: Options, memory: Memory) -> list[Pick]:
    """The first runs, at most a round, of those seeds at chosen rates that have not been trained."""
    picks: list[Pick] = []
    for number, each in enumerate(outcomes):
        if not options["confirm"] or not each.is_trained:
            continue
        law = memory.state(number, each, options).law
        for b, row in enumerate(law.conditions):
            if not np.isfinite(row.chosen):
                continue
            u = int(np.argmin(np.abs(np.log(each.search.rates / row.chosen))))
            seeds = np.flatnonzero(each.search.exists[b, u] & ~each.lost[b, u])[: options["confirm"]]
            missing = [each.search.pick((b, u, int(s))) for s in seeds if each.open[b, u, s]]
            picks += [pick for pick in missing if problem.exists(pick)]
            if len(picks) >= options.round_size:
                return picks[: options.round_size]
    return picks
