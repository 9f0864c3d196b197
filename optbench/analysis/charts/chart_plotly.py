"""Draw charts for pages with plotly, from the descriptions of `optbench.analysis.charts.layout`."""

import math
import textwrap
from typing import Any

import numpy as np
import plotly.graph_objects as go

from optbench.analysis.charts.layout import Layout, Series
from optbench.analysis.charts.numbers import Floats
from optbench.analysis.charts.styles import GREY, Style
from optbench.analysis.charts.template import TEMPLATE

# The height of a row of panels and the gap between rows in pixels, and the gap between columns as a fraction of the width.
ROW = 340
_ROW_GAP = 78
_COLUMN_GAP = 0.09
_MARGINS = {"l": 64, "r": 16, "t": 30, "b": 54}
_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
# The height of a category in a horizontal chart.
_LINE = 24
# With more letters in all categories together, their labels are slanted.
_LETTERS_IN_A_ROW = 60
_NARROW_LETTERS = 22
# The number of ticks with labels for which a page has room.
_MOST_TICKS = 20
# Over more decades than these a logarithmic axis shows only powers of ten, and about so many of them.
_DECADES_WITH_DIGITS, _MOST_POWERS = 2.5, 6
# Over fewer decades than these 1, 2 and 5 would be less than two labels.
_DECADES_WITH_LINEAR_TICKS = 0.6


def draw(chart: Layout, narrow: bool = False) -> go.Figure:
    """The chart, with a fixed height and the page's width. ``narrow``: panels in one column, long names on several lines."""
    if chart.surface is not None:
        from optbench.analysis.charts import surface_plotly

        return surface_plotly.draw(chart, chart.surface)
    panels = chart.panels
    columns = 1 if narrow else chart.panel_columns
    rows = math.ceil(len(panels) / columns)
    height: float = ROW - _MARGINS["t"] - _MARGINS["b"]
    if chart.horizontal:
        height = max(height, _LINE * sum(1 + 0.6 * word.count("<br>") for word in _names(chart, narrow)))
    inner = rows * height + (rows - 1) * _ROW_GAP
    figure = go.Figure(layout={"template": TEMPLATE, "margin": _MARGINS, "barmode": "overlay", "hovermode": "closest"})
    figure.update_layout(height=inner + _MARGINS["t"] + _MARGINS["b"], showlegend=_has_legend(chart))
    shown: set[str] = set()
    for number, panel in enumerate(panels, start=1):
        row, column = divmod(number - 1, columns)
        named = _names(chart, narrow)
        _add_axes(
            figure, chart, number, _domain(row, rows, inner), _width(column, columns), named, (row, column, columns)
        )
        _draw_panel(figure, chart, panel, number, shown)
        if panel is not None and panel not in chart.values:
            place = {"xref": f"{_axis('x', number)} domain", "yref": f"{_axis('y', number)} domain", "x": 0, "y": 1}
            figure.add_annotation(
                text=panel, showarrow=False, xanchor="left", yanchor="bottom", font={"size": 14, "weight": 600}, **place
            )
    # The legend is above the titles of the panels.
    figure.update_layout(legend={"y": 1 + (28 if panels != [None] else 8) / inner})
    return figure


def _has_legend(chart: Layout) -> bool:
    labels = {series.label for series in chart.series} | {
        reference.label for reference in chart.references if reference.label
    }
    return len(labels) > 1


def _domain(row: int, rows: int, inner: float) -> list[float]:
    height = (inner - (rows - 1) * _ROW_GAP) / rows
    top = inner - row * (height + _ROW_GAP)
    return [max(0.0, (top - height) / inner), top / inner]


def _width(column: int, columns: int) -> list[float]:
    width = (1 - (columns - 1) * _COLUMN_GAP) / columns
    left = column * (width + _COLUMN_GAP)
    return [left, min(1.0, left + width)]


def _axis(letter: str, number: int) -> str:
    """Plotly's name of the axis of a panel: "x" and "y" of the first, "x2" and so on of the others."""
    return letter if number == 1 else f"{letter}{number}"


def _add_axes(
    figure: go.Figure,
    chart: Layout,
    number: int,
    vertical: list[float],
    horizontal: list[float],
    categories: list[str],
    place: tuple[int, int, int],
) -> None:
    row, column, columns = place
    panel = chart.panels[number - 1]
    values = chart.values_of(panel)
    below = (row + 1) * columns + column >= len(chart.panels)
    x_label = chart.x_label_of(panel)
    words = (values.label, x_label) if chart.horizontal else (x_label, values.label)
    x: dict[str, Any] = {
        "domain": horizontal,
        "anchor": _axis("y", number),
        "title": {"text": words[0] if below or chart.x_labels else ""},
    }
    y: dict[str, Any] = {"domain": vertical, "anchor": _axis("x", number)}
    y["title"] = {"text": words[1] if column == 0 or panel in chart.values else ""}
    of_arguments, of_values = (y, x) if chart.horizontal else (x, y)
    if number > 1:
        # Categories have the same range anyway; with "matches", plotly would not draw them in separate rows.
        if not categories and not chart.x_labels:
            of_arguments["matches"] = "y" if chart.horizontal else "x"
        if chart.share_y and panel not in chart.values:
            of_values["matches"] = "x" if chart.horizontal else "y"
    if categories:
        of_arguments |= _categories(chart, categories, columns)
        if chart.horizontal:
            # The panels of a row have the same categories, and long ones would lie over the panel to the left.
            of_arguments["showticklabels"] = column == 0
    elif chart.ticks_at_x:
        ticks = chart.ticks()
        ticks = ticks[:: max(1, math.ceil(len(ticks) / (_MOST_TICKS // columns)))]
        of_arguments |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    if chart.log_x and not chart.categories:
        of_arguments["type"] = "log"
        if not chart.ticks_at_x:
            of_arguments |= _decimal_ticks(chart.decades("x", [panel] if chart.x_labels else chart.panels))
    if values.log:
        together = [other for other in chart.panels if chart.share_y and other not in chart.values]
        of_values |= {"type": "log", **_decimal_ticks(chart.decades("y", together if panel in together else [panel]))}
    if values.percent:
        of_values["tickformat"] = ".2~%"
    if values.range is not None:
        of_values["range"] = np.log10(values.range).tolist() if values.log else list(values.range)
    figure.update_layout({_axis("x", number).replace("x", "xaxis"): x, _axis("y", number).replace("y", "yaxis"): y})


def _decimal_ticks(decades: float) -> dict[str, Any]:
    """The ticks of a logarithmic axis: powers of ten over many decades, and 1, 2, 5 over a few.

    By itself plotly writes the digits between two powers small and without their power, and one over the other.
    """
    if decades > _DECADES_WITH_DIGITS:
        return {"dtick": max(1, round(decades / _MOST_POWERS)), "exponentformat": "power"}
    if decades > _DECADES_WITH_LINEAR_TICKS:
        return {"dtick": "D2", "tickformat": ".3~g"}
    return {"nticks": 5, "tickformat": ".3~g"}


def _names(chart: Layout, narrow: bool) -> list[str]:
    """The categories; on a narrow page those at the left are broken into lines of a few words."""
    if not (narrow and chart.horizontal):
        return chart.categories
    return ["<br>".join(textwrap.wrap(word, _NARROW_LETTERS)) for word in chart.categories]


def _categories(chart: Layout, words: list[str], columns: int) -> dict[str, Any]:
    named = {"tickvals": list(range(len(words))), "ticktext": words, "showgrid": chart.horizontal}
    if chart.horizontal:
        return named | {"range": [len(words) - 0.4, -0.6]}
    slant = -45 if sum(map(len, words)) * columns > _LETTERS_IN_A_ROW else None
    return named | {"range": [-0.6, len(words) - 0.4], "tickangle": slant}


def _draw_panel(figure: go.Figure, chart: Layout, panel: str | None, number: int, shown: set[str]) -> None:
    looks, dashes = chart.looks(), chart.dashes()
    axes = {"xaxis": _axis("x", number), "yaxis": _axis("y", number)}
    for series in chart.series:
        if series.panel != panel:
            continue
        legend = {"name": series.label, "legendgroup": series.label, "showlegend": series.label not in shown}
        if series.is_reference:
            points = _turned(
                chart, chart.positions(series).tolist(), _gaps(series.values, chart.values_of(series.panel).log)
            )
            line = _reference(dashes[series.label]) | ({"shape": "hv"} if series.kind == "limit" else {})
            figure.add_trace(go.Scatter(mode="lines", line=line, hoverinfo="skip", **points, **legend, **axes))
        else:
            _draw_series(figure, chart, series, looks[series.label], legend, axes)
        shown.add(series.label)
    for reference in chart.references_in(panel):
        along = reference.axis if not chart.horizontal else {"x": "y", "y": "x"}[reference.axis]
        across = "x" if along == "y" else "y"
        place: dict[str, Any] = {f"{along}{end}": reference.value for end in "01"}
        place |= {f"{across}0": 0, f"{across}1": 1}
        place |= {f"{along}ref": _axis(along, number), f"{across}ref": f"{_axis(across, number)} domain"}
        named = bool(reference.label) and reference.label not in shown
        line = _reference(dashes[reference.label])
        figure.add_shape(type="line", line=line, layer="below", name=reference.label, showlegend=named, **place)
        shown.add(reference.label)


def _reference(number: int) -> dict[str, Any]:
    return {"color": GREY, "dash": _DASHES[number % len(_DASHES)], "width": 1.5}


def _turned(chart: Layout, x: Any, y: Any) -> dict[str, Any]:
    return {"x": y, "y": x} if chart.horizontal else {"x": x, "y": y}


def _draw_series(
    figure: go.Figure, chart: Layout, series: Series, style: Style, legend: dict[str, Any], axes: dict[str, Any]
) -> None:
    x, y = chart.positions(series).tolist(), series.values
    steps = {"steps": "vh" if chart.horizontal else "hv"}
    line = {"color": style.colour, "dash": style.plotly_dash, "width": 2, "shape": steps.get(series.kind, "linear")}
    points = {
        **_turned(chart, x, _gaps(y, chart.values_of(series.panel).log)),
        **_hover(chart, series),
        **({"meta": {"runs": list(series.runs)}} if series.runs is not None else {}),
        **legend,
        **axes,
    }
    interval = series.interval
    if interval is not None and series.band:
        _draw_band(figure, chart, series, style, {**axes, "legendgroup": series.label, "line_shape": line["shape"]})
    elif interval is not None:
        below, above = (
            np.clip(np.nan_to_num(y - interval[0]), 0, None),
            np.clip(np.nan_to_num(interval[1] - y), 0, None),
        )
        points["error_x" if chart.horizontal else "error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": above.tolist(),
            "arrayminus": below.tolist(),
            "thickness": 1.2,
            "width": 3,
            "color": "black" if series.kind == "bars" else style.colour,
        }
    if series.kind == "bars":
        turn = "h" if chart.horizontal else "v"
        figure.add_trace(go.Bar(width=chart.bar_width, orientation=turn, marker={"color": style.colour}, **points))
        return
    mode = {"line": "lines+markers", "points": "markers"}.get(series.kind, "lines")
    symbol = f"{style.symbol}-open" if series.hollow else style.symbol
    marker = {"symbol": symbol, "size": 7, "color": style.colour}
    clip = None if chart.values_of(series.panel).range is None else False
    figure.add_trace(go.Scatter(mode=mode, line=line, marker=marker, cliponaxis=clip, **points))


def _hover(chart: Layout, series: Series) -> dict[str, Any]:
    """The text at the pointer: x, y, the interval, and the text of the point."""
    values = chart.values_of(series.panel)
    y_format = ":.2%" if values.percent else ":.4g"
    x_shown = [str(value) if isinstance(value, str) else f"{value:g}" for value in series.x]
    data: list[list[Any]] = [[shown] for shown in x_shown]
    value = "x" if chart.horizontal else "y"
    template = f"{chart.x_label_of(series.panel)} %{{customdata[0]}}<br>{values.label} %{{{value}{y_format}}}"
    if series.interval is not None:
        for entry, low, high in zip(data, *series.interval, strict=True):
            entry += [_finite(low), _finite(high)]
        template += f" [%{{customdata[1]{y_format}}}, %{{customdata[2]{y_format}}}]"
    if series.texts is not None:
        for entry, text in zip(data, series.texts, strict=True):
            entry.append(text)
        template += f"<br>%{{customdata[{len(data[0]) - 1 if data else 1}]}}"
    return {"customdata": data, "hovertemplate": template}


def _draw_band(figure: go.Figure, chart: Layout, series: Series, style: Style, more: dict[str, Any]) -> None:
    x, interval = chart.positions(series).tolist(), series.interval
    if interval is None:
        return
    low, high = (
        np.array([math.nan if value is None else value for value in _gaps(end, chart.values_of(series.panel).log)])
        for end in interval
    )
    # A filled area cannot have gaps, so that it is divided into pieces without gaps.
    present = np.isfinite(low) & np.isfinite(high)
    red, green, blue = (int(style.colour[start : start + 2], 16) for start in (1, 3, 5))
    edge = {
        "mode": "lines",
        "line": {"width": 0, "shape": more.pop("line_shape")},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    fill = {"fill": "tonextx" if chart.horizontal else "tonexty", "fillcolor": f"rgba({red}, {green}, {blue}, 0.18)"}
    for piece in np.split(np.arange(len(x)), np.flatnonzero(np.diff(present.astype(int))) + 1):
        if not len(piece) or not present[piece[0]]:
            continue
        place = [x[index] for index in piece]
        figure.add_trace(go.Scatter(**_turned(chart, place, low[piece].tolist()), **edge, **more))
        figure.add_trace(go.Scatter(**_turned(chart, place, high[piece].tolist()), **edge, **fill, **more))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _gaps(values: Floats, logarithmic: bool) -> list[float | None]:
    """The values with None, a gap for plotly, where JSON has no number or a logarithmic axis no place."""
    return [_finite(value) if value > 0 or not logarithmic else None for value in values]
