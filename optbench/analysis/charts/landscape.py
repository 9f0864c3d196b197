"""The loss along lines and on planes in the space of parameters."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from optbench.analysis.charts.chart import Chart, Reference, Series, Surface, Values
from optbench.analysis.charts.numbers import floats, spans_decades


def position_label(direction: str, normalization: str | None) -> str:
    """The name of an axis of positions along ``direction``, with the scaling of the direction as its unit."""
    return direction + (f" ({normalization})" if normalization else "")


def lines(
    positions: ArrayLike,
    loss: ArrayLike,
    accuracy: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    normalization: str | None = None,
) -> Chart:
    """The loss along lines through one point, and below it the accuracy, if given.

    positions: (n,), 0 at the point. loss, accuracy: (directions, n) or (n,); the accuracy as a fraction. Values that are not
    finite leave gaps. normalization: the scaling of directions, such as "filter-normalized".
    """
    losses = np.atleast_2d(floats(loss))
    labels = list(names or [f"direction {number}" for number in range(1, len(losses) + 1)])
    curves = {"Loss": dict(zip(labels, losses, strict=False))}
    if accuracy is not None:
        curves["Accuracy"] = dict(zip(labels, np.atleast_2d(floats(accuracy)), strict=False))
    return _over_positions(
        "lines",
        "The loss along lines",
        positions,
        curves,
        position_label("Position along the direction", normalization),
        points=[0],
    )


def interpolation(
    positions: ArrayLike,
    train_loss: ArrayLike,
    test_loss: ArrayLike,
    train_accuracy: ArrayLike | None = None,
    test_accuracy: ArrayLike | None = None,
    *,
    ends: tuple[str, str] | None = None,
) -> Chart:
    """Loss, and accuracy below it, on the straight line between two points of the space of parameters.

    All (n,); the accuracies as fractions. positions: 0 at the first point, 1 at the second. ends: the names of the two points.
    """
    curves = {"Loss": {"train": train_loss, "test": test_loss}}
    if train_accuracy is not None and test_accuracy is not None:
        curves["Accuracy"] = {"train": train_accuracy, "test": test_accuracy}
    first, second = ends or ("first point", "second point")
    label = f"Position (0: {first}, 1: {second})"
    return _over_positions("interpolation", "The loss between two points", positions, curves, label, points=[0, 1])


def surface(
    x: ArrayLike,
    y: ArrayLike,
    loss: ArrayLike,
    *,
    names: tuple[str, str] = ("Direction 1", "Direction 2"),
    normalization: str | None = None,
    name: str = "surface",
    title: str = "The loss on a plane",
    caption: str = "",
    scale: tuple[float, float] | None = None,
) -> Chart:
    """The loss on a plane through one point, marked with a cross, as contours.

    x: (nx,). y: (ny,). loss: (ny, nx); hatched where it is not finite. normalization: the scaling of directions. name, title,
    caption: of the chart. scale: the lowest and the highest loss of the colours, for planes that are compared (`scale_of`).
    """
    return Chart(
        name=name,
        title=title,
        caption=caption,
        x_label=position_label(names[0], normalization),
        y_label=position_label(names[1], normalization),
        surface=Surface(floats(x), floats(y), floats(loss), range=scale),
    )


def scale_of(losses: Sequence[ArrayLike]) -> tuple[float, float] | None:
    """The lowest and the highest finite loss of several planes, which are then drawn in one scale; None without any."""
    values = np.concatenate([np.ravel(floats(loss)) for loss in losses]) if losses else np.array([])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else None


def _over_positions(
    name: str,
    title: str,
    positions: ArrayLike,
    curves: dict[str, dict[str, ArrayLike]],
    x_label: str,
    points: Sequence[float],
) -> Chart:
    """A loss, and below it an accuracy if given, over positions; straight lines mark ``points``."""
    series = [
        Series(label=label, x=floats(positions), y=floats(values), panel=panel, kind="curve")
        for panel, by_label in curves.items()
        for label, values in by_label.items()
    ]
    values = {
        "Loss": Values("Loss", log=spans_decades(*curves["Loss"].values())),
        "Accuracy": Values("Accuracy", percent=True),
    }
    return Chart(
        name=name,
        title=title,
        x_label=x_label,
        columns=1,
        series=series,
        references=[Reference(point, axis="x") for point in points],
        values={panel: values[panel] for panel in curves},
    )
