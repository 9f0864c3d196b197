"""Plotly twins of the figures that a page shows: the same arrays in, the same palette, values shown where the pointer is.

No size is set: a figure takes the width that the page gives it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from optbench.analysis.figures.batch_hessian import PREDICTIONS, prediction_label
from optbench.analysis.figures.landscape import levels, position_label
from optbench.analysis.figures.spectrum import density_band, density_floor
from optbench.analysis.figures.style import SERIES, Floats, Series, floats, spans_decades

GREY = "#737373"
_AXIS = {
    "showgrid": True,
    "gridcolor": "#ECECEC",
    "zeroline": False,
    "linecolor": "black",
    "ticks": "outside",
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "colorway": [series.colour for series in SERIES],
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": "black"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        # Above the axes, where it covers no data; plotly breaks the line where the page is narrow.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
    }
)


def _shown(values: ArrayLike) -> list[float | None]:
    """``values`` as plotly takes gaps: None where they are not finite, which JSON has no number for."""
    return [float(value) if np.isfinite(value) else None for value in floats(values)]


def _line(x: ArrayLike, y: ArrayLike, name: str, series: Series, markers: bool = False, **more: Any) -> go.Scatter:
    return go.Scatter(
        x=floats(x).tolist(),
        y=_shown(y),
        name=name,
        mode="lines+markers" if markers else "lines",
        line={"color": series.colour, "dash": series.plotly_dash, "width": 2},
        marker={"symbol": series.symbol, "size": 6, "color": series.colour},
        **more,
    )


def _y_type(*values: ArrayLike) -> str:
    return "log" if spans_decades(*values) else "linear"


def spectrum(
    grid: ArrayLike,
    density: ArrayLike,
    density_error: ArrayLike | None = None,
    *,
    dimension: int | None = None,
    bottom: float | None = None,
    top: float | None = None,
    matrix: str = "Hessian",
) -> go.Figure:
    """The page's twin of ``spectrum.spectrum``; same arguments."""
    floor = density_floor(grid, density, dimension)
    figure = go.Figure(layout={"template": TEMPLATE})
    band = density_band(density, density_error, floor)
    if band is not None:
        edges = {"x": floats(grid).tolist(), "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        figure.add_trace(go.Scatter(y=_shown(band[0]), showlegend=False, **edges))
        figure.add_trace(
            go.Scatter(
                y=_shown(band[1]), fill="tonexty", fillcolor="rgba(0, 68, 136, 0.3)", name="± 1 standard error", **edges
            )
        )
    # A logarithmic axis has no place for 0, and plotly joins what is left.
    heights = np.where(floats(density) > 0, floats(density), np.nan)
    figure.add_trace(_line(grid, heights, "mean over probes" if band else "density", SERIES[0]))
    extremes = [value for value in (bottom, top) if value is not None]
    if extremes:
        figure.add_trace(
            go.Scatter(
                x=extremes,
                y=[floor] * len(extremes),
                mode="markers",
                cliponaxis=False,
                marker={"symbol": "triangle-up", "size": 11, "color": SERIES[1].colour},
                name="smallest, largest",
                hovertemplate="%{x:.4g}",
            )
        )
    highest = float(np.nanmax(np.where(np.isfinite(heights), heights, np.nan), initial=10 * floor))
    figure.update_xaxes(title=f"Eigenvalue of the {matrix}")
    figure.update_yaxes(
        title="Density (1 / eigenvalue)",
        type="log",
        exponentformat="power",
        range=np.log10([floor, 4 * highest]).tolist(),
    )
    return figure


def eigenvalues_over_training(
    steps: ArrayLike,
    eigenvalues: Mapping[str, ArrayLike],
    thresholds: Mapping[str, ArrayLike] | None = None,
    *,
    matrix: str = "Hessian",
) -> go.Figure:
    """The page's twin of ``training.eigenvalues_over_training``; same arguments."""
    figure = go.Figure(layout={"template": TEMPLATE})
    positions = floats(steps)
    for (label, values), series in zip(eigenvalues.items(), SERIES, strict=False):
        figure.add_trace(_line(positions, values, label, series, markers=True))
    limits = {label: np.broadcast_to(floats(limit), positions.shape) for label, limit in (thresholds or {}).items()}
    for (label, limit), dash in zip(limits.items(), ("dash", "dot", "dashdot", "longdash"), strict=False):
        figure.add_trace(
            go.Scatter(
                x=positions.tolist(),
                y=_shown(limit),
                name=label,
                line={"color": GREY, "dash": dash, "shape": "hv"},
                mode="lines",
            )
        )
    figure.update_xaxes(title="Step")
    figure.update_yaxes(title=f"Eigenvalue of the {matrix}", type=_y_type(*eigenvalues.values(), *limits.values()))
    return figure


def _draws(sizes: ArrayLike, values: ArrayLike, **more: Any) -> go.Scatter:
    """The mean over draws, (B, draws) -> (B,), between the smallest and the largest."""
    drawn = np.ma.masked_invalid(floats(values))
    middle = drawn.mean(axis=1)
    above, below = (drawn.max(axis=1) - middle).filled(np.nan), (middle - drawn.min(axis=1)).filled(np.nan)
    return go.Scatter(
        x=floats(sizes).tolist(),
        y=_shown(middle.filled(np.nan)),
        error_y={"type": "data", "symmetric": False, "array": _shown(above), "arrayminus": _shown(below)},
        mode="markers",
        marker={"color": SERIES[0].colour, "symbol": SERIES[0].symbol, "size": 7},
        name="measured: mean, range",
        **more,
    )


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
) -> go.Figure:
    """The page's twin of ``batch_hessian.batch_hessian``; same arguments."""
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.63, 0.37], vertical_spacing=0.06)
    figure.update_layout(template=TEMPLATE)
    sizes = floats(batch_sizes)
    predictions = (isotropic, directional, fitted)
    stars = (b_star_isotropic, b_star_directional, b_star_fitted)
    figure.add_trace(_draws(sizes, top), row=1, col=1)
    for name, prediction, b_star, series in zip(PREDICTIONS, predictions, stars, SERIES[1:], strict=False):
        figure.add_trace(_line(sizes, prediction, prediction_label(name, b_star), series), row=1, col=1)
    figure.add_trace(_draws(sizes, bottom, showlegend=False), row=2, col=1)
    for row, (full, shown) in enumerate(((full_top, True), (full_bottom, False)), start=1):
        ends = [float(sizes.min()), float(sizes.max())]
        reference = {
            "mode": "lines",
            "line": {"color": GREY, "width": 1.5},
            "name": "all examples",
            "showlegend": shown,
        }
        figure.add_trace(go.Scatter(x=ends, y=[full, full], **reference), row=row, col=1)
    figure.update_xaxes(type="log", tickvals=sizes.tolist(), ticktext=[f"{size:g}" for size in sizes])
    figure.update_xaxes(title="Batch size (examples)", row=2, col=1)
    figure.update_yaxes(title="Largest eigenvalue", type=_y_type(top, *predictions, [full_top]), row=1, col=1)
    figure.update_yaxes(title="Smallest eigenvalue", row=2, col=1)
    return figure


def _colour_bar_ticks(steps: Floats) -> tuple[list[float], list[str]]:
    chosen = steps[:: max(1, (len(steps) - 1) // 5)]
    return np.log10(chosen).tolist(), [f"{value:.2g}" for value in chosen]


def surface(
    x: ArrayLike,
    y: ArrayLike,
    loss: ArrayLike,
    *,
    names: Sequence[str] = ("Direction 1", "Direction 2"),
    normalization: str | None = None,
) -> go.Figure:
    """The page's twin of ``landscape.surface``; same arguments. The pointer shows the loss itself, however high."""
    heights = floats(loss)
    steps = levels(heights)
    logarithmic = steps[0] > 0 and not np.allclose(np.diff(steps), steps[1] - steps[0])
    shown = np.where(np.isfinite(heights), np.clip(heights, steps[0], steps[-1]), np.nan)
    bar: dict[str, Any] = {"title": {"text": "Loss"}}
    start, end = float(steps[0]), float(steps[-1])
    if logarithmic:
        shown, start, end = np.log10(shown), float(np.log10(start)), float(np.log10(end))
        bar["tickvals"], bar["ticktext"] = _colour_bar_ticks(steps)
    figure = go.Figure(layout={"template": TEMPLATE, "plot_bgcolor": "#E0E0E0"})
    figure.add_trace(
        go.Contour(
            x=floats(x).tolist(),
            y=floats(y).tolist(),
            z=[_shown(row) for row in shown],
            customdata=[_shown(row) for row in heights],
            contours={"start": start, "end": end, "size": (end - start) / (len(steps) - 1)},
            colorscale="Cividis",
            colorbar=bar,
            line={"width": 0.5, "color": "white"},
            connectgaps=False,
            hovertemplate="(%{x:.3g}, %{y:.3g}): %{customdata:.4g}<extra></extra>",
        )
    )
    cross = {"symbol": "cross-thin", "size": 12, "line": {"color": "white", "width": 2}}
    figure.add_trace(go.Scatter(x=[0], y=[0], mode="markers", marker=cross, showlegend=False, hoverinfo="skip"))
    figure.update_xaxes(title=position_label(names[0], normalization), showgrid=False)
    figure.update_yaxes(title=position_label(names[1], normalization), showgrid=False)
    return figure
