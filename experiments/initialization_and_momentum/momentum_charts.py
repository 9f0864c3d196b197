"""The figures of the study: errors against the momentum, before and after the final phase, and against the initialization."""

import pandas as pd
from momentum_tables import BEFORE, ERROR, HEAVY_BALL, NESTEROV, SGD, TEST_ERRORS

from optbench.analysis.charts.chart import Chart, Series

_CAPTION = "Means over seeds with Student's intervals; every seed reports the learning rate that the others choose."


def _text(momentum: float) -> str:
    return f"{momentum:g}"


def _series(table: pd.DataFrame, method: str, value: str, label: str, panel: str | None = None) -> Series:
    """SGD is the first point of both methods."""
    own = table[table["method"].isin([method, SGD])].sort_values("momentum")
    bounds = {side: own[f"{value}_{side}"] for side in ("low", "high")}
    return Series(label=label, x=own["momentum"].map(_text), y=own[value], panel=panel, **bounds)


def momentum_chart(table: pd.DataFrame) -> Chart:
    """The squared error of the autoencoders against the largest momentum."""
    own = table[table["init_scale"] == 1]
    series = []
    for model, part in own.groupby("model", sort=False):
        for method in (NESTEROV, HEAVY_BALL):
            series.append(_series(part, method, ERROR, method, str(model)))
            series.append(_series(part, method, BEFORE, f"{method}, before the final phase", str(model)))
    return Chart(
        name="momentum",
        title="Squared error of the autoencoder against the largest momentum",
        caption=f"{_CAPTION} In the final phase the momentum is at most 0.9; 0 is SGD.",
        x_label="Largest momentum",
        y_label="Squared error per image",
        log_y=True,
        series=[one for one in series if len(one.x) > 1],
    )


def initialization_chart(table: pd.DataFrame, momentum: float) -> Chart:
    """The squared error against the scale of the sparse initialization, of Nesterov's method at one momentum."""
    own = table[(table["method"] == NESTEROV) & (table["momentum"] == momentum)].sort_values("init_scale")
    return Chart(
        name="initialization",
        title="Squared error against the scale of the initial weights",
        caption=f"{_CAPTION} Nesterov's method with a largest momentum of {momentum:g}; 1 is the paper's initialization.",
        x_label="Scale of the sparse initialization",
        y_label="Squared error per image",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=[
            Series(
                label=str(model),
                x=part["init_scale"],
                y=part[ERROR],
                low=part[f"{ERROR}_low"],
                high=part[f"{ERROR}_high"],
            )
            for model, part in own.groupby("model", sort=False)
            if part["init_scale"].nunique() > 1
        ],
    )


def recurrent_chart(table: pd.DataFrame) -> Chart:
    """The wrong answers of a sequence against the momentum, one panel for each task."""
    series = [
        _series(part, method, TEST_ERRORS, method, str(task).capitalize())
        for task, part in table.groupby("task", sort=False)
        for method in (NESTEROV, HEAVY_BALL)
    ]
    for task, part in table.groupby("task", sort=False):
        momenta = sorted(part["momentum"].unique())
        blind = [float(part["blind"].iloc[0])] * len(momenta)
        title = str(task).capitalize()
        series.append(
            Series(label="without the sequence", x=map(_text, momenta), y=blind, kind="reference", panel=title)
        )
    return Chart(
        name="recurrent",
        title="Wrong answers of recurrent networks against the momentum",
        caption=f"{_CAPTION} Symbols of a sequence for memorization, sequences otherwise; the line is the error of the best "
        "answer that does not look at the sequence. 0 is SGD after the first steps.",
        x_label="Momentum after the first steps",
        y_label="Wrong answers per sequence",
        share_y=False,
        series=[one for one in series if len(one.x) > 1],
    )
