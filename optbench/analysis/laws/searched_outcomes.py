"""The results of the runs that search=adaptive chose, as the tables from which its surrogate draws the rest."""

import math

import numpy as np
import pandas as pd

from optbench.analysis.frames import outcomes
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better
from optbench.sweep.search.adaptive.lattice import LEAST_ERROR, Outcomes
from optbench.sweep.search.adaptive.method import Adaptive
from optbench.sweep.search.reading import Search

#: The seeds of the surrogates of different searches differ by this.
SEEDS = 1000

Places = dict[str, tuple[int, tuple[int, int, int], Outcomes, int]]
"""By run id: the number of its search, its cell, the outcomes of the search, and the seed of the search."""


def places_of(study: Study) -> Places:
    """The places of all runs of a study that search=adaptive chose; empty for any other study."""
    search = Search.of(study.plan)
    if search is None or not isinstance(search.method, Adaptive):
        return {}
    record = search.record()
    every = search.method.outcomes(search.problem, search.seen(record), search.options)
    found: Places = {}
    for chosen in record.chosen:
        place = search.method.place(search.problem, chosen.pick, search.options) if chosen.run_id else None
        if place is not None:
            found[chosen.run_id] = (*place, every[place[0]], search.options.seed)
    return found


def entered(outcomes_: Outcomes, runs: pd.DataFrame, places: Places, number: int, metric: str) -> Outcomes:
    """The outcomes of a search with another result in place of its goal: the error of an accuracy; infinity if diverged."""
    found = Outcomes(outcomes_.search)
    found.lost = outcomes_.lost | ~np.isnan(outcomes_.losses)
    values = outcomes(runs, metric)
    if higher_is_better(metric):
        values = (1 - values).clip(lower=LEAST_ERROR)
    values = values.mask(runs["status"] == "diverged", math.inf)
    for run_id, value in zip(runs["run_id"], values, strict=True):
        if run_id in places and places[run_id][0] == number and not math.isnan(value):
            cell = places[run_id][1]
            found.losses[cell], found.lost[cell] = value, False
    return found
