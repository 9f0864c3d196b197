"""The figures of the laws: exponents, best rates with their law and its bend, and the curves of loss against rate."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.laws.broken_power_law import ScalingLaw
from optbench.analysis.laws.loss_curves import LossCurves
from optbench.analysis.names import method


def exponents_chart(laws: pd.DataFrame, predicted: pd.DataFrame) -> Chart:
    """The measured exponents, and those that the batch Hessian predicts for the largest stable rate."""
    rows = laws[laws["exponent"].notna()] if len(laws) else laws
    series = []
    if len(rows):
        series.append(
            Series(
                label="measured",
                x=rows["optimizer"].map(method),
                y=rows["exponent"],
                low=rows["low"],
                high=rows["high"],
                kind="points",
            )
        )
    for step, own in predicted.groupby("step"):
        names = own["optimizer"].map(method)
        series.append(
            Series(
                label=f"batch Hessian at step {step}",
                x=names,
                y=own["exponent"],
                low=own["low"],
                high=own["high"],
                kind="points",
            )
        )
    return Chart(
        name="exponents",
        title="The exponent of the best learning rate in the batch size",
        caption="Local slopes where training comes within 5 % of the best loss; bars are 95 % intervals, which hold the seeds, "
        "the cells that were not trained and the scatter around the law. Lines: the square root and the linear rule.",
        y_label="Exponent of the batch size",
        horizontal=True,
        series=series,
        references=[Reference(0.5, "square root"), Reference(1.0, "linear")],
    )


def optima_chart(optima: pd.DataFrame, laws: Mapping[str, ScalingLaw], noise: pd.DataFrame) -> Chart:
    """The best rate at every batch size, with the law and its bend; hollow where training misses the quality or at an end."""
    series = []
    for optimizer, rows in optima.groupby("optimizer", sort=False):
        panel = method(str(optimizer))
        inside = (rows["beyond_lowest"] <= 0.5) & (rows["beyond_highest"] <= 0.5)
        counts = inside & (rows["times_least"] <= 1.05)
        for label, part, hollow in (
            ("within 5 % of the best loss", rows[counts], False),
            ("worse, or at an end of the grid", rows[~counts], True),
        ):
            if len(part):
                series.append(
                    Series(
                        label=label,
                        x=part["batch"],
                        y=part["rate"],
                        low=part["low"],
                        high=part["high"],
                        panel=panel,
                        kind="points",
                        hollow=hollow,
                    )
                )
        found = laws.get(str(optimizer))
        if found is not None and np.isfinite(found.bend.estimate):
            x = np.geomspace(min(found.batches_used), max(found.batches_used), 60)
            series.append(Series(label="law with a bend", x=x, y=found(x), panel=panel, kind="curve"))
    caption = (
        "Bars are 95 % intervals over seeds and cells that were not trained. Only filled points count for the exponent."
    )
    if len(noise):
        caption += f" The noise scale, measured along one run, is {noise['noise_scale'].median():.0f} examples."
    return Chart(
        name="optima",
        title="The best learning rate against batch size",
        caption=caption,
        x_label="Batch size (examples)",
        y_label="Best learning rate",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
    )


def curves_chart(curves: Mapping[str, LossCurves]) -> Chart:
    """The loss against the learning rate at every batch size: the median over the draws of what was not trained, with 95 %."""
    series = []
    for optimizer, own in curves.items():
        order = np.linspace(0, 1, len(own.batches))
        for b, batch in enumerate(own.batches):
            # Where half of the draws diverge there is no curve.
            shown = np.isfinite(own.resampled[:, b]).mean(0) > 0.5
            if shown.sum() < 2:
                continue
            losses = own.resampled[:, b, shown]
            middle = np.full(len(shown), np.nan)
            middle[shown] = np.nanmedian(np.where(np.isinf(losses), np.nan, losses), 0)
            series.append(
                Series(
                    label=f"batch {batch:g}",
                    x=own.rates,
                    y=middle,
                    kind="curve",
                    panel=method(optimizer),
                    shade=float(order[b]),
                )
            )
    return Chart(
        name="loss_against_rate",
        title="Validation loss against learning rate",
        caption="Mean over seeds; dark is a large batch. Of a grid that was trained in part: the median of the surrogate. "
        "Left out: rates at which half of the draws diverge.",
        x_label="Learning rate",
        y_label="Validation loss",
        log_x=True,
        log_y=True,
        share_y=False,
        series=series,
    )
