"""K-FAC as a preconditioner: the gradient multiplied by damped Kronecker-factored inverses, then momentum."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from optbench.errors import UserError
from optbench.objective import Objective
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import decay_groups, trainable
from optbench.optimizers.kronecker import Inverses, KroneckerFactors
from optbench.optimizers.periods import kinds_of_steps

Kind = TypeVar("Kind", bound="KFAC")


class KFAC(torch.optim.Optimizer):
    """SGD with momentum on gradients preconditioned by the Kronecker factors of each layer.

    For the gradient D of a layer with factors A and G (``kronecker.statistics``), learning rate α, momentum μ, damping λ
    and weight decay η

        U = (G + √λ/π I)^-1 D (A + π √λ I)^-1         inverse="cholesky": factored damping, π² the ratio of mean eigenvalues
        U = (A x G + λ I)^-1 D                        inverse="eigen": exact damping, in the eigenbases
        ν = min(1, √(κ / (α² Σ <U, D>)))              over all layers with factors: α² ν² Σ <U, D> <= κ
        M ← μ M + ν U + η W,   W ← W - α M.

    Parameters without factors (``describe()`` names them: norms, embeddings, tied weights) use their plain gradient in place
    of ν U. The factors are averaged every ``factor_period`` steps and inverted every ``inverse_period`` steps. Within the
    first such period they are also inverted after updates 1, 2, 4, 8, ... of the factors, because early factors are poor.

    step takes an ``optbench.objective.Objective``. kl_clip: κ, None for no clipping. targets: "sampled" (the Fisher
    matrix), "exact" (the same without noise, at the cost of one backward pass for each output of an example), "empirical"
    (the training targets; no extra pass). approximation: for weights shared over positions, "expand" or "reduce".
    placement: the fraction of the ranks that keep a layer's inverses, 1 for all, 0 for one rank. max_factor_size: layers with
    a larger factor use their plain gradient. seed: of the draws of sampled targets.

    Source: Martens & Grosse 2015, arXiv 1503.05671 (factors, factored damping, running averages); Grosse & Martens 2016,
    arXiv 1602.01407 (convolutions); Ba, Grosse & Martens 2017 and Osawa et al. 2019, arXiv 1811.12019 (periods, large
    batches); the clipping is that of KFAC-Pytorch and kfac-pytorch. The extra inversions in the first period are our own.

    Raises UserError for a model in which no layer has factors, and ValueError for values that are not accepted.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        decay_norm_and_bias: bool = False,
        damping: float = 0.03,
        kl_clip: float | None = 0.01,
        factor_period: int = 10,
        inverse_period: int = 100,
        factor_decay: float = 0.95,
        targets: str = "sampled",
        approximation: str = "expand",
        inverse: str = "cholesky",
        placement: float = 1.0,
        max_factor_size: int | None = 8192,
        seed: int = 0,
    ) -> None:
        require_common(lr, weight_decay)
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        require(damping > 0, "damping", damping, "> 0")
        require(kl_clip is None or kl_clip > 0, "kl_clip", kl_clip, "null or > 0")
        require(factor_period >= 1, "factor_period", factor_period, ">= 1")
        require(inverse_period >= 1, "inverse_period", inverse_period, ">= 1")
        require(0 <= factor_decay < 1, "factor_decay", factor_decay, "in [0, 1)")
        require(0 <= placement <= 1, "placement", placement, "in [0, 1]")
        require(inverse in ("cholesky", "eigen"), "inverse", inverse, "one of cholesky, eigen")
        require(max_factor_size is None or max_factor_size >= 1, "max_factor_size", max_factor_size, "null or >= 1")
        self.parameters = trainable(model)
        groups = decay_groups(self.parameters, weight_decay, decay_norm_and_bias)
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.factors = KroneckerFactors(
            model, targets, approximation, factor_decay, max_factor_size, fraction=placement, seed=seed
        )
        self.factors.require_layers(type(self).__name__.lower())
        self.damping, self.kl_clip, self.inverse = damping, kl_clip, inverse
        self.factor_period, self.inverse_period = factor_period, inverse_period
        self.steps = 0
        self.inverses: Inverses | None = None
        self._saved: dict[str, Any] | None = None
        self._factored = [place for places in self.factors.places for place in places]

    @classmethod
    def from_model(cls: type[Kind], model: nn.Module, **options: Any) -> Kind:
        """K-FAC for the layers of ``model``."""
        return cls(model, **options)

    def working_bytes(self) -> int:
        """The bytes of factors, inverses, and what computing them takes."""
        return self.factors.working_bytes()

    def kinds_of_steps(self) -> list[tuple[int, Fraction]]:
        """A value of ``steps`` at the start of each kind of step after the first period, and the share of such steps."""
        return kinds_of_steps(self.factor_period, self.inverse_period)

    def unsaved_bytes(self) -> int:
        """The bytes of the inverses, which are not in the state because they are computed again from the factors."""
        there = self.inverses is not None or self._saved is not None
        return self.factors.inverse_bytes(self.inverse) if there else 0

    def describe(self) -> list[str]:
        """A line for each factored layer with the sizes of its factors, then one for each other parameter with the reason."""
        return self.factors.describe()

    # ---- one step -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update from the objective of a batch; returns its loss. Raises UserError for any other closure."""
        if not isinstance(closure, Objective):
            raise UserError(f"{type(self).__name__}.step: needs an optbench.objective.Objective, not {type(closure)}")
        with torch.enable_grad():
            loss = self._evaluate(closure)
        self.steps += 1
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        directions = self._precondition(gradients)
        if self.kl_clip is not None:
            self._clip(gradients, directions, self.kl_clip)
        chosen = dict(zip(self.parameters, directions, strict=True))
        for group in self.param_groups:
            # Frozen and unused ones stay, whatever momentum they have.
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._descend(group, parameters, [chosen[parameter] for parameter in parameters])
        return loss

    def _evaluate(self, objective: Objective) -> Tensor:
        """The loss and its gradient; updates factors and inverses if they are due."""
        execution = objective.execution
        if self._saved is not None:
            self.inverses, self._saved = self.factors.restore(execution, self._saved), None
        if self.steps % self.factor_period:
            loss = objective()
        else:
            loss, _ = self.factors.evaluate_and_update(objective)
        if self._inversion_is_due() or self.inverses is None:
            self.inverses = self.factors.invert(execution, self.damping**0.5, self.inverse)
        return loss

    def _inversion_is_due(self) -> bool:
        """True if the step after the latest update of the factors needs new inverses."""
        if self.steps % self.factor_period == 0 and self.steps < self.inverse_period:
            number = self.steps // self.factor_period + 1
            return number & (number - 1) == 0
        return self.steps % self.inverse_period == 0

    def _precondition(self, gradients: list[Tensor]) -> list[Tensor]:
        assert self.inverses is not None
        return self.inverses.precondition(gradients)

    def _clip(self, gradients: list[Tensor], directions: list[Tensor], bound: float) -> None:
        """Scale the preconditioned tensors among ``directions`` by ν."""
        chosen = [directions[place] for place in self._factored]
        products = torch._foreach_mul([gradients[place] for place in self._factored], chosen)
        total = torch.stack([product.sum() for product in products]).sum().clamp(min=0)
        lr = self.param_groups[0]["lr"]
        # A learning rate of 0 gives infinity, so that nothing is clipped.
        scale = torch.sqrt(bound / (total * lr**2)).clamp(max=1)
        for place, tensor in zip(self._factored, torch._foreach_mul(chosen, scale), strict=True):
            directions[place] = tensor

    def _descend(self, group: dict[str, Any], parameters: list[Tensor], directions: list[Tensor]) -> None:
        if group["weight_decay"]:
            directions = list(torch._foreach_add(directions, parameters, alpha=group["weight_decay"]))
        if group["momentum"]:
            for parameter in parameters:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, directions)
            directions = buffers
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])

    # ---- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Momenta, running averages of the factors, and the factors of the present inverses."""
        return {**super().state_dict(), "kronecker": self._kronecker_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        rest = dict(state_dict)
        self._load_kronecker_state(rest.pop("kronecker"))
        super().load_state_dict(rest)

    def _kronecker_state(self) -> dict[str, Any]:
        inverses = self._saved if self.inverses is None else self.inverses.state_dict()
        return {"steps": self.steps, "factors": self.factors.state_dict(), "inverses": inverses}

    def _load_kronecker_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.factors.load_state_dict(state["factors"])
        # Computed again at the next step, when the ranks are known.
        self.inverses, self._saved = None, state["inverses"]
