"""Quantities of a run over its steps: eigenvalues against their stability thresholds, noise scale, displacement."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.charts.numbers import floats, spans_decades

DIFFUSION = "∝ √step"


def eigenvalues_over_training(
    steps: ArrayLike,
    eigenvalues: Mapping[str, ArrayLike],
    thresholds: Mapping[str, ArrayLike] | None = None,
    *,
    matrix: str = "Hessian",
) -> Chart:
    """Eigenvalues over the steps of a run, with the values above which the optimizer is unstable on a quadratic.

    steps: (n,). eigenvalues: by label, each (n,); a value that is not finite leaves a gap. thresholds: by label (such as
    "2/η"), each (n,) where the learning rate changes, or one number.
    """
    limits = {label: np.broadcast_to(floats(limit), floats(steps).shape) for label, limit in (thresholds or {}).items()}
    return Chart(
        name="eigenvalues",
        title=f"Eigenvalues of the {matrix}",
        x_label="Step",
        y_label=f"Eigenvalue of the {matrix}",
        log_y=spans_decades(*eigenvalues.values(), *limits.values()),
        series=[
            *(Series(label=label, x=floats(steps), y=floats(values)) for label, values in eigenvalues.items()),
            *(Series(label=label, x=floats(steps), y=limit, kind="limit") for label, limit in limits.items()),
        ],
    )


def noise_scale(steps: ArrayLike, scales: Mapping[str, ArrayLike], *, batch: ArrayLike | None = None) -> Chart:
    """Gradient noise scales B = tr Σ / ‖G‖² over the steps of a run, in examples (McCandlish et al., arXiv 1812.06162).

    steps: (n,). scales: by label, each (n,); if the estimate of ‖G‖² was not positive, the scale is NaN and the line has a gap.
    batch: the batch size, one number or (n,), drawn for comparison: if the noise scale is below it, a larger batch has little
    benefit.
    """
    positions = floats(steps)
    series = [Series(label=label, x=positions, y=floats(values)) for label, values in scales.items()]
    if batch is not None:
        sizes = np.broadcast_to(floats(batch), positions.shape)
        series.append(Series(label="batch size", x=positions, y=sizes, kind="limit"))
    return Chart(
        name="noise_scale",
        title="Gradient noise scale",
        x_label="Step",
        y_label="Noise scale (examples)",
        log_y=True,
        series=series,
    )


def displacement(steps: ArrayLike, distances: Mapping[str, ArrayLike]) -> Chart:
    """Distances of the parameters from earlier ones over the steps of a run, with two logarithmic axes.

    steps: (n,). distances: by label, each (n,). Step 0 and distances of 0 cannot be shown on the axes. A grey line shows the
    slope 1/2 of diffusion, through the last point of the first series.
    """
    positions = np.where(floats(steps) > 0, floats(steps), np.nan)
    series = [Series(label=label, x=positions, y=floats(values)) for label, values in distances.items()]
    if series:
        first = np.where(series[0].values > 0, series[0].values, np.nan)
        usable = np.flatnonzero(np.isfinite(positions) & np.isfinite(first))
        if usable.size:
            diffusion = first[usable[-1]] * np.sqrt(positions / positions[usable[-1]])
            series.append(Series(label=DIFFUSION, x=positions, y=diffusion, kind="reference"))
    return Chart(
        name="displacement",
        title="Distance of the parameters",
        x_label="Step",
        y_label="Distance of the parameters",
        log_x=True,
        log_y=True,
        series=series,
    )


def layer_displacement(layer_names: ArrayLike, layer_distances: ArrayLike) -> Chart:
    """The distance of the parameters of each layer from earlier ones.

    layer_names, layer_distances: (layers,), drawn from top to bottom.
    """
    names = [str(name) for name in np.asarray(layer_names)]
    return Chart(
        name="layer_displacement",
        title="Distance of the parameters by layer",
        y_label="Distance of the parameters",
        horizontal=True,
        series=[Series(label="distance", x=names, y=floats(layer_distances), kind="bars")],
    )
