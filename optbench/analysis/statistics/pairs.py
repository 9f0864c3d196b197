"""Differences between two methods, paired by seed: what both runs of a seed have in common cancels."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from optbench.analysis.frames import outcomes, require
from optbench.analysis.statistics.settings import seeds_only


def differences_by_seed(
    runs: pd.DataFrame,
    metric: str,
    column: str,
    first: Any,
    second: Any,
    match: Sequence[str] = ("model", "dataset", "batch", "seed"),
) -> pd.DataFrame:
    """``metric`` of the runs with ``column`` = first minus that of the runs with ``column`` = second.

    One row a pair of runs that agree in all columns ``match``, with these, ``first``, ``second`` and ``difference``.
    A pair of which one run diverged has an infinite difference,
    a pair of which both did has none (NaN); a seed of which one run has no outcome is left out.
    The differences of a task go to `intervals.bootstrap` or `intervals.student`.
    """
    require(runs, [column, *match])
    runs = seeds_only(runs, [column, *match])
    table = runs[[column, *match]].assign(value=outcomes(runs, metric)).dropna(subset=["value"])
    sides = [
        table[table[column] == name].groupby(list(match), dropna=False)["value"].mean().rename(side)
        for name, side in ((first, "first"), (second, "second"))
    ]
    pairs = sides[0].to_frame().join(sides[1], how="inner").reset_index()
    found: pd.DataFrame = pairs.assign(difference=pairs["first"] - pairs["second"])
    return found
