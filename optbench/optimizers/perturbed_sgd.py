"""Gradient descent that leaves saddle points by a random step wherever its gradient is small."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench import randomness
from optbench.objective.vectors import flatten, unflatten
from optbench.optimizers.base import norms, require, require_common
from optbench.optimizers.groups import parameters_given, trainable


class PerturbedSGD(torch.optim.Optimizer):
    """θ ← θ - lr g, or θ ← θ + ξ if ‖g‖ <= threshold and no ξ came within the last ``interval`` steps.

    ξ is uniform in the ball of the radius r. Along a direction of negative curvature -a its part, about r / √d for d weights,
    then grows by the factor 1 + lr a a step. The norm is that of all gradients together, clipped ones if they are.

    radius: r. A step that adds ξ does not follow the gradient, so that every step takes one gradient; in the source the same step
    goes on with a second gradient, at θ + ξ. The source also ends if the loss has not fallen enough some steps after a ξ; here
    the budget ends a run. On a mini-batch g includes the noise of its examples. seed: the ξ of step k is a function of
    (seed, k, position of the weight). ``diagnostics`` holds gradient_norm and perturbed (1 if this step has added ξ).

    Source: Jin, Ge, Netrapalli, Kakade & Jordan 2017, "How to escape saddle points efficiently" (arXiv 1703.00887), algorithm 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        threshold: float = 1e-3,
        interval: int = 50,
        radius: float = 1e-2,
        seed: int = 0,
    ) -> None:
        require_common(lr, 0.0)
        require(threshold >= 0, "threshold", threshold, ">= 0")
        require(interval >= 0, "interval", interval, ">= 0")
        require(radius >= 0, "radius", radius, ">= 0")
        defaults = {
            "lr": lr,
            "threshold": threshold,
            "interval": interval,
            "radius": radius,
            "step": 0,
            "last_perturbation": None,
        }
        super().__init__(parameters_given(params), defaults)
        self._seed = seed
        self.diagnostics: dict[str, float] = {}

    @classmethod
    def from_model(cls, model: nn.Module, lr: float, **options: Any) -> "PerturbedSGD":
        """The method for all parameters of ``model`` that require a gradient."""
        return cls(trainable(model), lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; returns the result of ``closure``, which fills the gradients (None without one)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        given = [parameter for group in self.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in given if parameter.grad is not None]
        first = self.param_groups[0]
        step, last = first["step"], first["last_perturbation"]
        rested = last is None or step - last > first["interval"]
        norm = float(norms(gradients).norm()) if gradients else 0.0
        perturbs = rested and norm <= first["threshold"]
        if perturbs:
            self._perturb(given, step)
        else:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.add_(parameter.grad, alpha=-group["lr"])
        for group in self.param_groups:
            group["step"] = step + 1
            group["last_perturbation"] = step if perturbs else last
        self.diagnostics = {"gradient_norm": norm, "perturbed": float(perturbs)}
        return loss

    def _perturb(self, given: list[Tensor], step: int) -> None:
        """Add ξ to those of the parameters ``given`` that have a gradient."""
        size = sum(map(torch.numel, given))
        normal = randomness.normal(
            randomness.key(self._seed, "perturbation", step), torch.arange(size, device=given[0].device)
        )
        drawn = [
            part * (parameter.grad is not None) for part, parameter in zip(unflatten(normal, given), given, strict=True)
        ]
        dimension = sum(parameter.numel() for parameter in given if parameter.grad is not None)
        share = float(randomness.uniform(randomness.key(self._seed, "radius", step), torch.zeros(1, dtype=torch.int64)))
        # A share u of the volume of a ball is within u^(1/d) of its radius.
        length = self.param_groups[0]["radius"] * share ** (1 / max(dimension, 1)) / float(flatten(drawn).norm())
        for parameter, part in zip(given, drawn, strict=True):
            if parameter.grad is not None:
                parameter.add_(part.to(parameter.dtype), alpha=length)
