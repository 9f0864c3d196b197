"""Entropy-SGD: descent on local entropy, whose gradient an inner Langevin dynamics estimates."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench import randomness
from optbench.errors import UserError
from optbench.objective.vectors import unflatten
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import decay_groups, parameters_given, trainable
from optbench.optimizers.periods import kinds_of_steps


class EntropySGD(torch.optim.Optimizer):
    """Moves x towards the mean of x' under exp(-[f(x') + ½ γ ‖x - x'‖²] / ε²), which favours wide valleys.

    The gradient of the negative local entropy, -log ∫ exp(-f(x') - ½ γ ‖x - x'‖²) dx', is γ (x - ⟨x'⟩). An outer step, the
    t-th from 0, with γ = ``scope`` (1 + ``scope_growth``)^t, starts from x' = m = x, a velocity v = 0, and takes
    ``inner_steps`` inner steps, with the gradient g of f at x' (plus weight decay times x'), momentum ρ, z ~ N(0, I):

        v ← ρ v + g,    x' ← x' - η' [g + ρ v + γ (x' - x)] + ε √(2 η') z,    m ← a m + (1 - a) x'.

    Then x ← x - η (x - m), without the factor γ, whose growth would increase the learning rate.

    lr: η. inner_lr: η'. noise: ε. averaging: a, the weight of the past in m. outer_momentum: Nesterov momentum on x - m (0 in
    the authors' first code, 0.9 in their second). ρ acts only on the gradient, not on the scope and the noise.

    One closure is one batch. By default a step is a whole outer step, whose inner steps all take the gradient of the same
    batch, the first one at x: ``inner_steps`` gradients for each step, with fixed dropout masks. With fresh_batches a step is
    one inner step, and every ``inner_steps``-th ends an outer step: each inner step has its own batch and dropout masks, as
    in the paper, and a step costs one gradient. The parameters are x between steps, but the loss that a step returns is that
    at x'. An outer step with ``inner_steps`` = L takes as many gradients as L steps of SGD, and should be compared with those.

    seed: the draws of step k are a function of (seed, k, position of the weight), equal on all ranks.

    Source: Chaudhari et al. 2017, "Entropy-SGD: biasing gradient descent into wide valleys" (arXiv 1611.01838), algorithm 1
    and its authors' code, which differ: the noise here is the code's (the first version of the paper has ε = 1).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        inner_lr: float = 0.1,
        inner_steps: int = 20,
        scope: float = 1e-4,
        scope_growth: float = 1e-3,
        noise: float = 1e-4,
        momentum: float = 0.9,
        averaging: float = 0.75,
        outer_momentum: float = 0.0,
        weight_decay: float = 0.0,
        fresh_batches: bool = False,
        seed: int = 0,
    ) -> None:
        require_common(lr, weight_decay)
        require(inner_lr >= 0, "inner_lr", inner_lr, ">= 0")
        require(inner_steps >= 1, "inner_steps", inner_steps, ">= 1")
        require(scope >= 0, "scope", scope, ">= 0")
        require(scope_growth >= 0, "scope_growth", scope_growth, ">= 0")
        require(noise >= 0, "noise", noise, ">= 0")
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        require(0 <= averaging < 1, "averaging", averaging, "in [0, 1)")
        require(0 <= outer_momentum < 1, "outer_momentum", outer_momentum, "in [0, 1)")
        self._inner_steps, self._noise, self._fresh_batches, self._seed = inner_steps, noise, fresh_batches, seed
        defaults = {
            "lr": lr,
            "inner_lr": inner_lr,
            "scope": scope,
            "scope_growth": scope_growth,
            "momentum": momentum,
            "averaging": averaging,
            "outer_momentum": outer_momentum,
            "weight_decay": weight_decay,
            "outer_step": 0,
            "inner_step": 0,
        }
        super().__init__(parameters_given(params), defaults)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        inner_learning_rate: float = 0.1,
        weight_decay: float = 0.0,
        decay_norm_and_bias: bool = False,
        **options: Any,
    ) -> "EntropySGD":
        """Entropy-SGD for ``model``; biases and norm scales are not decayed unless ``decay_norm_and_bias``."""
        groups = decay_groups(trainable(model), weight_decay, decay_norm_and_bias)
        return cls(groups, inner_lr=inner_learning_rate, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make an outer step, or an inner one with ``fresh_batches``; returns the first result of ``closure``.

        ``closure`` fills the gradients. Raises UserError without one.
        """
        if closure is None:
            raise UserError("EntropySGD.step: needs a closure that evaluates the loss and its gradient")
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        anchors = [parameter.clone() for parameter in parameters]
        if self._at == 0:
            for parameter in parameters:
                self.state[parameter]["mean"] = parameter.clone()
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        else:
            torch._foreach_copy_(parameters, [self.state[parameter].pop("iterate") for parameter in parameters])
        first = None
        for _ in range(1 if self._fresh_batches else self._inner_steps):
            with torch.enable_grad():
                loss = closure()
            first = loss if first is None else first
            self._inner_step(parameters, anchors)
            self._count("inner_step", self._at + 1)
        if self._at < self._inner_steps:
            for parameter in parameters:
                self.state[parameter]["iterate"] = parameter.clone()
            torch._foreach_copy_(parameters, anchors)
            return first
        self._outer_step(dict(zip(parameters, anchors, strict=True)))
        return first

    def kinds_of_steps(self) -> list[tuple[int, Fraction]]:
        """All steps take the same evaluations."""
        return kinds_of_steps()

    @property
    def _at(self) -> int:
        """The number of inner steps made in the present outer step."""
        return int(self.param_groups[0]["inner_step"])

    def _count(self, name: str, value: int) -> None:
        for group in self.param_groups:
            group[name] = value

    def _inner_step(self, parameters: list[Tensor], anchors: list[Tensor]) -> None:
        draws = self._draws(parameters)
        position = 0
        for group in self.param_groups:
            rate, momentum = group["inner_lr"], group["momentum"]
            gamma = group["scope"] * (1 + group["scope_growth"]) ** group["outer_step"]
            for parameter in group["params"]:
                anchor, draw = anchors[position], draws[position]
                position += 1
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                state["momentum_buffer"].mul_(momentum).add_(gradient)
                gradient.add_(state["momentum_buffer"], alpha=momentum).add_(parameter - anchor, alpha=gamma)
                parameter.add_(gradient, alpha=-rate)
                if draw is not None:
                    parameter.add_(draw, alpha=self._noise * math.sqrt(2 * rate))
                state["mean"].lerp_(parameter, 1 - group["averaging"])

    def _draws(self, parameters: list[Tensor]) -> list[Tensor | None]:
        """Standard normal draws for each of ``parameters``, a function of the inner step."""
        if self._noise == 0:
            return [None] * len(parameters)
        number = self.param_groups[0]["outer_step"] * self._inner_steps + self._at
        key = randomness.key(self._seed, "entropy_sgd", number)
        positions = torch.arange(sum(map(torch.numel, parameters)), device=parameters[0].device)
        normal = randomness.normal(key, positions)
        return [part.to(own) for part, own in zip(unflatten(normal, parameters), parameters, strict=True)]

    def _outer_step(self, anchors: dict[Tensor, Tensor]) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                anchor = anchors[parameter]
                direction = anchor - state.pop("mean")
                del state["momentum_buffer"]
                if group["outer_momentum"]:
                    velocity = state.setdefault("outer_momentum_buffer", torch.zeros_like(parameter))
                    velocity.mul_(group["outer_momentum"]).add_(direction)
                    direction = direction.add(velocity, alpha=group["outer_momentum"])
                parameter.copy_(anchor.sub_(direction, alpha=group["lr"]))
        self._count("inner_step", 0)
        self._count("outer_step", self.param_groups[0]["outer_step"] + 1)
