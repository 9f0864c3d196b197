"""The figures of the study: oracle calls, factors, SGD across lengths, and descent without gradients."""

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.names import method


def calls_chart(calls: pd.DataFrame) -> Chart:
    """All calls of every method on every problem on which at least half of its seeds arrive."""
    arrived = calls[np.isfinite(calls["calls"])] if len(calls) else calls
    series = [
        Series(label=method(name), x=own["problem"], y=own["calls"], kind="points")
        for name, own in (arrived.groupby("optimizer", sort=False) if len(arrived) else ())
    ]
    return Chart(
        name="oracle_calls",
        title="Oracle calls to f - f* <= 1e-8",
        caption="Values, gradients and products with the Hessian together, the median over seeds, each at the step size that the "
        "other seeds choose. A method without a point does not arrive with half of its seeds; the table says why.",
        x_label="Problem",
        y_label="Oracle calls",
        log_y=True,
        horizontal=True,
        series=series,
    )


def factor_chart(factors: pd.DataFrame) -> Chart:
    """The measured against the predicted share by which f - f* falls in a step."""
    series = [
        Series(label=method(name), x=1 - own["predicted"], y=1 - own["measured"], kind="points", texts=own["problem"])
        for name, own in (factors.groupby("optimizer", sort=False) if len(factors) else ())
    ]
    if series:
        ends = [float((1 - factors["predicted"]).min()), float((1 - factors["predicted"]).max())]
        series.append(Series(label="theory", x=ends, y=ends, kind="reference"))
    return Chart(
        name="local_factors",
        title="Local rates, measured and predicted",
        caption="The share by which f - f* falls in a step near an isolated minimum: least squares below 1e-5 against 1 - ρ². "
        "One point for each run that gets there, at all step sizes.",
        x_label="Predicted 1 - factor",
        y_label="Measured 1 - factor",
        log_x=True,
        log_y=True,
        series=series,
    )


def noise_chart(noise: pd.DataFrame) -> Chart:
    """The root mean square of the gradient of SGD against the length of the run, with a line of the slope -1/4."""
    series = []
    if len(noise):
        lengths = sorted(noise["steps"].unique())
        means = [float(np.sqrt(np.mean(noise.loc[noise["steps"] == length, "gradient"] ** 2))) for length in lengths]
        series = [
            Series(label="runs of SGD", x=noise["steps"], y=noise["gradient"], kind="points"),
            Series(
                label="slope -1/4",
                x=lengths,
                y=[means[0] * (k / lengths[0]) ** -0.25 for k in lengths],
                kind="reference",
            ),
        ]
    return Chart(
        name="sgd_across_lengths",
        title="Gradient of SGD with the step ½ K^-½ on x² + 3 sin² x",
        caption="The root mean square of the gradient over all steps of a run of K steps with noise 1; one point for each run.",
        x_label="Steps K of the run",
        y_label="Root mean square of the gradient",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
    )


def flow_chart(path: pd.DataFrame) -> Chart:
    """The train loss of softmax regression against the sum of step sizes: mean over seeds."""
    series = []
    own = path[path["model"] == "logreg"] if len(path) else path
    for c, part in own.groupby("c", dropna=False) if len(own) else ():
        mean = part.groupby("time")["train_loss"].agg(["mean", "min", "max"])
        label = "gradient descent, step 0.25" if np.isnan(c) else f"zeroth order, c = {c:g}"
        series.append(Series(label=label, x=mean.index, y=mean["mean"], low=mean["min"], high=mean["max"], band=True))
    return Chart(
        name="loss_against_sum_of_steps",
        title="Softmax regression with and without gradients",
        caption="The train loss on digits against the sum of step sizes, 650 weights, step c / (d + 2) without gradients: mean "
        "over seeds, and the range.",
        x_label="Sum of step sizes",
        y_label="Train loss",
        log_x=True,
        log_y=True,
        series=series,
    )


def dimension_chart(ratios: pd.DataFrame) -> Chart:
    """The ratio of the sums of step sizes to a loss, against the number of weights of the networks."""
    own = ratios[ratios["ratio"].notna() & (ratios["model"] == "mlp")] if len(ratios) else ratios
    series = []
    for c, part in own.groupby("c") if len(own) else ():
        bounds = {name: part[name].fillna(part["ratio"]) for name in ("low", "high")}
        series.append(Series(label=f"networks, c = {c:g}", x=part["weights"], y=part["ratio"], **bounds))
    return Chart(
        name="dimension",
        title="Sum of step sizes without gradients over that of gradient descent",
        caption="To the same train loss from the same weights: 1 means that steps grow in proportion to d + 2. Bars are 95 % "
        "Student intervals over seeds.",
        x_label="Weights d",
        y_label="Ratio of sums",
        log_x=True,
        ticks_at_x=True,
        series=series,
        references=[Reference(1.0, "gradient descent")],
    )
