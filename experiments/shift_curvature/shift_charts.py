"""The figures of the study: terms against the temperature, the covariance term and its theory, and the shift against n."""

import pandas as pd
from shift_points import EPOCHS, REPLACED

from optbench.analysis.charts.chart import Chart, Reference, Series

MODELS = {"logreg": "Softmax regression", "mlp": "Network with 8 hidden units", "3c3d": "Convolutional network"}
_LABELS = {
    "shift": "shift",
    "covariance": "covariance",
    "bias": "bias",
    "sum": "sum of the four terms",
    "excess": "measured rise",
}


def panel(model: str) -> str:
    """The title of a model."""
    return MODELS.get(model, model)


def at_most_examples(table: pd.DataFrame) -> pd.DataFrame:
    """The settings of the largest training set and penalty of every model, at all batches and learning rates."""
    parts = []
    for _, own in table.groupby("model", sort=False):
        whole = own[own["examples"] == own["examples"].max()]
        parts.append(whole[whole["penalty"] == whole["penalty"].max()])
    return pd.concat(parts) if parts else table


def terms_chart(table: pd.DataFrame) -> Chart:
    """The terms of the test loss against T."""
    own = at_most_examples(table)
    own = own[own["drawing"] == own["drawing"].max()].sort_values(["model", "temperature"])
    series = [
        Series(
            label=label,
            x=cell["temperature"],
            y=cell[name],
            panel=panel(model),
            kind="points",  # several rates and batches have one temperature
        )
        for model, cell in own.groupby("model", sort=False)
        for name, label in _LABELS.items()
    ]
    return Chart(
        name="terms",
        title="Parts of the test loss above its minimum",
        caption="Means over seeds, at the largest training set and penalty. The terms are those of a quadratic test loss; the "
        "measured rise is that of the mean test loss of the iterates.",
        x_label="Temperature η/(2b)",
        y_label="Test loss above its minimum",
        log_x=True,
        log_y=True,
        share_y=False,
        series=series,
    )


def covariance_chart(table: pd.DataFrame) -> Chart:
    """The covariance term over its prediction against T."""
    own = at_most_examples(table).dropna(subset=["over_prediction"]).sort_values(["model", "temperature"])
    series = [
        Series(
            label=drawing,
            x=cell["temperature"],
            y=cell["over_prediction"],
            low=cell["over_prediction_low"],
            high=cell["over_prediction_high"],
            kind="points",
            panel=panel(model),
        )
        for (model, drawing), cell in own.groupby(["model", "drawing"], sort=False)
    ]
    return Chart(
        name="covariance",
        title="The covariance term over the prediction for SGD",
        caption="Bars are 95 % intervals over seeds. The prediction is for batches drawn with replacement, on the quadratic at "
        f"the train minimum, with the noise there; runs {EPOCHS} have less noise than runs {REPLACED}.",
        x_label="Temperature η/(2b)",
        y_label="Measured / predicted",
        log_x=True,
        share_y=False,
        series=series,
        references=[Reference(1.0)],
    )


def sizes_chart(table: pd.DataFrame) -> Chart:
    """The shift term and the rise between the minima against the training set."""
    series = []
    for (model, penalty), own in table[table["drawing"] == table["drawing"].max()].groupby(["model", "penalty"]):
        counts = own.groupby(["learning_rate", "batch"])["examples"].nunique()
        rate, batch = counts.idxmax()
        cell = own[(own["learning_rate"] == rate) & (own["batch"] == batch)].sort_values("examples")
        same = {"panel": panel(model), "x": cell["examples"]}
        bounds = {"low": cell["shift_low"].where(cell["shift_low"] > 0, cell["shift"]), "high": cell["shift_high"]}
        series.append(Series(label=f"shift term, λ = {penalty:g}", y=cell["shift"], **same, **bounds))
        series.append(Series(label=f"rise between the minima, λ = {penalty:g}", y=cell["shift_excess"], **same))
    return Chart(
        name="sizes",
        title="The shift against the size of the training set",
        caption="Means over seeds, each of which is another division of the data; bars are 95 % intervals of the shift term.",
        x_label="Training examples",
        y_label="Test loss above its minimum",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
    )
