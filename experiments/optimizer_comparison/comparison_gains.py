"""The gains of tuning, and the best of k trials."""

import math

import numpy as np
import pandas as pd
from comparison_problems import CELL, METRIC, RESULT, Problems

from optbench.analysis.statistics.search_intervals import observed
from optbench.analysis.statistics.tuning_budget import curves
from optbench.analysis.statistics.tuning_gains import Gains, tuning_gains


def gains_of_tuning(problems: Problems, repetitions: int) -> Gains | None:
    """The test loss of the defaults minus that of the winner, in the spreads of the problems; None without any.

    Methods that were tried on every problem, over the problems with a spread.
    """
    trials = sorted(problems.runs["trial"].unique())
    keys = [key for key in problems.common if not math.isnan(problems.spreads[key])]
    methods = [
        name
        for name in problems.everywhere
        if any(np.isfinite(observed([problems.found[name, *key]])).any() for key in keys)
    ]
    if not keys or len(methods) < 2 or trials[0] != 0 or len(trials) < 2:
        return None
    found = {name: [problems.found[name, *key] for key in keys] for name in methods}
    units = [problems.spreads[key] for key in keys]
    return tuning_gains(found, units, problems=problems.resampled, repetitions=repetitions, shared_trials=True)


def best_of_k(problems: Problems) -> pd.DataFrame:
    """The expected test loss of the best of k trials, on the seeds that choose, for every method and problem."""
    runs = problems.runs
    own = runs if problems.choosing is None else runs[runs["seed"].isin(problems.choosing)]
    return curves(own, CELL, METRIC, RESULT, repetitions=200)
