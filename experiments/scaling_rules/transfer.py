"""The cost of scaling rules that transfer the best learning rate of the smallest batch to larger ones."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.laws.learning_rates import Sweep
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.pairs import differences_by_seed

#: The exponent of the batch in each rule.
RULES = {"no scaling": 0.0, "square root": 0.5, "linear": 1.0}


def best_rate(grid: Mapping[float, np.ndarray]) -> float:
    """The tested rate with the smallest mean loss."""
    return min(grid, key=lambda rate: float(grid[rate].mean()))


def transfer_costs(runs: pd.DataFrame, sweeps: Mapping[str, Sweep], metric: str, rate: str) -> pd.DataFrame:
    """``metric`` at the scaled ``rate`` minus that at the best tested rate, paired by seed, at every larger batch.

    There is no interval if the two are the same rate of the grid.
    """
    rows = []
    for optimizer, sweep in sweeps.items():
        own = runs[(runs["optimizer"] == optimizer) & runs[rate].notna()]
        best = {batch: best_rate(grid) for batch, grid in sweep.items()}
        smallest = min(sweep)
        for batch in sorted(set(sweep) - {smallest}):
            for rule, power in RULES.items():
                wanted = best[smallest] * (batch / smallest) ** power
                row = {
                    "optimizer": optimizer,
                    "batch": int(batch),
                    "rule": rule,
                    "scaled_rate": wanted,
                    "best_rate": best[batch],
                }
                tested = min(sweep[batch], key=lambda one, wanted=wanted: abs(math.log(one / wanted)))  # type: ignore[misc]
                found, diverged = Interval(math.nan, math.nan, math.nan), 0
                if abs(math.log2(tested / wanted)) <= 0.51:  # half a step of the grid; otherwise the cost is unknown
                    here = own[own["batch"] == batch]
                    pairs = differences_by_seed(here, metric, rate, tested, best[batch], match=("seed",))["difference"]
                    diverged = int(np.isinf(pairs).sum())
                    finite = pairs[np.isfinite(pairs)].to_numpy(float)
                    if tested == best[batch]:
                        found = Interval(0.0, math.nan, math.nan)
                    elif not diverged:
                        found = student(finite)
                    row |= {"tested_rate": tested, "seeds": len(pairs)}
                rows.append(row | {"cost": found.estimate, "low": found.low, "high": found.high, "diverged": diverged})
    return pd.DataFrame(rows)


def cost_in_words(row: pd.Series) -> str:
    """A row of `transfer_costs` in words: diverged, beyond the grid, or the loss with its interval."""
    if row["diverged"]:
        return "diverged"
    if math.isnan(row["cost"]):
        return "beyond the grid"
    if row["tested_rate"] == row["best_rate"]:
        return "nothing (it is the best rate of the grid)"
    return f"{Interval(row['cost'], row['low'], row['high']):+.3f}"


def transfer_chart(transfer: pd.DataFrame) -> Chart:
    """The costs of `transfer_costs` against the batch, a panel for each optimizer."""
    series = []
    if len(transfer):
        for (optimizer, rule), rows in transfer[transfer["cost"].notna()].groupby(["optimizer", "rule"], sort=False):
            series.append(
                Series(
                    label=str(rule),
                    x=rows["batch"],
                    y=rows["cost"],
                    panel=method(str(optimizer)),
                    low=rows["low"],
                    high=rows["high"],
                )
            )
    return Chart(
        name="transfer",
        title="What a rule costs that carries over the best rate of the smallest batch",
        caption="Validation loss minus that of the best tested rate, paired by seed; 95 % Student intervals. Left out: "
        "rates that diverged or lie beyond the grid.",
        x_label="Batch size (examples)",
        y_label="Validation loss lost",
        log_x=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
        references=[Reference(0.0)],
    )
