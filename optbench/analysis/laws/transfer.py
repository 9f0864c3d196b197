"""The cost of scaling rules that carry the best learning rate of the smallest batch over to larger ones."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.laws.loss_curves import LossCurves
from optbench.analysis.names import method

#: The exponent of the batch in each rule.
RULES = {"no scaling": 0.0, "square root": 0.5, "linear": 1.0}
#: Of the validation loss: a rule that costs more is said to reach no farther.
LOSS_ALLOWED = 0.05
# In percent: costs span four decades, and a logarithmic axis shows none below this.
_LEAST_DRAWN = 0.1


def transfer_costs(curves: Mapping[str, LossCurves]) -> pd.DataFrame:
    """The loss at the carried rate relative to the smallest one at the same batch, minus 1, with 95 % intervals.

    In every draw of the curves, the optimum of the smallest batch at which it lies inside the grid is carried over by each rule,
    so that the interval holds the uncertainty of both optima. Columns optimizer, base (that batch), batch, rule, rate (the median
    that is carried), excess, low, high, diverged and beyond (the shares of draws in which a seed diverges at that rate, or in
    which it lies beyond the grid).
    """
    rows = []
    for optimizer, own in curves.items():
        inside = np.flatnonzero(np.isfinite(own.optima.inside).mean(0) > 0.5)
        base = int(inside[0]) if len(inside) else len(own.batches)
        first = own.optima.inside[:, base : base + 1], own.resampled_optima.inside[:, base : base + 1]
        for rule, power in RULES.items() if len(inside) else ():
            factors = (own.batches / own.batches[base]) ** power
            carried, resampled = (start * factors for start in first)
            costs, drawn = own.excess(carried), own.excess(resampled, resampled=True)
            for b in range(base + 1, len(own.batches)):
                found = own.interval(_finite(costs[:, b]), _finite(drawn[:, b]))
                rows.append({
                    "optimizer": optimizer,
                    "base": int(own.batches[base]),
                    "batch": int(own.batches[b]),
                    "rule": rule,
                    "rate": float(np.nanmedian(carried[:, b])) if np.isfinite(carried[:, b]).any() else math.nan,
                    "excess": found.estimate,
                    "low": max(found.low, 0.0),
                    "high": found.high,
                    "diverged": float(np.isinf(costs[:, b]).mean()),
                    "beyond": float(np.isnan(costs[:, b]).mean()),
                })  # fmt: skip
    return pd.DataFrame(rows)


def _finite(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.where(np.isfinite(values), values, math.nan)
    return found


def reaches(transfer: pd.DataFrame) -> pd.DataFrame:
    """The batch sizes up to which each rule costs at most `LOSS_ALLOWED`, at every batch size on the way.

    Columns optimizer, rule, base, batch (by the estimate of the cost) and surely (by the upper end of its interval); the base if
    the next batch size already costs more, or if its cost is not known.
    """
    rows = []
    for (optimizer, rule), own in transfer.groupby(["optimizer", "rule"], sort=False) if len(transfer) else ():
        own = own.sort_values("batch")
        batches = [int(own["base"].iloc[0]), *own["batch"].astype(int)]
        within = [int((own[column] <= LOSS_ALLOWED).cumprod().sum()) for column in ("excess", "high")]
        rows.append({
            "optimizer": optimizer,
            "rule": rule,
            "base": batches[0],
            "batch": batches[within[0]],
            "surely": batches[min(within)],
        })  # fmt: skip
    return pd.DataFrame(rows)


def transfer_chart(transfer: pd.DataFrame) -> Chart:
    """The costs of `transfer_costs` against the batch, a panel for each optimizer."""
    series = []
    if len(transfer):
        for (optimizer, rule), rows in transfer[transfer["excess"].notna()].groupby(["optimizer", "rule"], sort=False):
            series.append(
                Series(
                    label=str(rule),
                    x=rows["batch"],
                    y=_drawn(rows["excess"]),
                    panel=method(str(optimizer)),
                    low=_drawn(rows["low"]),
                    high=_drawn(rows["high"]),
                )
            )
    return Chart(
        name="transfer",
        title="Cost of carrying over the best rate of the smallest batch",
        caption="Validation loss above that of the best rate of the same batch, in percent of it; 95 % intervals, which hold the "
        f"uncertainty of both rates. Less than {_LEAST_DRAWN} % is drawn as {_LEAST_DRAWN} %. Left out: rates at which most "
        "draws diverge, or beyond the grid.",
        x_label="Batch size (examples)",
        y_label="Validation loss lost (%)",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
    )


def _drawn(shares: pd.Series) -> pd.Series:
    return (100 * shares).clip(lower=_LEAST_DRAWN)
