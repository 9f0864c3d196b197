"""The costs to the target of the chosen trial at every batch size: FLOPs, seconds, and the bytes held meanwhile."""

import math
from collections.abc import Sequence

import pandas as pd

from optbench.analysis.charts.chart import Chart, Series, Values
from optbench.analysis.names import method
from optbench.analysis.statistics.costs import COSTS


def costs_to_target(runs: pd.DataFrame, best: pd.DataFrame, cell: Sequence[str]) -> pd.DataFrame:
    """Medians over the seeds of the chosen trial of each ``cell`` that reached the target in the median.

    runs: with the columns of `with_costs`. best: the chosen trials, with a column ``reached``. NaN where a cost is unknown.
    """
    chosen = runs.merge(best[best["reached"]][[*cell, "trial"]], on=[*cell, "trial"])
    medians = chosen.groupby(list(cell))[[cost.name for cost in COSTS]].median()
    return medians.replace(math.inf, math.nan).reset_index()


def costs_chart(costs: pd.DataFrame) -> Chart:
    """A panel for each cost against the batch size, with a line for each optimizer."""
    series = []
    for cost in COSTS:
        for optimizer, rows in costs[costs[cost.name].notna()].groupby("optimizer"):
            series.append(Series(label=method(str(optimizer)), x=rows["batch"], y=rows[cost.name], panel=cost.label))
    return Chart(
        name="costs_to_target",
        title="FLOPs, seconds and bytes to the target against batch size",
        caption="The best trial at every batch, as in the figure of steps: median over seeds. Bytes are those held meanwhile.",
        x_label="Batch size (examples)",
        log_x=True,
        ticks_at_x=True,
        share_y=False,
        values={cost.label: Values(cost.label, log=True) for cost in COSTS},
        series=series,
    )
