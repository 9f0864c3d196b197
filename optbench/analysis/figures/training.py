"""Quantities of a run over its steps: eigenvalues against their stability thresholds, noise scale, displacement."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from optbench.analysis.figures.style import (
    REFERENCE,
    SERIES,
    floats,
    in_paper_style,
    legend_above,
    log_scale_where_it_helps,
    panels,
    sparse_marks,
    step_axis,
)


@in_paper_style
def eigenvalues_over_training(
    steps: ArrayLike,
    eigenvalues: Mapping[str, ArrayLike],
    thresholds: Mapping[str, ArrayLike] | None = None,
    *,
    matrix: str = "Hessian",
) -> Figure:
    """Eigenvalues over the steps of a run, with the values above which the optimizer is unstable on a quadratic.

    steps: (n,). eigenvalues: by label, each (n,); a value that is not finite leaves a gap. thresholds: by label (such as
    "2/η"), each (n,) where the learning rate changes, or one number.
    """
    figure, (axes,) = panels(height=2.4)
    positions = floats(steps)
    for (label, values), series in zip(eigenvalues.items(), SERIES, strict=False):
        axes.plot(positions, floats(values), **series.marked, markevery=sparse_marks(positions.size), label=label)
    limits = {label: np.broadcast_to(floats(limit), positions.shape) for label, limit in (thresholds or {}).items()}
    for (label, limit), dashes in zip(limits.items(), ((4, 2), (1, 1.5), (6, 2, 1, 2), (9, 3)), strict=False):
        axes.plot(positions, limit, color=REFERENCE, linestyle=(0, dashes), drawstyle="steps-post", label=label)
    log_scale_where_it_helps(axes, *eigenvalues.values(), *limits.values())
    if (
        axes.get_yscale() == "linear"
        and min((np.nanmin(floats(v), initial=0.0) for v in eigenvalues.values()), default=0) < 0
    ):
        axes.axhline(0, color=REFERENCE, linewidth=0.6, zorder=0)
    step_axis(axes)
    axes.set_ylabel(f"Eigenvalue of the {matrix}")
    legend_above(figure, axes)
    return figure


@in_paper_style
def noise_scale(steps: ArrayLike, scales: Mapping[str, ArrayLike], *, batch: ArrayLike | None = None) -> Figure:
    """Gradient noise scales B = tr Σ / ‖G‖² over the steps of a run, in examples (McCandlish et al., arXiv 1812.06162).

    steps: (n,). scales: by label, each (n,); where the estimate of ‖G‖² was not positive the scale is NaN, and the line has a
    gap. batch: the batch size, one number or (n,), drawn for comparison: below it more examples a step pay off little.
    """
    figure, (axes,) = panels(height=2.2)
    positions = floats(steps)
    for (label, values), series in zip(scales.items(), SERIES, strict=False):
        positive = np.where(floats(values) > 0, floats(values), np.nan)
        axes.plot(positions, positive, **series.marked, markevery=sparse_marks(positions.size), label=label)
    if batch is not None:
        axes.plot(
            positions,
            np.broadcast_to(floats(batch), positions.shape),
            color=REFERENCE,
            linestyle=(0, (4, 2)),
            drawstyle="steps-post",
            label="batch size",
        )
    axes.set_yscale("log")
    step_axis(axes)
    axes.set_ylabel("Noise scale (examples)")
    legend_above(figure, axes)
    return figure


@in_paper_style
def displacement(steps: ArrayLike, distances: Mapping[str, ArrayLike]) -> Figure:
    """Distances of the parameters from where they were, over the steps of a run, both axes logarithmic.

    steps: (n,). distances: by label, each (n,). Step 0 and distances of 0 have no place on the axes. A thin line shows the slope
    1/2 of diffusion, through the last point of the first series.
    """
    figure, (axes,) = panels(height=2.5)
    positions = np.where(floats(steps) > 0, floats(steps), np.nan)
    for number, (label, values) in enumerate(distances.items()):
        positive = np.where(floats(values) > 0, floats(values), np.nan)
        series = SERIES[number % len(SERIES)]
        axes.plot(positions, positive, **series.marked, markevery=sparse_marks(positions.size), label=label)
        usable = np.flatnonzero(np.isfinite(positions) & np.isfinite(positive))
        if number == 0 and usable.size:
            end = usable[-1]
            diffusion = positive[end] * np.sqrt(positions / positions[end])
            axes.plot(
                positions, diffusion, color=REFERENCE, linewidth=0.8, zorder=1, label=r"$\propto\sqrt{\mathrm{step}}$"
            )
    axes.set(xscale="log", yscale="log", xlabel="Step", ylabel="Distance of the parameters")
    legend_above(figure, axes)
    return figure


@in_paper_style
def layer_displacement(layer_names: ArrayLike, layer_distances: ArrayLike) -> Figure:
    """How far the parameters of each layer are from where they were.

    layer_names, layer_distances: (layers,), drawn from top to bottom.
    """
    names, distances = [str(name) for name in np.asarray(layer_names)], floats(layer_distances)
    figure, (axes,) = panels(height=max(1.2, 0.5 + 0.16 * len(names)))
    rows = np.arange(len(names))
    axes.barh(rows, distances, height=0.65, color=SERIES[0].colour)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlabel("Distance of the parameters")
    return figure
