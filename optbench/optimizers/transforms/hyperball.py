"""Hyperball: matrices on the sphere of their initial norm, with steps of a fixed angle."""

import torch
from torch import Tensor

from optbench.optimizers.transforms.base import Transform, without_decay


class Hyperball(Transform):
    """With a step d of an optimizer, without its decoupled weight decay, for each tensor of two or more dimensions

        θ' = θ + lr R d/‖d‖,    θ ← R θ'/‖θ'‖,    R = ‖θ₀‖

    Tensors of fewer dimensions, and those that are zero at the beginning, take the step as it is.

    Source: HeavyBall's code (https://github.com/HomebrewML/HeavyBall), which names "Fantastic pretraining optimizers and where to
    find them 2.1"; the norms are those of one tensor.
    """

    def begin(self, parameters: list[Tensor]) -> None:
        """Remember R of every tensor that is new."""
        for parameter in parameters:
            if parameter.ndim > 1 and parameter not in self.state:
                self.state[parameter]["radius"] = parameter.detach().norm()

    def update(self, parameter: Tensor, before: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        """Give the step its length, and the weights their norm."""
        if parameter.ndim < 2 or lr == 0:
            return
        radius: Tensor = self.state[parameter]["radius"]
        step, _ = without_decay(parameter, before, lr, decay)
        tiny = torch.finfo(step.dtype).tiny
        moved = before + step * (lr * radius / step.norm().clamp(min=tiny))
        placed = moved * (radius / moved.norm().clamp(min=tiny))
        parameter.copy_(torch.where(radius > 0, placed, parameter))
