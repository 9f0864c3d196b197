"""Detect failed searches: a tuned method that contains another one and loses to it.

The best setting of a method is at least as good as that of a method that it contains, such as SGD, which is momentum SGD with a
momentum of 0. A search that finds less has failed, since the contained method's winner is a setting of its own space. The
question is whether this search did, so that the winners are compared as they are: the noise is that of seeds, not of trials.

Source: Choi et al. 2019, "On empirical comparisons of optimizers for deep learning", arXiv 1910.05446; Holm 1979.
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.search_intervals import Search, winner_results


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """The p-values of several tests adjusted so that the chance of any false rejection is kept; NaN is no test.

    The i-th smallest of m is multiplied by m - i + 1, and raised to the largest before it, up to 1.
    """
    values = np.asarray(p, dtype=float)
    found = np.full(len(values), math.nan)
    order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]
    factors = np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return found


def inclusion_failures(
    searches: Mapping[tuple[Hashable, ...], Search], contains: Sequence[tuple[str, str]], level: float = 0.95
) -> pd.DataFrame:
    """The winner of each containing method minus that of the contained one, in each cell that has both, seed by seed.

    searches: by (method, *cell), as `searches.searches` returns; those of a cell have the same seeds. contains: pairs (container,
    contained).

    Columns: container, contained, cell (a tuple); difference, low, high, the mean over the seeds that both have with Student's
    interval, in the units of the results, of which higher ones are better; seeds, their number; p, one-sided, of the hypothesis
    that the container is at least as good; p_holm, `holm` of all rows; failed, whether p_holm is below 1 - ``level``, or only the
    container has no winner. The estimates are of the kind "winner".
    """
    from scipy.special import stdtr

    rows = []
    for container, contained in contains:
        for key in [key for key in searches if key[0] == container and (contained, *key[1:]) in searches]:
            first, second = (winner_results(searches[name, *key[1:]]) for name in (container, contained))
            differences = (first - second)[np.isfinite(first - second)]
            found, n = student(differences, level), len(differences)
            with np.errstate(invalid="ignore", divide="ignore"):
                # Infinite if all seeds differ alike, and 0 if they do not differ.
                t = np.nan_to_num(found.estimate / (differences.std(ddof=1) / math.sqrt(n)), nan=0.0) if n > 1 else 0.0
            lost = bool(np.isnan(first).all() and not np.isnan(second).all())
            rows.append({
                "container": container, "contained": contained, "cell": key[1:],
                "difference": found.estimate, "low": found.low, "high": found.high, "seeds": n,
                "p": float(stdtr(n - 1, t)) if n > 1 else math.nan, "failed": lost,
            })  # fmt: skip
    columns = ["container", "contained", "cell", "difference", "low", "high", "seeds", "p", "failed"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(8, "p_holm", holm(table["p"].to_list()))
    return table.assign(failed=table["failed"].astype(bool) | (table["p_holm"] < 1 - level))
