"""The largest and the smallest eigenvalues of a curvature matrix over the subset, with their residuals."""

from typing import Any

import numpy as np

from optbench.curvature.extremes import extreme_eigenpairs
from optbench.curvature.operators import operator
from optbench.probes.base import MATRIX_NAMES, Measurement, ProbeContext, SubsetProbe, numbers


class Extremes(SubsetProbe):
    """``largest`` and ``smallest`` eigenvalues (as signed numbers) by one Lanczos run of at most ``steps`` products.

    matrix: hessian, gauss_newton, fisher or empirical_fisher. It ends early if every residual is at most ``tolerance`` times
    its |eigenvalue|. Values: top, bottom and their residuals. Arrays: eigenvalues (n,), ascending, and residuals.
    """

    def __init__(
        self,
        matrix: str = "hessian",
        largest: int = 5,
        smallest: int = 5,
        steps: int = 80,
        tolerance: float = 1e-4,
        **subset: Any,
    ) -> None:
        super().__init__(**subset)
        self.matrix, self.largest, self.smallest = matrix, largest, smallest
        self.steps, self.tolerance = steps, tolerance

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure both ends of the spectrum."""
        matrix = operator(self.measured(context).objective(), self.matrix)
        pairs = extreme_eigenpairs(
            matrix, context.generator("extremes"), self.largest, self.smallest, self.steps, self.tolerance
        )
        values, residuals = numbers(pairs.values), numbers(pairs.residuals)
        return Measurement(
            {"top": values[-1], "bottom": values[0], "top_residual": residuals[-1], "bottom_residual": residuals[0]},
            {"eigenvalues": values, "residuals": residuals, "matrix": np.array(MATRIX_NAMES[self.matrix])},
        )
