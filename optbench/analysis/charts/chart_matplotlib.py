"""Draw charts for papers with matplotlib, from the descriptions of `optbench.analysis.charts.layout`."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator, PercentFormatter

from optbench.analysis.charts.layout import Layout, Series
from optbench.analysis.charts.numbers import Floats
from optbench.analysis.charts.paper import COLUMN, PAGE, REFERENCE, in_paper_style, legend_above, sparse_marks
from optbench.analysis.charts.styles import Style

_REFERENCE_DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2), (9, 3))
_ROW = 2.2
_MOST_TICKS = 7
# With more letters in total than fit into a column, the words on the x axis are drawn vertically.
_LETTERS_IN_A_COLUMN = 34
_LONG_NAME = 18
# Inches: the height of a category in a horizontal chart.
_LINE = 0.17


@in_paper_style
def draw(chart: Layout) -> Figure:
    """The chart, as wide as one column of a paper or, with several panels, as its text."""
    if chart.surface is not None:
        from optbench.analysis.charts import surface_matplotlib

        return surface_matplotlib.draw(chart, chart.surface)
    panels = chart.panels
    columns = chart.panel_columns
    rows = math.ceil(len(panels) / columns)
    # Names at the left take half a column, and one line each.
    wide = columns > 1 or (chart.horizontal and max(map(len, chart.categories), default=0) > _LONG_NAME)
    height = max(_ROW, _LINE * len(chart.categories) + 0.6) if chart.horizontal else _ROW
    figure = Figure(figsize=(PAGE if wide else COLUMN, height * rows + 0.3), layout="constrained")
    shared = (chart.share_y and not chart.values) or chart.horizontal
    grid = figure.subplots(rows, columns, squeeze=False, sharex=not chart.x_labels, sharey=shared)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, chart, panel)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for index, axes in enumerate(grid.flat[: len(panels)]):
        if index + columns >= len(panels) or chart.x_labels:
            own = chart.values_of(panels[index]).label if chart.horizontal else chart.x_label_of(panels[index])
            axes.set_xlabel(own)
            axes.tick_params(labelbottom=True)
        if index % columns == 0 or panels[index] in chart.values:
            axes.set_ylabel(chart.x_label if chart.horizontal else chart.values_of(panels[index]).label)
    figure.align_ylabels()
    _legend(figure, list(grid.flat[: len(panels)]), chart.looks())
    return figure


def _draw_panel(axes: Axes, chart: Layout, panel: str | None) -> None:
    looks, dashes = chart.looks(), chart.dashes()
    for series in chart.series:
        if series.panel != panel:
            continue
        if series.is_reference:
            place = _turned(chart, chart.positions(series), _positive(series.values, chart.values_of(series.panel).log))
            drawn = "steps-post" if series.kind == "limit" else "default"
            axes.plot(*place, label=series.label, drawstyle=drawn, **_reference(dashes[series.label]))
        else:
            _draw_series(axes, chart, series, looks[series.label])
    for reference in chart.references_in(panel):
        line = axes.axhline if (reference.axis == "y") != chart.horizontal else axes.axvline
        line(reference.value, label=reference.label or None, **_reference(dashes[reference.label]))
    if panel is not None and panel not in chart.values:
        axes.set_title(panel, loc="left")
    _scale(axes, chart, panel)


def _reference(number: int) -> dict[str, Any]:
    return {"color": REFERENCE, "linestyle": (0, _REFERENCE_DASHES[number % len(_REFERENCE_DASHES)]), "zorder": 1}


def _turned(chart: Layout, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    return (y, x) if chart.horizontal else (x, y)


def _draw_series(axes: Axes, chart: Layout, series: Series, style: Style) -> None:
    x, y = chart.positions(series), _positive(series.values, chart.values_of(series.panel).log)
    place = _turned(chart, x, y)
    interval = series.interval
    if series.kind == "bars" and chart.horizontal:
        axes.barh(x, y, height=chart.bar_width, color=style.colour, label=series.label, zorder=2)
    elif series.kind == "bars":
        axes.bar(x, y, width=chart.bar_width, color=style.colour, label=series.label, zorder=2)
    if interval is not None and series.band:
        low, high = (_positive(values, chart.values_of(series.panel).log) for values in interval)
        step = "post" if series.kind == "steps" else None
        fill = axes.fill_betweenx if chart.horizontal else axes.fill_between
        fill(x, low, high, color=style.colour, alpha=0.2, linewidth=0, step=step)  # type: ignore[arg-type]
    elif interval is not None:
        distances = list(_distances(y, *interval))
        bars: dict[str, Any] = {"elinewidth": 0.8, "capsize": 1.5, "zorder": 2.5, "fmt": "none"}
        bars |= {"xerr" if chart.horizontal else "yerr": distances}
        axes.errorbar(*place, ecolor="black" if series.kind == "bars" else style.colour, **bars)
    marks = sparse_marks(len(x))
    # If the range of an axis is given, a mark on its edge is drawn completely.
    clipped = chart.values_of(series.panel).range is None
    marked = {**style.marked, "fillstyle": "none" if series.hollow else "full"}
    if series.kind == "line":
        axes.plot(*place, **marked, markevery=marks if interval is None else 1, label=series.label)
    elif series.kind == "points":
        axes.plot(*place, **{**marked, "linestyle": "none"}, clip_on=clipped, label=series.label)
    elif series.kind in ("curve", "steps"):
        drawn = "steps-post" if series.kind == "steps" else "default"
        axes.plot(*place, **style.line, drawstyle=drawn, label=series.label)


def _positive(values: Floats, logarithmic: bool) -> Floats:
    finite = np.where(np.isfinite(values), values, np.nan)
    return np.where(finite > 0, finite, np.nan) if logarithmic else finite


def _distances(y: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The distances of the ends from y; 0 if there is no end, or if the interval does not contain y."""
    return np.clip(np.nan_to_num(y - low), 0, None), np.clip(np.nan_to_num(high - y), 0, None)


def _scale(axes: Axes, chart: Layout, panel: str | None) -> None:
    values, axis = chart.values_of(panel), axes.xaxis if chart.horizontal else axes.yaxis
    # matplotlib fails at a logarithmic axis without a positive value. Panels that share an axis share its scale.
    if values.log and chart.horizontal and math.isfinite(axes.dataLim.minposx):
        axes.set_xscale("log")
    elif values.log and not chart.horizontal and math.isfinite(axes.dataLim.minposy):
        axes.set_yscale("log")
    if values.percent:
        axis.set_major_formatter(PercentFormatter(xmax=1))
        axis.set_major_locator(MaxNLocator(5))
    if values.range is not None:
        (axes.set_xlim if chart.horizontal else axes.set_ylim)(*values.range)
    if words := chart.categories:
        _name_categories(axes, chart, words)
        return
    if chart.log_x and math.isfinite(axes.dataLim.minposx):
        axes.set_xscale("log")
        places = np.concatenate([chart.positions(series) for series in chart.series])
        if len(found := np.unique(places[places > 0])) == 1:
            # With a single place, matplotlib would give the axis no width and fail.
            axes.set_xlim(found[0] / 2, found[0] * 2)
        elif chart.decades("x", [panel] if chart.x_labels else chart.panels) < 1 and not chart.ticks_at_x:
            # matplotlib would label 1, 2, ..., 9 times a power of ten, one over the other.
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
    if chart.ticks_at_x:
        ticks = chart.ticks()
        every = max(1, math.ceil(len(ticks) / _MOST_TICKS))
        axes.xaxis.set_major_locator(FixedLocator(ticks[::every]))
        axes.xaxis.set_minor_locator(FixedLocator(ticks) if every > 1 else NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _name_categories(axes: Axes, chart: Layout, words: list[str]) -> None:
    if chart.horizontal:
        axes.set_yticks(range(len(words)), words)
        axes.set_ylim(len(words) - 0.4, -0.6)
        return
    axes.set_xticks(range(len(words)), words, rotation=90 if sum(map(len, words)) > _LETTERS_IN_A_COLUMN else 0)
    axes.set_xlim(-0.6, len(words) - 0.4)


def _legend(figure: Figure, panels: list[Axes], looks: dict[str, Style]) -> None:
    """One legend above all panels, with each label once; none for a single series."""
    seen: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    if len(seen) < 2:
        return
    missing = [label for label in seen if label not in panels[0].get_legend_handles_labels()[1]]
    for label in missing:
        # An empty line of the same style in the first panel, from which the legend is made.
        handle = seen[label]
        if isinstance(handle, BarContainer):
            panels[0].bar([math.nan], [math.nan], color=looks[label].colour, label=label)
            continue
        (line,) = panels[0].plot([], [])
        line.update_from(handle)  # get_linestyle() does not distinguish patterns of dashes
        line.set_transform(panels[0].transData)
        line.set_label(label)
    legend_above(figure, panels[0])
