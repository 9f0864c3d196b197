"""The density of the spectrum of a curvature matrix over the subset, by stochastic Lanczos quadrature."""

from typing import Any

import numpy as np

from optbench.curvature.density import lanczos_quadrature
from optbench.curvature.operators import operator
from optbench.probes.base import MATRIX_NAMES, Measurement, ProbeContext, SubsetProbe, numbers


class Spectrum(SubsetProbe):
    """Ritz values and weights of ``probes`` random vectors with ``steps`` Lanczos steps each, and the resulting density.

    matrix: hessian, gauss_newton, fisher or empirical_fisher. points, kernel_factor: grid and kernel of the density, see
    `optbench.curvature.density`. Values: top and bottom, the outermost Ritz values; mean, tr A / P, and deviation, the
    standard deviation of the eigenvalues, both of the quadrature. Arrays: values (k, m), weights (k, m), grid, density,
    density_error (points,), dimension, top, bottom, matrix.
    """

    def __init__(
        self,
        matrix: str = "hessian",
        steps: int = 60,
        probes: int = 4,
        points: int = 2000,
        kernel_factor: float = 1e-5,
        **subset: Any,
    ) -> None:
        super().__init__(**subset)
        self.matrix, self.steps, self.probes = matrix, steps, probes
        self.points, self.kernel_factor = points, kernel_factor

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the density."""
        matrix = operator(self.measured(context).objective(), self.matrix)
        found = lanczos_quadrature(matrix, context.generator("spectrum"), self.probes, self.steps)
        density = found.density(self.points, self.kernel_factor)
        _, mean, square = found.moments(2)[0].tolist()
        values = {
            "top": found.largest,
            "bottom": found.smallest,
            "mean": mean,
            "deviation": max(square - mean**2, 0.0) ** 0.5,
        }
        arrays = {
            "values": numbers(found.values),
            "weights": numbers(found.weights),
            "grid": numbers(density.grid),
            "density": numbers(density.density),
            "density_error": numbers(density.error),
            "dimension": np.array(found.dimension),
            "top": np.array(found.largest),
            "bottom": np.array(found.smallest),
            "matrix": np.array(MATRIX_NAMES[self.matrix]),
        }
        return Measurement(values, arrays)
