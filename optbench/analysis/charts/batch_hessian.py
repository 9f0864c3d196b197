"""The extreme eigenvalues of the Hessian of one mini-batch against the size of the batch."""

import numpy as np
from numpy.typing import ArrayLike

from optbench.analysis.charts.chart import Chart, Reference, Series, Values
from optbench.analysis.charts.numbers import floats, spans_decades

PREDICTIONS = ("isotropic", "directional", "fitted")
UPPER, LOWER = "Largest eigenvalue", "Smallest eigenvalue"


def prediction_label(name: str, b_star: float | None) -> str:
    """The name of a prediction in a legend: with b*, the batch size at which it doubles the largest eigenvalue."""
    return name if b_star is None else f"{name}, b* = {b_star:.2g}"


def _draws(sizes: ArrayLike, values: ArrayLike, panel: str) -> Series:
    """The mean over draws, (B, draws) -> (B,), between the smallest and the largest."""
    drawn = np.ma.masked_invalid(floats(values))
    ends = {"y": drawn.mean(axis=1), "low": drawn.min(axis=1), "high": drawn.max(axis=1)}
    shown = {name: end.filled(np.nan) for name, end in ends.items()}
    return Series(label="measured: mean, range", x=floats(sizes), panel=panel, kind="points", look=0, **shown)


def batch_hessian(
    batch_sizes: ArrayLike,
    top: ArrayLike,
    bottom: ArrayLike,
    full_top: float,
    full_bottom: float,
    isotropic: ArrayLike,
    directional: ArrayLike,
    fitted: ArrayLike,
    *,
    b_star_isotropic: float | None = None,
    b_star_directional: float | None = None,
    b_star_fitted: float | None = None,
) -> Chart:
    """The largest (above) and the smallest eigenvalue of mini-batch Hessians against the batch size.

    batch_sizes: (B,). top, bottom: (B, draws), drawn as the mean with bars from the smallest to the largest draw. full_top,
    full_bottom: of the Hessian of all examples. isotropic, directional, fitted: (B,), three predictions of the mean of
    ``top``, each by its own b* (Granziol, Zohren, Roberts, JMLR 23(173), 2022).
    """
    sizes, predictions = floats(batch_sizes), (isotropic, directional, fitted)
    stars = (b_star_isotropic, b_star_directional, b_star_fitted)
    series = [_draws(sizes, top, UPPER)]
    for number, (name, prediction, b_star) in enumerate(zip(PREDICTIONS, predictions, stars, strict=True), start=1):
        label = prediction_label(name, b_star)
        series.append(Series(label=label, x=sizes, y=floats(prediction), panel=UPPER, kind="curve", look=number))
    series.append(_draws(sizes, bottom, LOWER))
    return Chart(
        name="batch_hessian",
        title="Eigenvalues of mini-batch Hessians",
        x_label="Batch size (examples)",
        log_x=True,
        ticks_at_x=True,
        columns=1,
        series=series,
        references=[
            Reference(full_top, "all examples", panel=UPPER),
            Reference(full_bottom, "all examples", panel=LOWER),
        ],
        values={UPPER: Values(UPPER, log=spans_decades(top, *predictions, [full_top])), LOWER: Values(LOWER)},
    )
