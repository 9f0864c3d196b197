"""The trace of a curvature matrix over the subset: the sum of its eigenvalues, from random vectors."""

from typing import Any

from optbench.curvature.operators import displaced_loss, operator
from optbench.curvature.traces import (
    Estimate,
    StoppingRule,
    hutch_plus_plus_trace,
    projected_trace,
    trace_and_frobenius_norm,
)
from optbench.errors import UserError
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe


class Trace(SubsetProbe):
    """tr A with its standard error, by one of three estimators of `optbench.curvature.traces`.

    method: "hutchinson", which also gives the Frobenius norm; "hutch++", with a sketch of ``sketch`` columns; "projections",
    only from values of the loss, for the Hessian and always in float64. matrix: hessian, gauss_newton, fisher or
    empirical_fisher. Sampling stops when the standard error is at most ``tolerance`` times |tr A|, and after ``most`` samples.
    Values: value, standard_error, mean_curvature (tr A / P), evaluations, and with "hutchinson" frobenius and
    frobenius_error.
    """

    def __init__(
        self,
        matrix: str = "hessian",
        method: str = "hutchinson",
        tolerance: float = 0.05,
        most: int = 100,
        sketch: int = 20,
        **subset: Any,
    ) -> None:
        if method == "projections":
            if matrix != "hessian":
                raise UserError(f"probe.trace.method=projections: measures the Hessian, not matrix={matrix}")
            subset = {**subset, "float64": True}
        super().__init__(**subset)
        self.matrix, self.method, self.sketch = matrix, method, sketch
        self.rule = StoppingRule(relative=tolerance, least=min(10, most), most=most)

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the trace."""
        measured = self.measured(context)
        objective, generator = measured.objective(), context.generator("trace")
        more: dict[str, float] = {}
        found: Estimate
        if self.method == "projections":
            found = projected_trace(
                displaced_loss(objective), measured.dimension, generator, self.rule, device=context.task.device
            )
        elif self.method == "hutch++":
            found = hutch_plus_plus_trace(operator(objective, self.matrix), generator, self.sketch, self.rule)
        else:
            found, frobenius = trace_and_frobenius_norm(operator(objective, self.matrix), generator, self.rule)
            more = {"frobenius": frobenius.value, "frobenius_error": frobenius.standard_error}
        values = {
            "value": found.value,
            "standard_error": found.standard_error,
            "mean_curvature": found.per_dimension,
            "evaluations": found.evaluations,
        }
        return Measurement(values | more)
