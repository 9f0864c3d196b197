"""The eigenvalues of one matrix: the density of its spectrum, and its extremes."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from optbench.analysis.figures.style import (
    REFERENCE,
    SERIES,
    Floats,
    floats,
    in_paper_style,
    legend_above,
    panels,
)


def density_floor(grid: ArrayLike, density: ArrayLike, dimension: int | None) -> float:
    """The lowest density that is drawn.

    A tenth of one of P eigenvalues spread over the whole grid: whatever lies below it is the tail of the smoothing kernel.
    Without the dimension P: 1e-7 of the highest density.
    """
    positions, heights = floats(grid), floats(density)
    finite = heights[np.isfinite(heights)]
    peak = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    span = float(np.ptp(positions)) if positions.size else 0.0
    floor = 0.1 / (dimension * span) if dimension and span > 0 else 1e-7 * peak
    return min(floor, 0.1 * peak)


def density_band(density: ArrayLike, error: ArrayLike | None, floor: float) -> tuple[Floats, Floats] | None:
    """density ± error, neither below ``floor``, as a logarithmic axis needs it. None without an error."""
    if error is None or not np.isfinite(floats(error)).any():
        return None
    middle, half = floats(density), floats(error)
    return np.maximum(middle - half, floor), np.maximum(middle + half, floor)


@in_paper_style
def spectrum(
    grid: ArrayLike,
    density: ArrayLike,
    density_error: ArrayLike | None = None,
    *,
    dimension: int | None = None,
    bottom: float | None = None,
    top: float | None = None,
    matrix: str = "Hessian",
) -> Figure:
    """The smoothed density of a spectrum on a logarithmic axis, with its error over probe vectors.

    grid, density, density_error: (G,); the density integrates to 1 over the grid, so its unit is one over that of an
    eigenvalue. Densities below ``density_floor`` lie outside the axis. ``bottom`` and ``top`` mark the extreme eigenvalues,
    too light to be seen otherwise: one eigenvalue in a million has a millionth of the density.
    """
    figure, (axes,) = panels(height=2.2)
    floor = density_floor(grid, density, dimension)
    band = density_band(density, density_error, floor)
    if band is not None:
        axes.fill_between(
            floats(grid), *band, color=SERIES[0].colour, alpha=0.3, linewidth=0, label="± 1 standard error"
        )
    axes.plot(floats(grid), floats(density), **SERIES[0].line, label="mean over probes" if band else "density")
    extremes = [value for value in (bottom, top) if value is not None]
    if extremes:
        axes.plot(
            extremes,
            [0.0] * len(extremes),
            linestyle="none",
            marker="^",
            markersize=5,
            color=SERIES[1].colour,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=5,
            label="smallest, largest",
        )
    axes.set_yscale("log", nonpositive="mask")
    highest = np.nanmax(np.where(np.isfinite(floats(density)), floats(density), np.nan), initial=10 * floor)
    axes.set_ylim(floor, 4 * highest)
    axes.set_xlabel(f"Eigenvalue of the {matrix}")
    axes.set_ylabel("Density (1 / eigenvalue)")
    legend_above(figure, axes)
    return figure


@in_paper_style
def extremes(eigenvalues: ArrayLike, residuals: ArrayLike, *, matrix: str = "Hessian") -> Figure:
    """Eigenvalues by descending value, with their residuals as error bars.

    eigenvalues, residuals: (n,). Some eigenvalue of the matrix lies within a residual ‖Av - λv‖ of each.
    """
    figure, (axes,) = panels(height=2.0)
    order = np.argsort(-floats(eigenvalues))
    values, errors = floats(eigenvalues)[order], floats(residuals)[order]
    axes.axhline(0, color=REFERENCE, linewidth=0.6)
    axes.errorbar(
        np.arange(1, values.size + 1),
        values,
        yerr=errors,
        linestyle="none",
        marker="o",
        color=SERIES[0].colour,
        elinewidth=0.8,
        capsize=2,
    )
    axes.set_xlabel("Rank among the eigenvalues computed")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"Eigenvalue of the {matrix}")
    return figure
