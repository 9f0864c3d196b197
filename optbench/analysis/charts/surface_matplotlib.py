"""Surfaces for papers: filled contours, drawn by matplotlib."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from optbench.analysis.charts.layout import Layout, Surface
from optbench.analysis.charts.numbers import floats
from optbench.analysis.charts.paper import COLOUR_MAP, COLUMN, UNKNOWN, in_paper_style
from optbench.analysis.charts.surface import are_logarithmic, levels

_HEIGHT = 2.7


@in_paper_style
def draw(chart: Layout, surface: Surface) -> Figure:
    """The surface, as wide as one column of a paper."""
    figure = Figure(figsize=(COLUMN, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    _contours(figure, axes, surface)
    if surface.mark is not None:
        x, y = surface.mark
        axes.plot([x], [y], marker="+", markersize=7, markeredgewidth=1.2, color="white", linestyle="none")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    return figure


def _short(value: float, _: int) -> str:
    """``value`` with two significant digits, in plain notation if that is short."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e4 else f"{value:.2g}"


def _contours(figure: Figure, axes: Axes, surface: Surface) -> None:
    """Filled contours with a colour bar, hatched where the value is not finite."""
    heights = np.ma.masked_invalid(floats(surface.z))
    steps = levels(surface.z if surface.range is None else surface.range)
    axes.patch.set(facecolor=UNKNOWN, hatch="//////", edgecolor="0.45")
    if heights.count():
        norm = (LogNorm if are_logarithmic(steps) else Normalize)(steps[0], steps[-1])
        beyond = "max" if heights.max() > steps[-1] * (1 + 1e-9) else "neither"
        # The highest level itself belongs to the last colour.
        drawn = heights if beyond == "max" else np.ma.minimum(heights, steps[-1])
        place = (floats(surface.x), floats(surface.y))
        filled = axes.contourf(*place, drawn, steps, norm=norm, cmap=COLOUR_MAP, extend=beyond)
        axes.contour(*place, drawn, steps[1:-1], colors="white", linewidths=0.3)
        ticks = steps[:: max(1, (len(steps) - 1) // 5)]
        bar = figure.colorbar(filled, ax=axes, label=surface.label, ticks=ticks, format=FuncFormatter(_short), pad=0.02)
        bar.minorticks_off()
    if heights.count() < heights.size:
        label = f"{surface.label.lower()} not finite"
        hatched = Patch(facecolor=UNKNOWN, hatch="//////", edgecolor="0.45", label=label)
        figure.legend(handles=[hatched], loc="outside upper left")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
