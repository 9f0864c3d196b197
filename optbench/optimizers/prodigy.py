"""Prodigy: Adam whose step size is an estimate of the distance to the solution."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.errors import UserError
from optbench.optimizers.base import require, require_betas, require_common
from optbench.optimizers.groups import parameters_given


class Prodigy(torch.optim.Optimizer):
    """Adam with the step size d, a growing lower bound on the distance D = ‖θ₀ - θ*‖, from d₀ on. With δ = lr d in one step:

        N ← β₃ N + (d/d₀) δ ⟨g, θ₀ - θ⟩        s ← β₃ s + (d/d₀) δ g
        m ← β₁ m + (1 - β₁) d g                v ← β₂ v + (1 - β₂) d² g²
        d̂ = ``coefficient`` N / ‖s‖₁,   d ← max(d, d̂)
        θ ← θ - λ δ θ - δ m / (√v + d ε)        with δ from the old d, and the new d

    One d for all parameters. ``lr`` multiplies the estimate: it stays at 1, with a schedule. With ``bias_correction`` δ also has
    the factor √(1 - β₂ᵏ) / (1 - β₁ᵏ). ``safeguard_warmup``: s gets (d/d₀) d g, without the learning rate, so that a warm-up does
    not inflate the estimate.
    initial_distance: d₀. growth: the largest factor by which d grows in a step.
    β₃ is √β₂. A step with the learning rate 0 changes nothing. ``diagnostics`` holds distance, d.

    Raises UserError if groups have different learning rates, other than 0.

    Source: Mishchenko & Defazio 2023, "Prodigy: an expeditiously adaptive parameter-free learner" (arXiv 2306.06101), algorithm
    4, and its authors' code, for the first estimates, ε and the limit on growth.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        initial_distance: float = 1e-6,
        coefficient: float = 1.0,
        growth: float | None = None,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(initial_distance > 0, "initial_distance", initial_distance, "> 0")
        require(coefficient > 0, "coefficient", coefficient, "> 0")
        require(growth is None or growth >= 1, "growth", growth, ">= 1, or null")
        require(eps >= 0, "eps", eps, ">= 0")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            # Of all groups together; each has them, as a group is what a checkpoint holds.
            "distance": initial_distance,
            "largest": initial_distance,
            "numerator": 0.0,
            "step": 0,
        }
        super().__init__(parameters_given(params), defaults)
        self._start, self._coefficient, self._growth = initial_distance, coefficient, growth
        self._corrects, self._safeguards = bias_correction, safeguard_warmup
        self.diagnostics: dict[str, float] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; returns the result of ``closure``, which fills the gradients (None without one)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rates = {group["lr"] for group in self.param_groups} - {0.0}
        if len(rates) > 1:
            raise UserError(f"Prodigy: groups have the learning rates {sorted(rates)}; accepted: one for all, or 0")
        if rates:
            self._move(rates.pop())
        return loss

    def _move(self, lr: float) -> None:
        first = self.param_groups[0]
        (beta1, beta2), old, step = first["betas"], first["distance"], first["step"] + 1
        beta3 = beta2**0.5
        rate = old * lr
        if self._corrects:
            rate *= (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        numerator, denominator = beta3 * first["numerator"], 0.0
        moved = [
            (group, each) for group in self.param_groups for each in group["params"]
            if each.grad is not None and group["lr"] > 0
        ]  # fmt: skip
        sums: list[tuple[Tensor, Tensor]] = []
        for _, parameter in moved:
            sums.append(self._gather(parameter, old, rate, (beta1, beta2, beta3)))
        if sums:
            # One transfer of two numbers for all tensors.
            products, lengths = torch.stack([torch.stack(pair).double() for pair in sums]).sum(0).tolist()
            numerator += old / self._start * rate * products
            denominator = lengths
        new, largest = self._estimate(old, first["largest"], numerator, denominator)
        for group, parameter in moved:
            state = self.state[parameter]
            root = state["exp_avg_sq"].sqrt().add_(new * group["eps"])
            parameter.mul_(1 - group["weight_decay"] * rate)
            parameter.addcdiv_(state["exp_avg"], root, value=-rate)
        for group in self.param_groups:
            group.update(distance=new, largest=largest, numerator=numerator, step=step)
        self.diagnostics = {"distance": new}

    def _gather(
        self, parameter: Tensor, old: float, rate: float, betas: tuple[float, float, float]
    ) -> tuple[Tensor, Tensor]:
        """Move the averages of one tensor; returns ⟨g, θ₀ - θ⟩ and the sum of |s|."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["start"] = parameter.detach().clone()
            state.update({name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq", "sum")})
        beta1, beta2, beta3 = betas
        product = (gradient * (state["start"] - parameter)).double().sum()
        state["exp_avg"].mul_(beta1).add_(gradient, alpha=old * (1 - beta1))
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=old**2 * (1 - beta2))
        weight = old / self._start * (old if self._safeguards else rate)
        state["sum"].mul_(beta3).add_(gradient, alpha=weight)
        return product, state["sum"].abs().double().sum()

    def _estimate(self, old: float, largest: float, numerator: float, denominator: float) -> tuple[float, float]:
        """The next d, and the largest estimate so far."""
        if denominator == 0:
            return old, largest
        found = self._coefficient * numerator / denominator
        start = max(old, found) if old == self._start else old
        largest = max(largest, found)
        return (largest if self._growth is None else min(largest, start * self._growth)), largest
