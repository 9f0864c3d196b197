"""Charts of ranks, of gains of tuning and of the best of k trials."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from comparison_problems import CELL, TASK, in_words

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.names import method
from optbench.analysis.statistics.tuning_gains import Gains


def ranks_chart(ranks: pd.DataFrame) -> Chart:
    """Mean ranks over all problems."""
    rows = ranks[ranks["problem"] == "all"] if len(ranks) else ranks
    series = []
    if len(rows):
        low, high = rows["low"], rows["high"]
        series.append(
            Series(
                label="mean rank", x=rows["optimizer"].map(method), y=rows["rank"], kind="points", low=low, high=high
            )
        )
    return Chart(
        name="ranks",
        title="Mean rank of the tuned optimizers",
        caption="By test loss of the trial that is best on validation, mean over problems; 1 is best. Bars: 95 % intervals for "
        "new searches, with trials and seeds resampled and the best trial chosen again, and from six on the problems, too.",
        y_label="Mean rank",
        horizontal=True,
        series=series,
    )


def gains_chart(gains: Gains | None) -> Chart:
    """The gain of tuning over the defaults of each optimizer."""
    series = []
    if gains is not None:
        rows = gains.table[np.isfinite(gains.table["gain"])].sort_values("gain", ascending=False, kind="stable")
        if len(rows):
            points = {name: rows[column] for name, column in (("y", "gain"), ("low", "low"), ("high", "high"))}
            series.append(Series(label="defaults minus tuned", x=rows["method"].map(method), kind="points", **points))
    return Chart(
        name="tuned_minus_default",
        title="Gains of tuning over the defaults",
        caption="Test loss of the defaults minus that of the winner, on the same seeds, in interquartile ranges of the tuned "
        "optimizers on the problem, mean over problems. Bars: 95 % intervals for new searches.",
        y_label="Gain (spreads of tuned optimizers)",
        horizontal=True,
        series=series,
        references=[Reference(0.0), Reference(1.0, "the spread")],
    )


def budget_chart(budget: pd.DataFrame, shown: Sequence[str]) -> Chart:
    """The expected test loss of the best of k trials, for the optimizers ``shown``."""
    series = []
    for _, rows in budget[budget["optimizer"].isin(shown)].groupby(CELL) if len(budget) else ():
        first = rows.iloc[0]
        rows = rows[np.isfinite(rows["expected"])]
        if len(rows):
            panel = in_words(tuple(first[name] for name in TASK))
            series.append(
                Series(label=method(str(first["optimizer"])), x=rows["trials"], y=rows["expected"], panel=panel)
            )
    return Chart(
        name="best_of_k",
        title="Expected test loss of the best of k trials",
        caption="Trials are chosen on validation and drawn without replacement from those of the search (the defaults are not "
        f"among them), on the seeds that choose; where all k can diverge there is no value. The {len(shown)} optimizers with the "
        "best ranks.",
        x_label="Trials",
        y_label="Test loss",
        log_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
    )
