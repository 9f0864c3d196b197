"""The loss along lines and on planes in the space of parameters, and the path of a run on such a plane."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from optbench.analysis.figures.style import (
    COLOUR_MAP,
    REFERENCE,
    SERIES,
    UNKNOWN,
    Floats,
    floats,
    in_paper_style,
    legend_above,
    log_scale_where_it_helps,
    panels,
    percent_axis,
    position_axis,
    spans_decades,
)

# Far corners of a surface can be astronomically high, and would leave one level for the basin that the figure is about.
HIGHEST_OVER_LOWEST = 1e4


def levels(loss: ArrayLike, count: int = 16) -> Floats:
    """Contour levels: evenly spaced in the logarithm where the loss is positive and spans a decade, evenly spaced otherwise.

    They end at 1e4 times the lowest loss. Values that are not finite are left out; without any finite value the levels are 0
    and 1.
    """
    finite = floats(loss)[np.isfinite(floats(loss))]
    if not finite.size:
        return floats([0.0, 1.0])
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return floats([low - 0.5, low + 0.5])
    if spans_decades(finite, ratio=10):
        return np.geomspace(low, min(high, HIGHEST_OVER_LOWEST * low), count)
    return np.linspace(low, high, count)


def position_label(direction: str, normalization: str | None) -> str:
    """The name of an axis of positions along ``direction``, with the unit: how the direction is scaled."""
    return direction + (f" ({normalization})" if normalization else "")


@in_paper_style
def lines(
    positions: ArrayLike,
    loss: ArrayLike,
    accuracy: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    normalization: str | None = None,
) -> Figure:
    """The loss along lines through one point, and below it the accuracy, if given.

    positions: (n,), 0 at the point. loss, accuracy: (directions, n) or (n,); the accuracy as a fraction. Values that are not
    finite leave gaps. normalization: how directions are scaled, such as "filter-normalized".
    """
    losses = np.atleast_2d(floats(loss))
    curves_of_panels = [losses] if accuracy is None else [losses, np.atleast_2d(floats(accuracy))]
    figure, axes = panels(len(curves_of_panels), height=2.2 if accuracy is None else 3.2)
    labels = names or [f"direction {number}" for number in range(1, len(losses) + 1)]
    for panel, curves in zip(axes, curves_of_panels, strict=True):
        panel.axvline(0, color=REFERENCE, linewidth=0.6, zorder=0)
        for label, curve, series in zip(labels, curves, SERIES, strict=False):
            panel.plot(floats(positions), curve, **series.line, label=label)
    log_scale_where_it_helps(axes[0], losses)
    axes[0].set_ylabel("Loss")
    if accuracy is not None:
        percent_axis(axes[1])
    position_axis(axes[-1], position_label("Position along the direction", normalization))
    if len(losses) > 1:
        legend_above(figure, axes[0])
    figure.align_ylabels()
    return figure


def _short(value: float, _: int) -> str:
    """``value`` with two significant digits, in plain notation where that is short."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e4 else f"{value:.2g}"


def _contours(figure: Figure, axes: Axes, x: ArrayLike, y: ArrayLike, loss: ArrayLike) -> None:
    """Filled contours of ``loss`` (ny, nx) with a colour bar. Hatched where the loss is not finite."""
    heights = np.ma.masked_invalid(floats(loss))
    steps = levels(loss)
    axes.patch.set(facecolor=UNKNOWN, hatch="//////", edgecolor="0.45")
    if heights.count():
        logarithmic = steps[0] > 0 and not np.allclose(np.diff(steps), steps[1] - steps[0])
        norm = (LogNorm if logarithmic else Normalize)(steps[0], steps[-1])
        beyond = "max" if heights.max() > steps[-1] * (1 + 1e-9) else "neither"
        # The highest level itself belongs to the last colour.
        drawn = heights if beyond == "max" else np.ma.minimum(heights, steps[-1])
        filled = axes.contourf(floats(x), floats(y), drawn, steps, norm=norm, cmap=COLOUR_MAP, extend=beyond)
        axes.contour(floats(x), floats(y), drawn, steps[1:-1], colors="white", linewidths=0.3)
        ticks = steps[:: max(1, (len(steps) - 1) // 5)]
        bar = figure.colorbar(filled, ax=axes, label="Loss", ticks=ticks, format=FuncFormatter(_short), pad=0.02)
        bar.minorticks_off()
    if heights.count() < heights.size:
        hatched = Patch(facecolor=UNKNOWN, hatch="//////", edgecolor="0.45", label="loss not finite")
        figure.legend(handles=[hatched], loc="outside upper left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))


@in_paper_style
def surface(
    x: ArrayLike,
    y: ArrayLike,
    loss: ArrayLike,
    *,
    names: tuple[str, str] = ("Direction 1", "Direction 2"),
    normalization: str | None = None,
) -> Figure:
    """The loss on a plane through one point, marked with a cross, as contours at the levels of ``levels``.

    x: (nx,). y: (ny,). loss: (ny, nx); hatched where it is not finite. normalization: how directions are scaled.
    """
    figure, (axes,) = panels(height=2.7)
    _contours(figure, axes, x, y, loss)
    axes.plot([0], [0], marker="+", markersize=7, markeredgewidth=1.2, color="white", linestyle="none")
    axes.set_xlabel(position_label(names[0], normalization))
    axes.set_ylabel(position_label(names[1], normalization))
    return figure


@in_paper_style
def trajectory(
    coordinates: ArrayLike,
    explained: ArrayLike,
    *,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    loss: ArrayLike | None = None,
) -> Figure:
    """The path of a run in the plane of its first two principal components, over the loss on that plane, if given.

    coordinates: (n, 2), in the order of training, relative to the last point. explained: (2,), the shares of the variance along
    the two. x: (nx,), y: (ny,), loss: (ny, nx).
    """
    figure, (axes,) = panels(height=2.8)
    on_surface = x is not None and y is not None and loss is not None
    if x is not None and y is not None and loss is not None:
        _contours(figure, axes, x, y, loss)
    path = floats(coordinates)
    # White on black shows on every shade of the surface.
    axes.plot(*path.T, color="black", linewidth=2.0, zorder=3)
    axes.plot(
        *path.T, color="white" if on_surface else SERIES[2].colour, linewidth=0.8, marker="o", markersize=2, zorder=4
    )
    for place, marker, label in ((0, "s", "start"), (-1, "*", "end")):
        axes.plot(
            *path[place],
            marker=marker,
            markersize=7 if marker == "*" else 5,
            color="white",
            markeredgecolor="black",
            markeredgewidth=0.8,
            linestyle="none",
            zorder=5,
            label=label,
        )
    shares = floats(explained)
    axes.set_xlabel(f"First principal component ({shares[0]:.1%} of variance)")
    axes.set_ylabel(f"Second ({shares[1]:.1%})")
    legend_above(figure, axes)
    return figure


@in_paper_style
def interpolation(
    positions: ArrayLike,
    train_loss: ArrayLike,
    test_loss: ArrayLike,
    train_accuracy: ArrayLike | None = None,
    test_accuracy: ArrayLike | None = None,
    *,
    ends: tuple[str, str] | None = None,
) -> Figure:
    """Loss, and accuracy below it, on the straight line between two points of the space of parameters.

    All (n,); the accuracies as fractions. positions: 0 at the first point, 1 at the second. ends: what the two points are.
    """
    curves_of_panels = [(train_loss, test_loss)]
    if train_accuracy is not None and test_accuracy is not None:
        curves_of_panels.append((train_accuracy, test_accuracy))
    figure, axes = panels(len(curves_of_panels), height=3.2 if len(curves_of_panels) == 2 else 2.2)
    for panel, curves in zip(axes, curves_of_panels, strict=True):
        for end in (0, 1):
            panel.axvline(end, color=REFERENCE, linewidth=0.6, zorder=0)
        for label, curve, series in zip(("train", "test"), curves, SERIES, strict=False):
            panel.plot(floats(positions), floats(curve), **series.line, label=label)
    log_scale_where_it_helps(axes[0], train_loss, test_loss)
    axes[0].set_ylabel("Loss")
    if len(axes) == 2:
        percent_axis(axes[1])
    first, second = ends or ("first point", "second point")
    position_axis(axes[-1], f"Position (0: {first}, 1: {second})")
    legend_above(figure, axes[0])
    figure.align_ylabels()
    return figure
