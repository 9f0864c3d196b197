"""The error of the gradient of a selected subset of the training set, for the gradient of all examples."""

import math

from torch import nn

from optbench.objective.vectors import flatten
from optbench.probes.base import Measurement, Probe, ProbeContext
from optbench.probes.measured import MeasuredModel


class CoresetProbe(Probe):
    """|g_S - g| / |g| of the gradient g of the mean loss over all training examples, at the present weights.

    g_S = 1/k sum_(j in S) w_j grad l_j is that of the subset S from which batches are drawn, with its weights of mean 1. S was
    chosen at the last selection, for the weights of then; without a selection S holds all examples, and the errors are 0.
    Nothing is augmented, and batch norm has refreshed statistics. The gradients take as much time as an epoch; the clock of
    training stands still. The errors are the quantity that CRAIG bounds (Mirzasoleiman, Bilmes & Leskovec 2020, arXiv
    1906.01827, equation 4).

    Values: gradient_error, over all trained parameters; last_layer_error, over those of the last linear layer, NaN without one;
    weight_size, k (mean w)^2 / sum w^2, the part of the subset that equal weights would need for the same variance.
    """

    at = "training"

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure both errors at the present weights."""
        selection = context.task.recipe.selection
        chosen = None if selection is None else selection.current
        if chosen is None:
            return Measurement({"gradient_error": 0.0, "last_layer_error": 0.0, "weight_size": 1.0})
        model = MeasuredModel(context.task, None)
        inputs, targets = model.examples()
        indices, weights = chosen.indices.to(inputs.device), chosen.weights.to(inputs.device)
        whole = model.objective_of(inputs, targets).gradient()
        subset = model.objective_of(inputs[indices], targets[indices], weights).gradient()
        linear = [module for module in model.model.modules() if isinstance(module, nn.Linear)]
        last = {id(each) for each in linear[-1].parameters()} if linear else set()
        places = [place for place, each in enumerate(model.parameters) if id(each) in last]

        def error(of: list[int]) -> float:
            if not of:
                return math.nan
            one, other = (flatten([vector[place] for place in of]).double() for vector in (subset, whole))
            return float((one - other).norm() / other.norm())

        size = float(weights.sum().square() / (len(weights) * weights.square().sum()))
        return Measurement(
            {
                "gradient_error": error(list(range(len(model.parameters)))),
                "last_layer_error": error(places),
                "weight_size": size,
            }
        )
