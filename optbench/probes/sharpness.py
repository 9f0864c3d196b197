"""The increase of the loss nearby: in SAM's ball, in ASAM's ball with the scale of the weights, and in Keskar's box."""

from typing import Any

import torch

from optbench.curvature.sharpness import ball_sharpness, box_sharpness, loss_and_gradient, relative_scale
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe


class SharpnessProbe(SubsetProbe):
    """The measures of `optbench.curvature.sharpness` over the subset; only ``adaptive`` is invariant under rescaling.

    loss: at the weights. sam: the increase in the ball of ``radius``; adaptive: that in the ball of
    ``adaptive_radius`` whose axes are the |weights|; both by ``steps`` steps of projected ascent. keskar: the percentage
    in the box of ``epsilon``, by ``iterations`` of L-BFGS-B in all coordinates, or in ``box_dimensions`` random ones.
    """

    def __init__(
        self,
        radius: float = 0.05,
        adaptive_radius: float = 0.5,
        steps: int = 1,
        epsilon: float = 1e-3,
        iterations: int = 10,
        box_dimensions: int | None = None,
        **subset: Any,
    ) -> None:
        super().__init__(**subset)
        self.radius, self.adaptive_radius, self.steps = radius, adaptive_radius, steps
        self.epsilon, self.iterations, self.box_dimensions = epsilon, iterations, box_dimensions

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the three increases."""
        measured = self.measured(context)
        parameters: list[torch.Tensor] = list(measured.parameters)
        evaluate = loss_and_gradient(measured.objective())
        sam = ball_sharpness(evaluate, parameters, self.radius, self.steps, None, context.generator("sharpness"))
        adaptive = ball_sharpness(
            evaluate,
            parameters,
            self.adaptive_radius,
            self.steps,
            relative_scale(parameters),
            context.generator("sharpness"),
        )
        box = box_sharpness(
            evaluate, parameters, self.epsilon, self.box_dimensions, self.iterations, context.generator("box")
        )
        return Measurement(
            {"loss": sam.loss, "sam": sam.increase, "adaptive": adaptive.increase, "keskar": box.percentage}
        )
