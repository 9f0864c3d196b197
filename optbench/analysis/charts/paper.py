"""Figures for papers: the sizes of a column and a page, the settings of matplotlib, and saving."""

import functools
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")

# Inches: the widths of one column of a two-column paper, and of the text of a one-column paper.
COLUMN = 3.35
PAGE = 6.75
REFERENCE = "0.45"
# White under hatches: grey could be mistaken for the light end of the colours below.
UNKNOWN = "1.0"
# Its lightness grows evenly, so that it also works in grey and for colour-blind readers.
COLOUR_MAP = "cividis"


PAPER: dict[str, Any] = {
    # A font shipped with matplotlib, so that figures are equal on all machines.
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
    # Type 42 (TrueType) fonts are embedded completely; journals refuse the default, type 3.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


def in_paper_style(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """``draw`` with the settings of ``PAPER``, independently of the settings of the process."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with rc_context(PAPER):
            return draw(*args, **kwargs)

    return drawn


def legend_above(figure: Figure, axes: Axes, most_columns: int = 4) -> None:
    """The legend of ``axes`` above the figure, where it covers no data, in as many columns as fit the width."""
    handles, labels = axes.get_legend_handles_labels()
    # matplotlib lists points with error bars last; here the measurements come first.
    order = sorted(range(len(handles)), key=lambda index: not isinstance(handles[index], ErrorbarContainer))
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    for columns in range(min(most_columns, len(handles)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def sparse_marks(count: int, most: int = 12) -> int:
    """The step between points with a marker, for at most about ``most`` markers on a line of ``count`` points."""
    return max(1, math.ceil(count / most))


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``figure`` as ``path`` with the endings .png (300 dots an inch) and .pdf, and return the two paths.

    The files depend only on the figure: they contain no date. The size is that of the figure, not cropped, so that a figure of
    a column's width fills a column.
    """
    stem = path.with_suffix("") if path.suffix in (".png", ".pdf") else path
    written = [stem.with_name(stem.name + ending) for ending in (".png", ".pdf")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    from PIL import Image

    content = io.BytesIO()
    with rc_context(PAPER):
        figure.savefig(content, format="png", metadata={"Software": None})
        figure.savefig(written[1], metadata={"CreationDate": None})
    # 256 colours are enough for lines and contours, and take a third of the space.
    picture = (
        Image.open(content).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    picture.save(written[0], optimize=True, dpi=(PAPER["savefig.dpi"],) * 2)
    return written
