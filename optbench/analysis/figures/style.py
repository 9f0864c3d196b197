"""One look for every figure: sizes of a paper's column and page, a palette, line styles, how a figure is saved.

The first four colours are Paul Tol's "high contrast" scheme, made for colour-blind readers and for print in grey
(personal.sron.nl/~pault); the others are from his "bright" scheme. A series is told apart by its dashes and its marker too,
never by colour alone.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Arguments = ParamSpec("Arguments")

# Inches: one column of a two-column paper, and the text of a one-column paper.
COLUMN = 3.35
PAGE = 6.75
REFERENCE = "0.45"
# Paper, under hatches: in grey it could be mistaken for the light end of the colours below.
UNKNOWN = "1.0"
# From dark to light at an even pace, so that it reads the same in grey and to colour-blind readers.
COLOUR_MAP = "cividis"


@dataclass(frozen=True)
class Series:
    """How one series is drawn: its colour, its dashes (lengths on and off, in points; none is a full line), its marker.

    ``symbol`` is plotly's name for the marker.
    """

    colour: str
    dashes: tuple[float, ...]
    marker: str
    symbol: str

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a matplotlib line without markers."""
        return {"color": self.colour, "linestyle": (0, self.dashes) if self.dashes else "solid"}

    @property
    def marked(self) -> dict[str, Any]:
        """Arguments of a matplotlib line with markers."""
        return {**self.line, "marker": self.marker}

    @property
    def plotly_dash(self) -> str:
        """The dashes as plotly writes them."""
        return ",".join(f"{length:g}px" for length in self.dashes) or "solid"


SERIES = (
    Series("#004488", (), "o", "circle"),
    Series("#BB5566", (5, 2), "s", "square"),
    Series("#DDAA33", (6, 2, 1.5, 2), "^", "triangle-up"),
    Series("#000000", (1.5, 1.5), "D", "diamond"),
    Series("#228833", (9, 2), "v", "triangle-down"),
    Series("#AA3377", (6, 1.5, 1.5, 1.5, 1.5, 1.5), "P", "cross"),
    Series("#66CCEE", (3, 1), "X", "x"),
)

PAPER: dict[str, Any] = {
    # Shipped with matplotlib: the same figure everywhere.
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "lines.scale_dashes": False,
    "hatch.linewidth": 0.4,
    "savefig.dpi": 300,
    # Type 42 (TrueType) fonts are embedded whole; journals refuse the default, type 3.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


def in_paper_style(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """``draw`` under the settings of ``PAPER``, whatever the settings of the process."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with rc_context(PAPER):
            return draw(*args, **kwargs)

    return drawn


def panels(
    rows: int = 1, width: float = COLUMN, height: float = 2.3, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` panels above each other that share the x axis. Sizes in inches."""
    # Not by pyplot, which keeps every figure alive and asks for a screen where there is one.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios)
    return figure, list(axes[:, 0])


def legend_above(figure: Figure, axes: Axes, most_columns: int = 4) -> None:
    """The legend of ``axes`` above everything, where it covers no data, in as many columns as the figure is wide."""
    handles, labels = axes.get_legend_handles_labels()
    # matplotlib lists points with error bars last; what was measured comes first.
    order = sorted(range(len(handles)), key=lambda index: not isinstance(handles[index], ErrorbarContainer))
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    for columns in range(min(most_columns, len(handles)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def sparse_marks(count: int, most: int = 12) -> int:
    """Every how many of ``count`` points have a marker, for at most ``most`` markers on a line."""
    return max(1, math.ceil(count / most))


def floats(values: ArrayLike) -> Floats:
    """``values`` as an array of float64."""
    return np.asarray(values, dtype=np.float64)


def spans_decades(*values: ArrayLike, ratio: float = 30.0) -> bool:
    """Whether the finite values are all positive and the greatest is more than ``ratio`` times the smallest."""
    together = np.concatenate([floats(value).ravel() for value in values])
    together = together[np.isfinite(together)]
    return bool(together.size and together.min() > 0 and together.max() > ratio * together.min())


def log_scale_where_it_helps(axes: Axes, *values: ArrayLike) -> None:
    """Make the y axis logarithmic if ``values`` span more than a decade and a half; plain numbers otherwise."""
    if spans_decades(*values):
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))


def percent_axis(axes: Axes) -> None:
    """Label fractions on the y axis in percent."""
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylabel("Accuracy (%)")


def batch_axis(axes: Axes, batch_sizes: ArrayLike, most: int = 7) -> None:
    """A logarithmic x axis with ticks at the batch sizes, of which at most ``most`` are labelled."""
    sizes = np.unique(floats(batch_sizes))
    axes.set_xscale("log", base=2)
    every = max(1, math.ceil(sizes.size / most))
    axes.xaxis.set_major_locator(FixedLocator(sizes[::every].tolist()))
    axes.xaxis.set_minor_locator(FixedLocator(sizes.tolist()) if every > 1 else NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Batch size (examples)")


def position_axis(axes: Axes, label: str) -> None:
    """A linear x axis of positions in the space of parameters."""
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2.5, 5, 10]))
    axes.set_xlabel(label)


def step_axis(axes: Axes) -> None:
    """A linear x axis of training steps."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("Step")


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``figure`` as ``path`` with the endings .png (300 dots an inch) and .pdf, and return the two paths.

    The files depend on the figure alone: no date is written into them. The size is that of the figure, uncropped, so that a
    figure of a column's width fills a column.
    """
    stem = path.with_suffix("") if path.suffix in (".png", ".pdf") else path
    written = [stem.with_name(stem.name + ending) for ending in (".png", ".pdf")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(PAPER):
        figure.savefig(written[0], metadata={"Software": None})
        figure.savefig(written[1], metadata={"CreationDate": None})
    return written
