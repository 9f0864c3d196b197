"""Aggregates for each optimizer over all problems: interquartile mean, optimality gap and probability of improvement.

A run's score is its test accuracy divided by the mean of the best optimizer on the same problem, so that 1 equals the best. The
divisor is not resampled. A diverged run has the score of guessing.

Source: Agarwal et al. 2021, arXiv 2108.13264.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import Interval, bootstrap, interquartile_mean, optimality_gap, runs_needed
from optbench.analysis.statistics.profiles import probability_of_improvement

MEANINGS = (
    "The interquartile mean is that of the middle half of all runs, pooled over problems.",
    "The optimality gap is by how much the mean run stays below 1, where no run counts as more than 1.",
    "The probability of improvement is how often a run of the optimizer beats one of the first, on the same problem, averaged "
    "over problems, with ties counted half.",
)


def aggregates(
    scores: Mapping[str, Sequence[np.ndarray]], order: Sequence[str], chance: float, repetitions: int
) -> pd.DataFrame:
    """A row for each optimizer, in ``order``: each of the three with the bounds of a stratified bootstrap over seeds.

    scores: test accuracies, one array for each problem. ``improvement`` is over the first of ``order``, for which it is
    missing. Bounds are missing if no problem has two runs.
    """
    if not scores:
        return pd.DataFrame()
    problems = len(next(iter(scores.values())))
    floored = {name: [np.maximum(array, chance) for array in arrays] for name, arrays in scores.items()}
    best = [max(float(arrays[place].mean()) for arrays in floored.values()) for place in range(problems)]
    several = max(len(array) for arrays in scores.values() for array in arrays) > 1
    unknown = Interval(math.nan, math.nan, math.nan)
    rows = []
    for name in [name for name in order if name in scores]:
        relative = [array / reference for array, reference in zip(floored[name], best, strict=True)]
        row: dict[str, object] = {"optimizer": name}
        found = {
            "interquartile_mean": bootstrap(interquartile_mean, relative, repetitions),
            "optimality_gap": bootstrap(optimality_gap, relative, repetitions),
            "improvement": unknown
            if name == order[0] or order[0] not in scores
            else probability_of_improvement(scores[name], scores[order[0]], repetitions),
        }
        for key, interval in found.items():
            bounds = (interval.low, interval.high) if several else (math.nan, math.nan)
            row |= {key: interval.estimate, f"{key}_low": bounds[0], f"{key}_high": bounds[1]}
        rows.append(row)
    return pd.DataFrame(rows)


def seeds_needed(scores: Mapping[str, Sequence[np.ndarray]], first: str, second: str) -> int | None:
    """Estimate the number of seeds for each problem that distinguishes the mean accuracies of two optimizers over problems.

    The variance between seeds of the mean over P problems is the mean of the problems' variances divided by P. None if there
    are no two seeds of each, or no difference.
    """
    arrays = [*scores[first], *scores[second]]
    if min(map(len, arrays)) < 2 or not all(np.isfinite(array).all() for array in arrays):
        return None
    problems = len(scores[first])
    deviation = math.sqrt(float(np.mean([array.var(ddof=1) for array in arrays])) / problems)
    pairs = zip(scores[first], scores[second], strict=True)
    difference = float(np.mean([one.mean() - other.mean() for one, other in pairs]))
    return runs_needed(deviation, difference) if difference and deviation else None
