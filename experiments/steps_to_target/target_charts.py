"""The figures: steps against the batch size, ratios to K-FAC, the chosen rates, survival curves, noise scales, targets."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from target_tables import ADVANCED, Curves

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.laws.critical_batch import CriticalBatchIntervals
from optbench.analysis.laws.time_curves import TimeCurves
from optbench.analysis.names import method

_BATCH = "Batch size (examples)"
_OF_SEARCH = "95 % intervals for another search, in which the rate is chosen again"


def steps_chart(found: Curves, fits: Mapping[str, CriticalBatchIntervals], target: str) -> Chart:
    """The restricted mean at the chosen rate of every batch, a panel for each optimizer, with perfect scaling and the fit."""
    series = []
    for name, curves in found.items():
        places = np.flatnonzero(curves.is_reached)
        if not len(places):
            continue
        panel, sizes = method(name), curves.batches[places]
        steps = [curves.steps(b) for b in places]
        means, low, high = zip(*((each.estimate, each.low, each.high) for each in steps), strict=True)
        series.append(Series(label="measured", x=sizes, y=means, low=low, high=high, band=True, panel=panel))
        between = np.geomspace(sizes.min(), sizes.max(), 40)
        perfect = means[0] * sizes[0] / between
        series.append(Series(label="perfect scaling", x=between, y=perfect, panel=panel, kind="reference"))
        if name in fits:
            fitted = fits[name].fit(between)
            series.append(Series(label="S_min (1 + B_c / B)", x=between, y=fitted, panel=panel, kind="reference"))
    return Chart(
        name="steps_to_target",
        title=f"Steps to {target.replace('_', ' ')} against batch size",
        caption=f"The restricted mean over seeds at the best rate of every batch; bands are {_OF_SEARCH}.",
        x_label=_BATCH,
        y_label="Steps",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
    )


def advantage_chart(table: pd.DataFrame) -> Chart:
    """The steps of the others over those of K-FAC against the batch size."""
    series = []
    if len(table):
        for other, rows in table.dropna(subset="batch").groupby("over", sort=False):
            columns = {"x": rows["batch"], "y": rows["ratio"], "low": rows["low"], "high": rows["high"]}
            series.append(Series(label=method(str(other)), **columns))
    return Chart(
        name="advantage",
        title=f"Steps over those of {method(ADVANCED)} against batch size",
        caption=f"At equal batch this is also the ratio of examples. Bars are {_OF_SEARCH}.",
        x_label=_BATCH,
        y_label=f"Steps / steps of {method(ADVANCED)}",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
        references=[Reference(1.0, "equal")],
    )


def rates_chart(chosen: pd.DataFrame, found: Curves) -> Chart:
    """The chosen rate of every batch, a panel for each optimizer, with the ends of the line of rates."""
    series, lines = [], []
    for name, rows in chosen[chosen["rate"].notna()].groupby("optimizer", sort=False):
        panel = method(str(name))
        columns = {"x": rows["batch"], "y": rows["rate"], "low": rows["rate_low"], "high": rows["rate_high"]}
        series.append(Series(label="chosen", panel=panel, **columns))
        rates = found[str(name)].rates
        ends = ((rates[0], "lowest rate of the line"), (rates[-1], "highest rate of the line"))
        lines += [Reference(float(rate), words, panel=panel) for rate, words in ends]
    return Chart(
        name="rates",
        title="The learning rate with the fewest steps against batch size",
        caption="Bars hold 95 % of the rates that other searches choose. A rate at an end of its line is a bound.",
        x_label=_BATCH,
        y_label="Learning rate",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
        references=lines,
    )


def survival_chart(found: Curves) -> Chart:
    """The share of seeds at the chosen rate that have not reached the target, at the smallest, middle and largest batch."""
    sizes = sorted({float(size) for curves in found.values() for size in curves.batches})
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}) if sizes else []
    places = [
        (curves, int(np.searchsorted(curves.batches, size)), method(name))
        for size in shown
        for name, curves in found.items()
        if size in curves.batches
    ]
    places = [(curves, b, label) for curves, b, label in places if curves.is_reached[b]]
    start = min((curves.times(b).min(initial=math.inf) for curves, b, _ in places), default=math.inf) / 2
    series = [_survival(curves, b, label, start) for curves, b, label in places]
    return Chart(
        name="survival",
        title="The share of runs that have not reached the target",
        caption="The seeds at the chosen rate of every optimizer. A curve that does not fall to 0 ends with the budget.",
        x_label="Steps",
        y_label="Runs before the target",
        log_x=True,
        percent_y=True,
        series=series,
    )


def _survival(curves: TimeCurves, b: int, label: str, start: float) -> Series:
    steps, horizon = curves.times(b), float(curves.horizons[b])
    times = np.sort(steps[np.isfinite(steps)])
    left = 1 - np.arange(1, len(times) + 1) / len(steps)
    x, y = [min(start, horizon), *times, horizon], [1.0, *left, left[-1] if len(left) else 1.0]
    return Series(label=label, x=x, y=y, panel=f"Batch {curves.batches[b]:g}", kind="steps")


def noise_chart(noise: pd.DataFrame, fits: Mapping[str, CriticalBatchIntervals]) -> Chart:
    """The noise scale along every run that measured it, and the critical batch of the same optimizer with its interval."""
    series, lines = [], []
    for (optimizer, batch), own in noise.groupby(["optimizer", "batch"]) if len(noise) else ():
        panel = f"{method(str(optimizer))}, batch {batch}"
        for seed, rows in own.groupby("seed"):
            series.append(Series(label=f"seed {seed}", x=rows["samples"], y=rows["noise_scale"], panel=panel))
        if optimizer in fits:
            found = fits[str(optimizer)].batch
            values = ((found.low, "lower bound of B_c"), (found.estimate, "B_c"), (found.high, "upper bound of B_c"))
            lines += [Reference(value, words, panel=panel) for value, words in values if np.isfinite(value)]
    return Chart(
        name="noise_scale",
        title="The gradient noise scale along training, and the critical batch",
        caption="Every run that measured it, from its first steps to the target. Lines: B_c with the bounds of its interval.",
        x_label="Examples trained on",
        y_label="Examples",
        log_x=True,
        log_y=True,
        series=series,
        references=lines,
    )


def sensitivity_chart(table: pd.DataFrame) -> Chart:
    """B_c of every optimizer against the target, where it is identified."""
    series = []
    if len(table):
        for optimizer, rows in table[table["not_identified"] == ""].groupby("optimizer"):
            columns = {"x": rows["target"], "y": rows["critical_batch"]}
            bars = {"low": rows["critical_batch_low"], "high": rows["critical_batch_high"]}
            series.append(Series(label=method(str(optimizer)), **columns, **bars))
    return Chart(
        name="sensitivity",
        title="The critical batch size against the target",
        caption=f"The target and two easier ones, from the same runs, where B_c is identified; bars are {_OF_SEARCH}.",
        x_label="Target",
        y_label="B_c (examples)",
        log_y=True,
        ticks_at_x=True,
        series=series,
    )
