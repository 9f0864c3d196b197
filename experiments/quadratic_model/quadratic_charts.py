"""The figures of the study: steps, measurements over predictions, savings and slopes."""

import math

import numpy as np
import pandas as pd
from quadratic_cells import TOLERANCE

from optbench.analysis.charts.chart import Chart, Reference, Series

NAMES = {
    "sgd": "SGD",
    "momentum": "SGD with momentum",
    "averaged": "SGD, averaged weights",
    "preconditioned": "SGD, preconditioned by h^-1/2",
    "adam": "Adam",
}
#: The sources of steps, and the titles of their panels.
SOURCES = {
    "theory": "Theory: 10⁴ directions, all tuned",
    "trained": "Trained: 100 directions, learning rate tuned",
    "network": "Network, learning rate tuned",
}


def model_chart(theory: pd.DataFrame, best: pd.DataFrame) -> Chart:
    """Steps of the tuned theory, and the trained steps as points on lines of their theory."""
    series = [
        Series(label=NAMES[name], x=own["batch"], y=own["steps"], kind="curve", panel=SOURCES["theory"])
        for name, own in theory.groupby("method", sort=False)
    ]
    for name, own in best.groupby("method", sort=False) if len(best) else ():
        same = {"label": NAMES[name], "panel": SOURCES["trained"]}
        reached = own[np.isfinite(own["steps"])]
        series.append(Series(**same, x=own["batch"], y=own["theory"], kind="curve"))
        bounds = {"low": reached["low"], "high": reached["high"].where(np.isfinite(reached["high"]), reached["steps"])}
        series.append(Series(**same, x=reached["batch"], y=reached["steps"], kind="points", **bounds))
    return Chart(
        name="steps_on_the_model",
        title="Steps to risk 0.01 on the noisy quadratic model",
        caption="Left: theory of Zhang et al.'s spectrum, every hyperparameter tuned. Right: the best learning rate of a lattice "
        "of powers of 2, momentum and decay 0.9; lines are the theory, points the crossing of the mean over seeds, and bars go "
        "from the first to the last seed.",
        x_label="Batch size (examples)",
        y_label="Steps",
        log_x=True,
        log_y=True,
        share_y=False,
        series=series,
    )


def ratio_chart(measured: pd.DataFrame) -> Chart:
    """The ratio of every decided cell against the batch."""
    decided = measured[measured["ratio"].notna() & (measured["verdict"] != "undecided")] if len(measured) else measured
    series = [
        Series(label=NAMES[name], x=own["batch"], y=own["ratio"], kind="points")
        for name, own in (decided.groupby("method", sort=False) if len(decided) else ())
    ]
    return Chart(
        name="measured_over_theory",
        title="Measured steps over predicted steps",
        caption="One point for each method, batch and learning rate, beside the exact theory of its own hyperparameters.",
        x_label="Batch size (examples)",
        y_label="Measured / theory",
        log_x=True,
        ticks_at_x=True,
        series=series,
        references=[
            Reference(1 - TOLERANCE, f"{TOLERANCE:.0%} fewer"),
            Reference(1 + TOLERANCE, f"{TOLERANCE:.0%} more"),
        ],
    )


def network_chart(steps: dict[str, dict[int, np.ndarray]]) -> Chart:
    """The medians of steps of every method, with the range over seeds."""
    series = []
    for name, own in steps.items():
        reached = {batch: values for batch, values in sorted(own.items()) if math.isfinite(np.median(values))}
        if not reached:
            continue
        low, high = [v.min() for v in reached.values()], [v[np.isfinite(v)].max() for v in reached.values()]
        medians = [float(np.median(values)) for values in reached.values()]
        series.append(Series(label=NAMES[name], x=list(reached), y=medians, low=low, high=high))
        if name == "sgd":
            perfect = [medians[0] * min(reached) / batch for batch in reached]
            series.append(Series(label="perfect scaling", x=list(reached), y=perfect, kind="reference"))
    return Chart(
        name="steps_of_the_network",
        title="Steps of the network to its target",
        caption="The best learning rate at every batch: median over the seeds that did not choose it, bars from the least to "
        "the largest.",
        x_label="Batch size (examples)",
        y_label="Steps",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
    )


def saving_chart(savings: pd.DataFrame) -> Chart:
    """The savings of every method against the batch, a panel for each source."""
    series = []
    for (source, name), own in savings.groupby(["source", "method"], sort=False) if len(savings) else ():
        bounds = {} if own["low"].isna().any() else {"low": own["low"], "high": own["high"]}
        series.append(Series(label=NAMES[name], x=own["batch"], y=own["factor"], panel=SOURCES[source], **bounds))
    return Chart(
        name="savings",
        title="Steps of plain SGD over the steps of other methods",
        caption="At the same batch, each method tuned as in the other figures. Bars of the network are 95 % bootstrap intervals "
        "over seeds.",
        x_label="Batch size (examples)",
        y_label="SGD / method",
        log_x=True,
        log_y=True,
        series=series,
        references=[Reference(1.0, "no saving")],
    )


def slope_chart(slopes: pd.DataFrame) -> Chart:
    """The local slopes of every source, a panel for each method."""
    series = []
    known = slopes[slopes["slope"].notna()] if len(slopes) else slopes
    for (source, name), own in known.groupby(["source", "method"], sort=False) if len(known) else ():
        middle = np.sqrt((own["batch_low"] * own["batch_high"]).astype(float))
        series.append(Series(label=SOURCES[source].split(",")[0], x=middle, y=own["slope"], panel=NAMES[name]))
    return Chart(
        name="local_slopes",
        title="Slopes of log steps against log batch",
        caption="Between neighbouring batch sizes: -1 is perfect scaling, 0 means that a larger batch saves no steps.",
        x_label="Batch size (examples)",
        y_label="Slope",
        log_x=True,
        series=series,
        references=[Reference(-1.0, "perfect scaling"), Reference(0.0, "no scaling")],
    )
