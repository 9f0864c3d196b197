"""The figures of the study: displacements, local displacements, exponents, frequencies and phase portraits."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from limiting_runs import WINDOW, Settled

from optbench.analysis.charts.chart import Chart, Reference, Series

#: The panels of displacements: the axes whose settings they show.
PANELS = {
    "learning rate": "Learning rate",
    "batch": "Batch",
    "momentum": "Momentum",
    "quadratic": "Quadratic model",
}
#: Steps of a path in a phase portrait.
PORTRAIT = 120
Records = Mapping[str, Sequence[Settled]]


def diffusion_chart(runs: pd.DataFrame, records: Records) -> Chart:
    """|θ(k) - θ(0)|² of every setting as points, over seeds, on the curves of their predictions."""
    axes = runs.drop_duplicates("case").set_index("case")["axis"]
    series = []
    for axis, panel in PANELS.items():
        for name in [
            name for name in axes.index if axes[name] == axis or (axes[name] == "base" and axis != "quadratic")
        ]:
            own = records[str(name)]
            last = min(record.steps[-1] for record in own)
            steps = own[0].steps[own[0].steps <= last]
            chosen = steps[
                np.unique(np.abs(np.log(steps)[:, None] - np.log(steps[-1]) * np.linspace(0, 1, 25)).argmin(0))
            ]
            rows = [record.displacement[np.searchsorted(record.steps, chosen)] for record in own]
            predicted = np.exp(np.mean([np.log(record.predicted_displacement(chosen)) for record in own], axis=0))
            mean = np.exp(np.mean(np.log(rows), axis=0))
            same = {"label": str(name).removeprefix("quadratic, "), "panel": panel}
            series.append(Series(**same, x=chosen, y=predicted, kind="curve"))
            series.append(Series(**same, x=chosen, y=mean, low=np.min(rows, 0), high=np.max(rows, 0), kind="points"))
    return Chart(
        name="displacements",
        title="Squared distance from a point of the settled path",
        caption="Points: geometric mean over seeds, bars from the smallest to the largest. Curves: predicted from the trace of "
        "the gradient noise and the spectrum of the Hessian; nothing is fitted. Exponents are slopes from "
        f"{WINDOW[0]} to {WINDOW[1]:,} steps.",
        x_label="Steps k",
        y_label="|θ(k) - θ(0)|²",
        log_x=True,
        log_y=True,
        share_y=False,
        columns=2,
        series=series,
    )


def local_chart(settings: pd.DataFrame) -> Chart:
    """The mean squared step over its prediction, of every setting."""
    return Chart(
        name="local_displacement",
        title="Mean squared step over its prediction",
        caption="η² E|v|² over η² tr C/(B (1 - β²)): mean over seeds with 95 % Student intervals.",
        y_label="Measured / predicted",
        horizontal=True,
        series=[
            Series(label="mean squared step", x=settings["case"], kind="points", **_interval(settings, "local_ratio"))
        ],
        references=[Reference(1.0, "prediction")],
    )


def exponent_chart(settings: pd.DataFrame) -> Chart:
    """The exponents of every setting beside those of the predicted curves."""
    return Chart(
        name="exponents",
        title="Exponents of diffusion",
        caption=f"Slopes of log |θ(k) - θ(0)|² on log k for {WINDOW[0]} ≤ k ≤ {WINDOW[1]:,}: mean over seeds with 95 % Student "
        "intervals, and the same slopes of the predicted curves, for noise C in proportion to the Hessian H and for noise of the "
        "same trace that is equal in all directions. 1 is ordinary diffusion.",
        y_label="Exponent",
        horizontal=True,
        series=[
            Series(label="measured", x=settings["case"], kind="points", **_interval(settings, "exponent")),
            Series(label="predicted, C ∝ H", x=settings["case"], y=settings["exponent_predicted"], kind="points"),
            Series(label="predicted, C ∝ I", x=settings["case"], y=settings["exponent_isotropic"], kind="points"),
        ],
        references=[Reference(1.0, "ordinary diffusion")],
    )


def frequency_chart(directions: pd.DataFrame) -> Chart:
    """The measured frequency of every direction that oscillates clearly against the predicted one."""
    known = directions[directions["frequency"].notna()]
    series = []
    for name, own in known.groupby("axis", sort=False):
        mean = own.groupby(["case", "direction"])[["frequency_predicted", "frequency"]].mean()
        series.append(Series(label=str(name), x=mean["frequency_predicted"], y=mean["frequency"], kind="points"))
    if series:
        ends = [float(known["frequency_predicted"].min()), float(known["frequency_predicted"].max())]
        series.append(Series(label="equal", x=ends, y=ends, kind="reference"))
    return Chart(
        name="frequencies",
        title="Frequency of oscillation along eigenvectors of the Hessian",
        caption="Peak of the periodogram of the increments against that of their spectrum in theory, for the eigenvalue at the "
        "first measurement: means over seeds, for each setting and each of the largest eigenvalues. Colours: the "
        "hyperparameter that is not that of the base.",
        x_label="Predicted (cycles a step)",
        y_label="Measured (cycles a step)",
        series=series,
    )


def portrait_chart(records: Records) -> Chart:
    """The path of the first seed of a few settings in the plane of the position and the velocity of one direction."""
    series = []
    for name in ("momentum 0.5", "base", "momentum 0.97", "quadratic, exponent 2"):
        for record in records.get(name, [])[:1]:
            x, v = record.x[:, 0] / record.x[:, 0].std(), record.v[:, 0] / record.v[:, 0].std()
            part = slice(0, PORTRAIT)
            label = f"{PORTRAIT} steps"
            series.append(Series(label=label, x=x[part], y=v[part], kind="curve", panel=name[0].upper() + name[1:]))
    return Chart(
        name="phase_portraits",
        title="Paths in phase space",
        caption="Position and momentum buffer along the top eigenvector, each over its standard deviation, of the first seed.",
        x_label="Position",
        y_label="Buffer",
        columns=2,
        series=series,
    )


def _interval(settings: pd.DataFrame, column: str) -> dict[str, pd.Series]:
    """The estimate with its bounds; an estimate of one seed has none."""
    low, high = settings[f"{column}_low"], settings[f"{column}_high"]
    return {"y": settings[column], "low": low.fillna(settings[column]), "high": high.fillna(settings[column])}
