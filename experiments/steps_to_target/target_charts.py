"""The figures of steps to the target: against the batch size, as survival curves, and against the target."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.laws.critical_batch import CriticalBatchIntervals
from optbench.analysis.names import method


def steps_chart(
    best: pd.DataFrame, fits: Mapping[str, CriticalBatchIntervals], noise: pd.DataFrame, target: str
) -> Chart:
    """The restricted mean of the best trial at every batch, a panel for each optimizer, with perfect scaling and the fit."""
    series, lines = [], []
    for name, rows in best[best["trial"].notna()].sort_values("batch").groupby("optimizer"):
        optimizer, panel = str(name), method(str(name))
        sizes, means = rows["batch"].to_numpy(float), rows["restricted_mean"].to_numpy(float)
        bars: dict[str, list[float]] = {}
        if optimizer in fits:
            # With times that the evaluations do not resolve at the middle of their bounds, as the fit has them.
            of_search = [fits[optimizer].steps[size] for size in sizes]
            means = np.array([each.estimate for each in of_search])
            bars = {"low": [each.low for each in of_search], "high": [each.high for each in of_search]}
        series.append(Series(label="measured", x=sizes, y=means, panel=panel, kind="points", **bars))
        between = np.geomspace(sizes.min(), sizes.max(), 40)
        perfect = means[0] * sizes[0] / between
        series.append(Series(label="perfect scaling", x=between, y=perfect, panel=panel, kind="reference"))
        if optimizer in fits:
            fitted = fits[optimizer].fit(between)
            series.append(Series(label="S_min (1 + B_c / B)", x=between, y=fitted, panel=panel, kind="reference"))
        if len(noise) and optimizer in set(noise["optimizer"]):
            scale = float(noise[noise["optimizer"] == optimizer]["noise_scale"].median())
            lines.append(Reference(scale, "gradient noise scale (median of runs)", axis="x", panel=panel))
    return Chart(
        name="steps_to_target",
        title=f"Steps to {target.replace('_', ' ')} against batch size",
        caption="The restricted mean over seeds of the best trial at every batch; bars are 95 % intervals for the best trial of "
        "another search, which resample trials and seeds.",
        x_label="Batch size (examples)",
        y_label="Steps",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
        references=lines,
    )


def survival_chart(chosen: Mapping[str, Mapping[float, np.ndarray]], horizon: float) -> Chart:
    """The share of seeds of the best trial that have not reached the target, at the smallest, middle and largest batch."""
    sizes = sorted({size for own in chosen.values() for size in own})
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}) if sizes else []
    series = []
    for size in shown:
        for name, own in chosen.items():
            if size in own and np.isfinite(own[size]).any():
                times = np.sort(own[size][own[size] <= horizon])
                left = 1 - np.arange(1, len(times) + 1) / len(own[size])
                x, y = [1.0, *times, horizon], [1.0, *left, left[-1] if len(left) else 1.0]
                series.append(Series(label=method(name), x=x, y=y, panel=f"Batch {size:g}", kind="steps"))
    return Chart(
        name="survival",
        title="The share of runs that have not reached the target",
        caption="The seeds of the best trial of every optimizer. A curve that does not fall to 0 ends with the budget.",
        x_label="Steps",
        y_label="Runs before the target",
        log_x=True,
        percent_y=True,
        series=series,
    )


def sensitivity_chart(table: pd.DataFrame) -> Chart:
    """B_c of every optimizer against the target, where it is identified."""
    series = []
    if len(table):
        for optimizer, rows in table[table["not_identified"] == ""].groupby("optimizer"):
            series.append(
                Series(
                    label=method(str(optimizer)),
                    x=rows["target"],
                    y=rows["critical_batch"],
                    low=rows["critical_batch_low"],
                    high=rows["critical_batch_high"],
                )
            )
    return Chart(
        name="sensitivity",
        title="The critical batch size against the target",
        caption="The target and two easier ones, from the same runs, where B_c is identified; bars are 95 % intervals for "
        "another search.",
        x_label="Target",
        y_label="B_c (examples)",
        log_y=True,
        ticks_at_x=True,
        series=series,
    )
