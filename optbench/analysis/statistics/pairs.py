"""Differences between two methods, paired by seed, so that effects common to both runs of a seed cancel."""

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

    One row for each pair of runs that agree in all columns ``match``, with these, ``first``, ``second`` and ``difference``.
    If one run of a pair diverged, the difference is infinite; if both did, it is NaN; a seed is left out if one of its runs
    has no outcome. The differences of a task are the input of `intervals.bootstrap` or `intervals.student`.
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
