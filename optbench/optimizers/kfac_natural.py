"""K-FAC as a stand-alone optimizer that chooses step length, momentum and damping by itself."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.vectors import flatten
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import trainable
from optbench.optimizers.kronecker import Inverses, KroneckerFactors
from optbench.optimizers.periods import kinds_of_steps
from optbench.optimizers.span import minimum_in_span
from optbench.optimizers.tridiagonal import ChainInverses, chain_bytes, require_chain

STRUCTURES = ("block_diagonal", "block_tridiagonal")


class KFACNatural(torch.optim.Optimizer):
    """The natural gradient by Kronecker factors; the exact Fisher matrix determines the step length and the damping.

    With the loss h of the batch, which includes η/2 ‖θ‖² (``weight_decay`` η, of all parameters), its gradient g, and the exact
    Fisher matrix F of the batch (the Gauss-Newton matrix, used only in products), the model of h around θ is

        M(δ) = gᵀδ + ½ δᵀ(F + (λ + η)I)δ.

    The step is δ = αΔ + μδ₀, where Δ = -F̂⁻¹g with the Kronecker factors damped by γ, δ₀ is the last step, and (α, μ) minimize
    M (sections 6.4 and 7; μ = 0 without ``adaptive_momentum``). Every T₁ = ``damping_period`` steps, on the same batch,

        ρ = (h(θ + δ) - h(θ)) / M(δ),    λ ← ω₁λ if ρ > 3/4,    λ ← λ/ω₁ if ρ < 1/4    (section 6.5)

    with ω₁ = ``damping_decay``^T₁ and λ = ``damping`` at first. γ is √(λ + η) at first. Every T₂ = ``factor_damping_period``
    steps, γ, ω₂γ and γ/ω₂ with ω₂ = ``factor_damping_decay``^T₂ are tried, and the one whose step has the smallest M is kept
    (section 6.6). F̂⁻¹ is computed anew every T₃ = ``inverse_period`` steps, in the first three steps, and for each tried γ.

    structure: of F̂⁻¹, "block_diagonal" with a block for each layer, or "block_tridiagonal" (``tridiagonal``) for plain chains of
    linear layers. targets, approximation: of the factors (``kronecker``), whose running averages at step k keep min(1 - 1/k,
    ``factor_decay``) of their past. seed: of the draws of sampled targets. lr: multiplies δ; 1 is the method, and schedules
    shorten it. Parameters without factors (``describe()`` names them) take the direction -g, with its own coefficient in the
    minimum of M. With clipped gradients, M has the clipped gradient. After a step, ``diagnostics`` holds damping,
    factor_damping and reduction_ratio: the present λ and γ, and the latest ρ.

    The paper reports averaged parameters, θ̄ ← 0.99 θ̄ + 0.01 θ: averaging=ema averaging.decay=0.99 averaging.warmup=false.

    Source: Martens & Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate curvature", arXiv 1503.05671,
    algorithm 2. Deviations: factors and products use the whole batch, not random parts of it; δ₀ is left out of a step if it is
    nearly parallel to Δ; the treatment of parameters without factors is our own.

    Raises UserError for a model in which no layer has factors, and, with "block_tridiagonal", that is not a plain chain.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1.0,
        structure: str = "block_diagonal",
        adaptive_momentum: bool = True,
        damping: float = 150.0,
        damping_period: int = 5,
        damping_decay: float = 0.95,
        factor_damping_period: int = 20,
        factor_damping_decay: float = 0.9747,
        inverse_period: int = 20,
        factor_decay: float = 0.95,
        weight_decay: float = 1e-5,
        targets: str = "sampled",
        approximation: str = "expand",
        seed: int = 0,
    ) -> None:
        require_common(lr, weight_decay)
        # With a factor of 2 or more, a step along a minimizer does not decrease a quadratic model.
        require(lr < 2, "lr", lr, "in [0, 2)")
        require(structure in STRUCTURES, "structure", structure, f"one of {', '.join(STRUCTURES)}")
        require(damping > 0, "damping", damping, "> 0")
        require(0 < damping_decay <= 1, "damping_decay", damping_decay, "in (0, 1]")
        require(0 < factor_damping_decay <= 1, "factor_damping_decay", factor_damping_decay, "in (0, 1]")
        require(0 <= factor_decay < 1, "factor_decay", factor_decay, "in [0, 1)")
        periods = {"damping_period": damping_period, "factor_damping_period": factor_damping_period}
        for name, period in (periods | {"inverse_period": inverse_period}).items():
            require(period >= 1, name, period, ">= 1")
        self.parameters: list[Tensor] = [*trainable(model)]
        super().__init__(self.parameters, {"lr": lr, "weight_decay": weight_decay})
        self.structure, self.adaptive_momentum = structure, adaptive_momentum
        tridiagonal = structure == "block_tridiagonal"
        self.factors = KroneckerFactors(model, targets, approximation, factor_decay, neighbours=tridiagonal, seed=seed)
        self.factors.require_layers("kfac_natural")
        if tridiagonal:
            require_chain(self.factors)
        self.damping_period, self.damping_factor = damping_period, damping_decay**damping_period
        self.factor_damping_period = factor_damping_period
        self.factor_damping_factor = factor_damping_decay**factor_damping_period
        self.inverse_period = inverse_period
        self.steps = 0
        self.damping = damping
        self.factor_damping = math.sqrt(damping + weight_decay)
        self.reduction_ratio = math.nan
        self.inverses: Inverses | ChainInverses | None = None
        self._saved: dict[str, Any] | None = None
        factored = {place for places in self.factors.places for place in places}
        self._plain = [place for place in range(len(self.parameters)) if place not in factored]

    @classmethod
    def from_model(cls, model: nn.Module, **options: Any) -> "KFACNatural":
        """K-FAC for the layers of ``model``."""
        return cls(model, **options)

    @property
    def diagnostics(self) -> dict[str, float]:
        """The present λ and γ, and the latest ρ."""
        return {
            "damping": self.damping,
            "factor_damping": self.factor_damping,
            "reduction_ratio": self.reduction_ratio,
        }

    def kinds_of_steps(self) -> list[tuple[int, Fraction]]:
        """A value of ``steps`` at the start of each kind of step after the first periods, and the share of such steps."""
        found = kinds_of_steps(self.damping_period, self.factor_damping_period, self.inverse_period)
        return [(step - 1, share) for step, share in found]  # a step counts itself before it looks what is due

    def unsaved_bytes(self) -> int:
        """The bytes of the inverses, which are not in the state because they are computed again from the factors."""
        there = self.inverses is not None or self._saved is not None
        if not there or self.structure == "block_diagonal":
            return self.factors.inverse_bytes() if there else 0
        return chain_bytes(self.factors)

    def describe(self) -> list[str]:
        """A line for each factored layer with the sizes of its factors, then one for each other parameter with the reason."""
        return self.factors.describe()

    # ---- one step -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update from the objective of a batch; returns its loss. Raises UserError for any other closure."""
        if not isinstance(closure, Objective):
            raise UserError(f"KFACNatural.step: needs an optbench.objective.Objective, not {type(closure)}")
        if self._saved is not None:
            self.inverses, self._saved = self._restored(closure, self._saved), None
        with torch.enable_grad():
            loss, _ = self.factors.evaluate_and_update(closure)
        self.steps += 1
        group = self.param_groups[0]
        lr, decay = group["lr"], group["weight_decay"]
        gradient = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        if decay:
            gradient = list(torch._foreach_add(gradient, self.parameters, alpha=decay))
        update, model = self._best_update(closure, gradient)
        update *= lr
        start = flatten(self.parameters)
        changes = self._vector(update)
        torch._foreach_add_(self.parameters, changes)
        for parameter, change in zip(self.parameters, changes, strict=True):
            self.state[parameter]["previous_update"] = change
        # δ minimizes M along itself, so that M(s δ) = (2s - s²) M(δ).
        model *= lr * (2 - lr)
        if self.steps % self.damping_period == 0 and model != 0:
            # η/2 (‖θ + δ‖² - ‖θ‖²), computed without the difference of two large numbers.
            penalty = decay * float(start @ update + update @ update / 2)
            self._adapt_damping((float(closure.loss() - loss) + penalty) / model)
        return loss

    def _best_update(self, objective: Objective, gradient: list[Tensor]) -> tuple[Tensor, float]:
        """δ, as one vector of all parameters, and M(δ); every T₂ steps for the best of three γ, which becomes the new γ."""
        strengths = [self.factor_damping]
        if self.steps % self.factor_damping_period == 0:
            factor = self.factor_damping_factor
            strengths += [factor * self.factor_damping, self.factor_damping / factor]
        due = len(strengths) > 1 or self.steps <= 3 or self.steps % self.inverse_period == 0
        if due or self.inverses is None:
            inverses = [self._invert(objective, strength) for strength in strengths]
        else:
            inverses = [self.inverses]
        directions = [self._proposal(inverse, gradient) for inverse in inverses]
        directions += self._other_directions(gradient)
        flat = torch.stack([flatten(direction) for direction in directions])
        damping = self.damping + self.param_groups[0]["weight_decay"]
        gram = objective.quadratic(directions) + damping * (flat @ flat.T)
        slopes = flat @ flatten(gradient)
        found = []
        for number in range(len(inverses)):
            chosen = [number, *range(len(inverses), len(directions))]
            found.append((chosen, *minimum_in_span(gram[chosen][:, chosen], slopes[chosen])))
        best = min(range(len(found)), key=lambda number: _or_infinity(found[number][2]))
        self.factor_damping, self.inverses = strengths[best], inverses[best]
        chosen, coefficients, model = found[best]
        return flat.new_tensor(coefficients) @ flat[chosen], model

    def _proposal(self, inverse: Inverses | ChainInverses, gradient: list[Tensor]) -> list[Tensor]:
        """Δ, with 0 for parameters without factors: -g of these is a separate direction, to which Δ must not be parallel."""
        product = list(torch._foreach_neg(inverse.precondition(gradient)))
        for place in self._plain:
            product[place] = torch.zeros_like(product[place])
        return product

    def _other_directions(self, gradient: list[Tensor]) -> list[list[Tensor]]:
        """The directions -g of parameters without factors (0 for the others), and δ₀, as far as they exist."""
        found = []
        if self._plain:
            plain = [torch.zeros_like(tensor) for tensor in gradient]
            for place in self._plain:
                plain[place] = -gradient[place]
            found.append(plain)
        if self.adaptive_momentum and self.steps > 1:
            found.append([self.state[parameter]["previous_update"] for parameter in self.parameters])
        return found

    def _adapt_damping(self, ratio: float) -> None:
        """Levenberg-Marquardt: a smaller λ if the loss has followed the model, a larger one if not."""
        self.reduction_ratio = ratio
        if ratio > 3 / 4:
            self.damping *= self.damping_factor
        elif ratio < 1 / 4:
            self.damping /= self.damping_factor

    def _invert(self, objective: Objective, strength: float) -> Inverses | ChainInverses:
        if self.structure == "block_diagonal":
            return self.factors.invert(objective.execution, strength)
        assert self.factors.current is not None
        return ChainInverses(self.factors, self.factors.current, strength)

    def _restored(self, objective: Objective, state: dict[str, Any]) -> Inverses | ChainInverses:
        if self.structure == "block_diagonal":
            return self.factors.restore(objective.execution, state)
        return ChainInverses.restore(self.factors, state)

    def _vector(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]

    # ---- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The last step, λ, γ, the running averages of the factors, and the factors of the present inverses."""
        own = {
            "steps": self.steps,
            "damping": self.damping,
            "factor_damping": self.factor_damping,
            "reduction_ratio": self.reduction_ratio,
            "factors": self.factors.state_dict(),
            "inverses": self._saved if self.inverses is None else self.inverses.state_dict(),
        }
        return {**super().state_dict(), "kfac_natural": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        rest = dict(state_dict)
        own = rest.pop("kfac_natural")
        super().load_state_dict(rest)
        self.steps, self.damping, self.factor_damping = own["steps"], own["damping"], own["factor_damping"]
        self.reduction_ratio = own["reduction_ratio"]
        self.factors.load_state_dict(own["factors"])
        # Computed again at the next step, when the ranks are known.
        self.inverses, self._saved = None, own["inverses"]


def _or_infinity(value: float) -> float:
    return math.inf if math.isnan(value) else value
