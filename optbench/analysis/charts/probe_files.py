"""The chart of one measurement: from a file NAME-STEP.npz in a run's folder of probes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optbench.analysis.charts import batch_hessian, landscape, over_training, spectrum
from optbench.analysis.charts.chart import Chart

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

# Names of the landscape probe's normalizations of directions, for an axis.
SCALED = {
    "filter": "filter-normalized",
    "layer": "layer-normalized",
    "weight": "relative to each weight",
    "dfilter": "unit norm per filter",
    "dlayer": "unit norm per layer",
    "eigenvectors": "unit eigenvectors",
}


def _number(arrays: Arrays, name: str) -> float | None:
    return float(arrays[name]) if name in arrays else None


def _text(arrays: Arrays, name: str) -> str | None:
    return str(arrays[name]) if name in arrays else None


def _spectrum(arrays: Arrays) -> Chart:
    return spectrum.spectrum(
        arrays["grid"],
        arrays["density"],
        arrays.get("density_error"),
        dimension=int(arrays["dimension"]),
        bottom=_number(arrays, "bottom"),
        top=_number(arrays, "top"),
        matrix=_text(arrays, "matrix") or "Hessian",
    )


def _extremes(arrays: Arrays) -> Chart:
    return spectrum.extremes(arrays["eigenvalues"], arrays["residuals"], matrix=_text(arrays, "matrix") or "Hessian")


def _batch_hessian(arrays: Arrays) -> Chart:
    return batch_hessian.batch_hessian(
        arrays["batch_sizes"],
        arrays["top"],
        arrays["bottom"],
        float(arrays["full_top"]),
        float(arrays["full_bottom"]),
        arrays["isotropic"],
        arrays["directional"],
        arrays["fitted"],
        b_star_isotropic=_number(arrays, "b_star_isotropic"),
        b_star_directional=_number(arrays, "b_star_directional"),
        b_star_fitted=_number(arrays, "b_star_fitted"),
    )


def _landscape(arrays: Arrays) -> Chart:
    normalization = _text(arrays, "normalization")
    if normalization is not None:
        normalization = SCALED.get(normalization, normalization)
    if "loss_surface" in arrays:
        return landscape.surface(arrays["x"], arrays["y"], arrays["loss_surface"], normalization=normalization)
    return landscape.lines(arrays["positions"], arrays["loss"], arrays.get("accuracy"), normalization=normalization)


def _interpolation(arrays: Arrays) -> Chart:
    return landscape.interpolation(
        arrays["positions"],
        arrays["train_loss"],
        arrays["test_loss"],
        arrays.get("train_accuracy"),
        arrays.get("test_accuracy"),
    )


def _displacement(arrays: Arrays) -> Chart:
    return over_training.layer_displacement(arrays["layer_names"], arrays["layer_distances"])


DRAWN: dict[str, Callable[[Arrays], Chart]] = {
    "batch_hessian": _batch_hessian,
    "displacement": _displacement,
    "extremes": _extremes,
    "interpolation": _interpolation,
    "landscape": _landscape,
    "spectrum": _spectrum,
}


def chart_for(path: Path) -> Chart | None:
    """The chart of the measurement in ``path``, a file PROBE-STEP.npz; None for a probe that has no chart.

    A landscape with a surface is drawn as the surface, one without as lines. Optional texts in the file: ``matrix`` (the matrix
    of the eigenvalues) and ``normalization`` (the scaling of directions). Raises KeyError with the name of a missing array,
    and OSError or ValueError for a file that cannot be read. Pickled objects are refused: reading a file runs no code.
    """
    draw = DRAWN.get(path.stem.rpartition("-")[0])
    if draw is None:
        return None
    with np.load(path, allow_pickle=False) as archive:
        return draw({name: archive[name] for name in archive.files})
