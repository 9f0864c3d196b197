"""The charts of the six studies, from the tables that the analysis and the scripts beside this file write."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series, Values

# Names of methods in the tables that have another title in conf/optimizer: a method has its own style only by its title.
TITLES = {
    "K-FAC, natural": "Natural K-FAC",
    "Nesterov": "SGD with Nesterov momentum",
    "momentum SGD": "SGD with momentum",
    "saddle-free Newton": "Saddle-free Newton",
    "damped Newton": "Damped Newton",
    "gradient descent": "SGD",
}


def shown(name: object) -> str:
    """The name on charts of a method in a table."""
    return TITLES.get(str(name), str(name))


def autoencoder(means: pd.DataFrame) -> Chart:
    """Training loss against steps and against processor seconds, or wall-clock seconds if the former are unknown."""
    seconds = "processor_seconds" if "processor_seconds" in means else "seconds"
    labels = {"Against steps": ("step", "Step"), "Against time": (seconds, f"{seconds.replace('_', ' ').capitalize()}")}
    return Chart(
        name="autoencoder",
        title="Training loss of a deep autoencoder",
        caption="Nats an image, mean over the seeds that options were not chosen on.",
        y_label="Training loss (nats an image)",
        log_x=True,
        x_labels={panel: label for panel, (_, label) in labels.items()},
        series=[
            Series(label=shown(name), x=rows[column], y=rows["train_loss"], panel=panel, kind="curve")
            for panel, (column, _) in labels.items()
            for name, rows in means.groupby("method")
        ],
    )


def convnet(rows: pd.DataFrame) -> Chart:
    """Steps to the target against the batch size, with the range over seeds."""
    split = rows["method"].str.rsplit(", batch ", n=1, expand=True)
    series = []
    for name, group in rows.assign(name=split[0], batch=split[1].astype(float)).groupby("name"):
        known = group[np.isfinite(group["steps_to_target"])].sort_values("batch")
        middle = known["steps_to_target"]
        high = known["most"].where(np.isfinite(known["most"]), middle)
        series.append(Series(label=shown(name), x=known["batch"], y=middle, low=known["least"], high=high))
    return Chart(
        name="convnet",
        title="Steps to 80 % validation accuracy against batch size",
        caption="Median over the seeds that options were not chosen on, bars from the least to the most.",
        x_label="Batch size (examples)",
        y_label="Steps to 80 % validation accuracy",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
    )


def entropy(means: pd.DataFrame) -> Chart:
    """Test accuracy and training loss against the number of gradients."""
    values = {"test_accuracy": Values("Test accuracy", percent=True), "train_loss": Values("Training loss")}
    return Chart(
        name="entropy",
        title="Entropy-SGD beside SGD at equal numbers of gradients",
        caption="Mean over the seeds that options were not chosen on.",
        x_label="Gradients",
        values=values,
        series=[
            Series(label=shown(name), x=rows["step"], y=rows[column], panel=column)
            for column in values
            for name, rows in means.groupby("method")
        ],
    )


def logistic(medians: pd.DataFrame) -> Chart:
    """The median gap over seeds against steps and against seconds, for both problems."""
    series, labels = [], {}
    for problem, runs in medians.groupby("problem", sort=False):
        for column, least, label in (("step", 1, "Steps"), ("seconds", 1e-3, "Seconds")):
            panel = f"{problem}, against {label.lower()}"
            labels[panel] = label
            for name, rows in runs.groupby("method", sort=False):
                gap = rows["gap"].clip(lower=1e-14)
                x = rows[column].clip(lower=least)
                series.append(Series(label=shown(name), x=x, y=gap, panel=panel, kind="curve"))
    return Chart(
        name="logistic",
        title="Distance from the optimum of logistic regression",
        caption="Objective minus optimum, median over the seeds.",
        y_label="Objective - optimum",
        log_x=True,
        log_y=True,
        x_labels=labels,
        series=series,
    )


def regression(medians: pd.DataFrame, floor: float) -> Chart:
    """The median error over seeds against steps and against seconds; ``floor``: the variance of the noise."""
    axes = {"Against steps": ("step", 1, "Step"), "Against time": ("seconds", 1e-3, "Seconds")}
    return Chart(
        name="regression",
        title="Regression of a sine",
        caption="Mean squared error, median over the seeds.",
        y_label="Mean squared error",
        log_x=True,
        log_y=True,
        x_labels={panel: label for panel, (_, _, label) in axes.items()},
        series=[
            Series(label=shown(name), x=rows[column].clip(lower=least), y=rows["train_mse"], panel=panel, kind="curve")
            for panel, (column, least, _) in axes.items()
            for name, rows in medians.groupby("method", sort=False)
        ],
        references=[Reference(floor, "variance of the noise")],
    )


def saddle(table: pd.DataFrame, steps: int) -> Chart:
    """Loss, the most negative eigenvalue and the share of negative ones against the step: median and range over seeds.

    table: the rows of all runs. steps: of a Newton method; steps of a method with more of them count as fractions.
    """
    measured = table.assign(most_negative=(-table["smallest_eigenvalue"]).clip(lower=1e-10))
    values: Mapping[str, Values] = {
        "total": Values("Training loss", log=True),
        "most_negative": Values("-(most negative eigenvalue)", log=True),
        "negative_share": Values("Share of negative eigenvalues", percent=True),
    }
    series = []
    for column in values:
        for name, rows in measured.groupby("method", sort=False):
            along = rows.groupby("step")[column]
            scale = rows["step"].max() / steps
            label = shown(name) if scale == 1 else f"{shown(name)} ({scale:.0f} steps each)"
            ends = {"low": along.min(), "high": along.max()}
            x, y = along.median().index / scale, along.median()
            series.append(Series(label=label, x=x, y=y, panel=column, kind="curve", band=True, **ends))
    return Chart(
        name="saddle",
        title="Leaving a saddle",
        caption="Median over the seeds, bands from the least to the most.",
        x_label="Step",
        columns=3,
        values=values,
        series=series,
    )


def write(chart: Chart, folder: Path) -> None:
    """Write the chart as NAME.png and NAME.pdf to ``folder``."""
    from optbench.analysis.charts.paper import save

    save(chart.matplotlib(), folder / chart.name)
