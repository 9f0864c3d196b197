"""The costs to the target at the chosen rate of every batch size: FLOPs, seconds, and the bytes held meanwhile."""

import math

import numpy as np
import pandas as pd
from target_tables import Curves

from optbench.analysis.charts.chart import Chart, Series, Values
from optbench.analysis.laws.time_curves import STEPS
from optbench.analysis.names import method
from optbench.analysis.statistics.costs import COSTS, with_costs


def costs_to_target(found: Curves) -> pd.DataFrame:
    """Medians over the seeds at the chosen rate, where the target was reached in the median. NaN where a cost is unknown."""
    rows = []
    for name, curves in found.items():
        for b, batch in enumerate(curves.batches):
            if not len(curves.times(b)) or not np.isfinite(np.median(curves.times(b))):
                continue
            priced = with_costs(curves.at(b), STEPS, "seconds_to_target")
            medians = priced[[cost.name for cost in COSTS]].median().replace(math.inf, math.nan)
            rows.append({"optimizer": name, "batch": int(batch), **medians})
    return pd.DataFrame(rows)


def costs_chart(costs: pd.DataFrame) -> Chart:
    """A panel for each cost against the batch size, with a line for each optimizer."""
    series = []
    for cost in COSTS if len(costs) else ():
        for optimizer, rows in costs[costs[cost.name].notna()].groupby("optimizer"):
            series.append(Series(label=method(str(optimizer)), x=rows["batch"], y=rows[cost.name], panel=cost.label))
    return Chart(
        name="costs_to_target",
        title="FLOPs, seconds and bytes to the target against batch size",
        caption="At the chosen rate of every batch, as in the figure of steps: median over seeds. Bytes are held meanwhile.",
        x_label="Batch size (examples)",
        log_x=True,
        ticks_at_x=True,
        share_y=False,
        values={cost.label: Values(cost.label, log=True) for cost in COSTS},
        series=series,
    )
