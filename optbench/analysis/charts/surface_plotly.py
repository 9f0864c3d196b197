"""Surfaces for pages: contours, drawn by plotly."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from optbench.analysis.charts.layout import Layout, Surface
from optbench.analysis.charts.numbers import Floats, floats
from optbench.analysis.charts.surface import are_logarithmic, levels
from optbench.analysis.charts.template import TEMPLATE


def draw(chart: Layout, surface: Surface) -> go.Figure:
    """The surface, without a fixed size. The pointer shows the value itself, even above the highest level."""
    heights = floats(surface.z)
    steps = levels(heights if surface.range is None else surface.range)
    shown = np.where(np.isfinite(heights), np.clip(heights, steps[0], steps[-1]), np.nan)
    bar: dict[str, Any] = {"title": {"text": surface.label}}
    start, end = float(steps[0]), float(steps[-1])
    if are_logarithmic(steps):
        shown, start, end = np.log10(shown), float(np.log10(start)), float(np.log10(end))
        bar["tickvals"], bar["ticktext"] = _colour_bar_ticks(steps)
    figure = go.Figure(layout={"template": TEMPLATE, "plot_bgcolor": "#E0E0E0"})
    figure.add_trace(
        go.Contour(
            x=floats(surface.x).tolist(),
            y=floats(surface.y).tolist(),
            z=[_gaps(row) for row in shown],
            customdata=[_gaps(row) for row in heights],
            contours={"start": start, "end": end, "size": (end - start) / (len(steps) - 1)},
            colorscale="Cividis",
            colorbar=bar,
            line={"width": 0.5, "color": "white"},
            connectgaps=False,
            hovertemplate="(%{x:.3g}, %{y:.3g}): %{customdata:.4g}<extra></extra>",
        )
    )
    if surface.mark is not None:
        cross = {"symbol": "cross-thin", "size": 12, "line": {"color": "white", "width": 2}}
        x, y = ([value] for value in surface.mark)
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=cross, showlegend=False, hoverinfo="skip"))
    figure.update_xaxes(title=chart.x_label, showgrid=False, constrain="domain")
    figure.update_yaxes(title=chart.y_label, showgrid=False, constrain="domain", scaleanchor="x")
    return figure


def _colour_bar_ticks(steps: Floats) -> tuple[list[float], list[str]]:
    chosen = steps[:: max(1, (len(steps) - 1) // 5)]
    return np.log10(chosen).tolist(), [f"{value:.2g}" for value in chosen]


def _gaps(values: ArrayLike) -> list[float | None]:
    """``values`` with None, a gap for plotly, where they are not finite: JSON has no such numbers."""
    return [float(value) if np.isfinite(value) else None for value in floats(values)]
