"""The gain of tuning: the result of the defaults minus that of the winner of a search, over problems.

On a problem the gain is in a unit of the problem, such as the spread of the tuned methods there, so that gains on several
problems can be averaged. It estimates the gain of a new search: trials and seeds are resampled and the winner is chosen again, as
in `search_intervals`, and from six problems on the problems are resampled, too, outermost. Where the defaults win, it is 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from optbench.analysis.statistics.ranks import PROBLEMS
from optbench.analysis.statistics.search_intervals import (
    Search,
    SearchInterval,
    draws,
    draws_of_problems,
    means_over_seeds,
    nested_interval,
    observed,
    resample,
)


@dataclass(frozen=True)
class Gains:
    """Gains of several methods.

    table: a row for each method: method, gain, low, high, the mean over problems; behind, behind_low, behind_high, its gain minus
    the median one of all methods; problems, the number of problems with a finite gain; default_diverged, that of problems on
    which the defaults diverge and the winner trains. median: the median gain of all methods.
    """

    table: pd.DataFrame
    median: SearchInterval


def tuning_gains(
    searches: Mapping[str, Sequence[Search]],
    units: Sequence[float],
    default: int = 0,
    higher: bool = False,
    problems: bool | None = None,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    shared_trials: bool = False,
) -> Gains:
    """The gain of every method by its searches, one for each problem, in the ``units`` of the problems.

    default: the index of the trial of the defaults. higher: whether higher results are better. Problems on which a gain is not
    finite are left out of the mean of its method. shared_trials: as in `ranks.mean_ranks`. Intervals are e ± t se with T - 1
    degrees of freedom for the smallest number of trials T, and at most P - 1 if P problems are resampled.
    """
    methods, number = list(searches), len(units)
    tasks = [[searches[name][place] for name in methods] for place in range(number)]
    over_problems = number >= PROBLEMS if problems is None else problems
    sign = 1.0 if higher else -1.0
    winners = np.stack([observed(task) for task in tasks])
    defaults = np.stack([_defaults(task, default, [np.ones((1, one.seeds)) for one in task])[0] for task in tasks])
    with np.errstate(invalid="ignore"):
        seen = sign * (winners - defaults) / np.asarray(units, dtype=float)[:, None]
    generator = np.random.default_rng(seed)
    drawn = np.full((number, repetitions, len(methods)), math.nan)
    for place, problem, here, trials in draws_of_problems(tasks, repetitions, over_problems, generator, shared_trials):
        own = _resampled(tasks[problem], default, len(here), generator, trials)
        drawn[place, here] = sign * own / units[problem]
    degrees = min((int(one.random.sum()) for task in tasks for one in task), default=0) - 1
    if over_problems:
        degrees = min(degrees, number - 1)
    means, resampled = _finite_mean(seen), _finite_mean(drawn)
    middle, middles = np.nanmedian(means), _median(resampled)
    rows = []
    for place, name in enumerate(methods):
        gain = nested_interval(float(means[place]), resampled[:, place], degrees, level)
        behind = nested_interval(float(means[place] - middle), resampled[:, place] - middles, degrees, level)
        rows.append({
            "method": name, "gain": gain.estimate, "low": gain.low, "high": gain.high,
            "behind": behind.estimate, "behind_low": behind.low, "behind_high": behind.high,
            "problems": int(np.isfinite(seen[:, place]).sum()),
            "default_diverged": int((np.isinf(defaults[:, place]) & np.isfinite(winners[:, place])).sum()),
        })  # fmt: skip
    return Gains(pd.DataFrame(rows), nested_interval(float(middle), middles, degrees, level))


def _resampled(
    task: Sequence[Search],
    default: int,
    repetitions: int,
    generator: np.random.Generator,
    trials: np.ndarray | None,
) -> np.ndarray:
    """The winners' results minus those of the defaults (repetitions, methods), with the same seeds for both."""
    same, shared = int(generator.integers(2**62)), len({one.seeds for one in task}) == 1
    winners = resample(task, repetitions, np.random.default_rng(same), shared_seeds=shared, trials=trials)
    drawn = draws(task, repetitions, np.random.default_rng(same), False, shared, trials)
    with np.errstate(invalid="ignore"):
        found: np.ndarray = winners - _defaults(task, default, [seeds for _, seeds in drawn])
    return found


def _defaults(task: Sequence[Search], default: int, seeds: Sequence[np.ndarray]) -> np.ndarray:
    """The mean results of the defaults (resamples, methods)."""
    columns = [means_over_seeds(one.results, own)[:, default] for one, own in zip(task, seeds, strict=True)]
    return np.stack(columns, axis=1)


def _finite_mean(gains: np.ndarray) -> np.ndarray:
    """The mean over the first axis of the values that are finite; NaN without one."""
    finite = np.isfinite(gains)
    with np.errstate(invalid="ignore"):
        found: np.ndarray = np.where(finite, gains, 0.0).sum(0) / finite.sum(0)
    return found


def _median(gains: np.ndarray) -> np.ndarray:
    """The median over methods of gains (resamples, methods); NaN where a method has none."""
    found: np.ndarray = np.median(gains, axis=1)
    return found
