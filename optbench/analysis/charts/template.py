"""The style of all charts of a page, as a template of plotly."""

import plotly.graph_objects as go

from optbench.analysis.charts.styles import PALETTE

_AXIS = {
    "showgrid": True,
    "gridcolor": "#ECECEC",
    "zeroline": False,
    "linecolor": "black",
    "ticks": "outside",
    "automargin": True,
    "title": {"font": {"size": 14}, "standoff": 8},
}
TEMPLATE = go.layout.Template(
    layout={
        "colorway": [style.colour for style in PALETTE],
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": "black"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        # Above the axes, where it covers no data; plotly breaks the line on a narrow page.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
    }
)
