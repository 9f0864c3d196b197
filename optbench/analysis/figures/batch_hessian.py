"""The extreme eigenvalues of the Hessian of one mini-batch against the size of the batch."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from optbench.analysis.figures.style import (
    REFERENCE,
    SERIES,
    Series,
    batch_axis,
    floats,
    in_paper_style,
    legend_above,
    log_scale_where_it_helps,
    panels,
)

PREDICTIONS = ("isotropic", "directional", "fitted")


def prediction_label(name: str, b_star: float | None) -> str:
    """What a prediction is called in a legend: with b*, the batch size at which it doubles the largest eigenvalue."""
    return name if b_star is None else f"{name}, b* = {b_star:.2g}"


def _draws(axes: Axes, sizes: ArrayLike, values: ArrayLike, series: Series, label: str) -> None:
    """The mean over draws, (B, draws) -> (B,), between the smallest and the largest."""
    drawn = np.ma.masked_invalid(floats(values))
    middle = drawn.mean(axis=1)
    spread = [middle - drawn.min(axis=1), drawn.max(axis=1) - middle]
    axes.errorbar(
        floats(sizes),
        middle.filled(np.nan),
        yerr=[side.filled(np.nan) for side in spread],
        linestyle="none",
        marker=series.marker,
        color=series.colour,
        elinewidth=0.8,
        capsize=1.5,
        label=label,
        zorder=4,
    )


@in_paper_style
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
) -> Figure:
    """The largest (above) and the smallest eigenvalue of mini-batch Hessians against the batch size.

    batch_sizes: (B,). top, bottom: (B, draws), drawn as the mean with bars from the smallest to the largest draw. full_top,
    full_bottom: of the Hessian of all the examples. isotropic, directional, fitted: (B,), three predictions of the mean of
    ``top``, each by a b* of its own (Granziol, Zohren, Roberts, JMLR 23(173), 2022).
    """
    figure, (upper, lower) = panels(2, height=3.9, ratios=(1.7, 1))
    _draws(upper, batch_sizes, top, SERIES[0], "measured: mean, range")
    upper.axhline(full_top, color=REFERENCE, linewidth=0.8, label="all examples")
    predictions = (isotropic, directional, fitted)
    stars = (b_star_isotropic, b_star_directional, b_star_fitted)
    for name, prediction, b_star, series in zip(PREDICTIONS, predictions, stars, SERIES[1:], strict=False):
        upper.plot(floats(batch_sizes), floats(prediction), **series.line, label=prediction_label(name, b_star))
    log_scale_where_it_helps(upper, top, isotropic, directional, fitted, [full_top])
    upper.set_ylabel("Largest eigenvalue")
    _draws(lower, batch_sizes, bottom, SERIES[0], "measured")
    lower.axhline(full_bottom, color=REFERENCE, linewidth=0.8)
    lower.yaxis.set_major_locator(MaxNLocator(4))
    lower.set_ylabel("Smallest eigenvalue")
    batch_axis(lower, batch_sizes)
    legend_above(figure, upper, most_columns=2)
    figure.align_ylabels()
    return figure
