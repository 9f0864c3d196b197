"""The eigenvalues of one matrix: the density of its spectrum, and its extremes."""

import numpy as np
from numpy.typing import ArrayLike

from optbench.analysis.charts.chart import Chart, Reference, Series, Values
from optbench.analysis.charts.numbers import Floats, floats

_PANEL = "Density"


def density_floor(grid: ArrayLike, density: ArrayLike, dimension: int | None) -> float:
    """The lowest density that is drawn.

    A tenth of one of P eigenvalues spread over the whole grid: lower densities are the tail of the smoothing kernel.
    Without the dimension P: 1e-7 of the highest density.
    """
    positions, heights = floats(grid), floats(density)
    finite = heights[np.isfinite(heights)]
    peak = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    span = float(np.ptp(positions)) if positions.size else 0.0
    floor = 0.1 / (dimension * span) if dimension and span > 0 else 1e-7 * peak
    return min(floor, 0.1 * peak)


def density_band(density: ArrayLike, error: ArrayLike | None, floor: float) -> tuple[Floats, Floats] | None:
    """density ± error, both at least ``floor``, as a logarithmic axis needs. None without an error."""
    if error is None or not np.isfinite(floats(error)).any():
        return None
    middle, half = floats(density), floats(error)
    return np.maximum(middle - half, floor), np.maximum(middle + half, floor)


def spectrum(
    grid: ArrayLike,
    density: ArrayLike,
    density_error: ArrayLike | None = None,
    *,
    dimension: int | None = None,
    bottom: float | None = None,
    top: float | None = None,
    matrix: str = "Hessian",
) -> Chart:
    """The smoothed density of a spectrum on a logarithmic axis, with its error over the vectors of the estimate.

    grid, density, density_error: (G,); the density integrates to 1 over the grid, so that its unit is the inverse of that of
    an eigenvalue. Densities below ``density_floor`` lie outside the axis. ``bottom`` and ``top`` mark the extreme eigenvalues,
    which are otherwise invisible: one eigenvalue in a million has a millionth of the density.
    """
    floor = density_floor(grid, density, dimension)
    band = density_band(density, density_error, floor)
    low, high = band if band is not None else (None, None)
    label = "mean, ± 1 standard error" if band is not None else "density"
    series = [
        Series(
            label=label, x=floats(grid), y=floats(density), low=low, high=high, band=True, kind="curve", panel=_PANEL
        )
    ]
    extremes = [value for value in (bottom, top) if value is not None]
    if extremes:
        y = [floor] * len(extremes)
        series.append(Series(label="smallest, largest", x=extremes, y=y, kind="points", panel=_PANEL))
    heights = np.where(np.isfinite(floats(density)), floats(density), np.nan)
    ends = (floor, 4 * float(np.nanmax(heights, initial=10 * floor)))
    return Chart(
        name="spectrum",
        title=f"Density of the spectrum of the {matrix}",
        x_label=f"Eigenvalue of the {matrix}",
        series=series,
        values={_PANEL: Values("Density (1 / eigenvalue)", log=True, range=ends)},
    )


def extremes(eigenvalues: ArrayLike, residuals: ArrayLike, *, matrix: str = "Hessian") -> Chart:
    """Eigenvalues by descending value, with their residuals as error bars.

    eigenvalues, residuals: (n,). An eigenvalue of the matrix lies within the residual ‖Av - λv‖ of each.
    """
    order = np.argsort(-floats(eigenvalues))
    values, errors = floats(eigenvalues)[order], floats(residuals)[order]
    ranks = np.arange(1, values.size + 1)
    low, high = values - errors, values + errors
    return Chart(
        name="extremes",
        title=f"Extreme eigenvalues of the {matrix}",
        x_label="Rank among the eigenvalues computed",
        y_label=f"Eigenvalue of the {matrix}",
        ticks_at_x=True,
        series=[Series(label="eigenvalue", x=ranks, y=values, kind="points", low=low, high=high)],
        references=[Reference(0.0)],
    )
