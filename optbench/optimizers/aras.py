"""Adaptive regularization with adaptive sampling: the step size and the batch follow the gradient and its variance."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench.objective import Objective
from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import parameters_given, trainable

TESTS = ("norm", "inner_product")
ACCURACIES = ("constant", "inverse_sigma")
_LARGEST, _SMALLEST = 1e30, 1e-30


def wanted_batch(variance: float, squared_norm: float, accuracy: float, examples: int | None = None) -> int:
    """The smallest batch b with Var/b (1 - b/N) ≤ ω²‖g‖², for the summed variance Var of the gradients of single examples.

    examples: N of the training set, from which batches are drawn without replacement; None: without that factor.
    """
    limit = accuracy**2 * squared_norm + (variance / examples if examples else 0.0)
    # Less rounding of a quotient that is whole.
    return max(math.ceil(variance / limit * (1 - 1e-12)), 1) if limit > 0 else examples or 1


class ARAS(torch.optim.Optimizer):
    """θ ← θ - lr g/σ for the gradient g of a batch of b examples, with σ and b chosen by two tests. lr = 1 is the method.

    Phase 1 (transient). Sampling test, with the variance Var = 1/(b-1) Σ‖∇l_n - g‖² of the gradients of its N examples and
    ω = ``accuracy``:

        norm             Var/b (1 - b/N) ≤ ω²‖g‖²
        inner_product    Var(∇l_nᵀg)/b (1 - b/N) ≤ ω²‖g‖⁴      weaker: only along g

    If it fails, the step is refused: the batch is used up, the weights stay, and ``wanted_batch`` is the b with which the test
    would have held. Otherwise ρ = [L(θ) - L(θ - lr g/σ)] / (lr‖g‖²/σ) on the batch, at most 1 on a convex loss. A step with
    ρ < 0.1 is refused and doubles σ, and ρ ≥ 0.75 halves it. A step costs two gradients (the second for the norms of those of
    single examples) and a loss.

    Phase 2 (stationary) begins when the sum of the inner products of successive gradients falls below 0 (Pflug 1990), not before
    one epoch, or when the batch cannot grow any more. It makes no tests and keeps b, and its step k = 1, 2, ... has σ√k.

    sampling_test: which of the two. accuracy_rule: constant, or inverse_sigma for ω = min(accuracy, 1/σ), with which the batch
    soon is the whole training set. batch_multiple, maximum_batch: of the batch that a run takes
    (`optbench.config.durations.GrowingPlan`); null: up to the training set.

    ``diagnostics`` holds sigma, phase, batch, accepted, ratio (ρ), variance.

    Source: the abstract of Lotfi, Bonniot de Ruisselet, Orban & Lodi 2021 (arXiv 2111.14761). All the rest, the tests, constants
    and names, is our reconstruction and not theirs; the sampling tests are those of Byrd, Chin, Nocedal & Wu 2012 and of
    Bollapragada, Byrd & Nocedal 2018 (arXiv 1710.11258). Deviation: a batch that fails its test is not enlarged within the step.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        sigma: float = 1.0,
        accuracy: float = 0.9,
        accuracy_rule: str = "constant",
        sampling_test: str = "norm",
        batch_multiple: int = 8,
        maximum_batch: int | None = None,
        accepted: float = 0.1,
        very_successful: float = 0.75,
        decrease: float = 0.5,
        increase: float = 2.0,
    ) -> None:
        require_common(lr, 0.0)
        require(sigma > 0, "sigma", sigma, "> 0")
        require(accuracy > 0, "accuracy", accuracy, "> 0")
        require(accuracy_rule in ACCURACIES, "accuracy_rule", accuracy_rule, f"one of {', '.join(ACCURACIES)}")
        require(sampling_test in TESTS, "sampling_test", sampling_test, f"one of {', '.join(TESTS)}")
        require(0 < accepted < very_successful, "accepted", accepted, f"in (0, very_successful={very_successful})")
        require(0 < decrease <= 1, "decrease", decrease, "in (0, 1]")
        require(increase > 1, "increase", increase, "> 1")
        defaults = {
            "lr": lr,
            "sigma": float(sigma),
            "accuracy": accuracy,
            "accuracy_rule": accuracy_rule,
            "sampling_test": sampling_test,
            "batch_multiple": batch_multiple,
            "maximum_batch": maximum_batch,
            "accepted": accepted,
            "very_successful": very_successful,
            "decrease": decrease,
            "increase": increase,
            "phase": 1,
            "samples": 0,
            "inner_products": 0.0,
            "steps_in_phase_2": 0,
        }
        super().__init__(parameters_given(params), defaults)
        krylov.only_group(self, type(self).__name__)
        self.wanted_batch: int | None = None
        self.diagnostics: dict[str, float] = {}

    @classmethod
    def from_model(cls, model: nn.Module, lr: float, **options: Any) -> "ARAS":
        """The method for all parameters of ``model`` that require a gradient."""
        return cls(trainable(model), lr=lr, **options)

    def check(self, objective: Objective) -> None:
        """Raise UserError for a model whose examples have no gradients of their own, and for a loss that is unknown."""
        objective.per_example_squared_gradient_norms()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make at most one update on the batch of ``closure``, an ``Objective``; returns the loss at the start of the step.

        ``wanted_batch`` is then the batch that the next step should have, or None for the same. Raises UserError for another
        closure.
        """
        objective = krylov.require_objective(closure, type(self).__name__, "the gradients of single examples")
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
        with torch.enable_grad():
            loss = objective()
        size = objective.examples * objective.execution.world_size
        self.wanted_batch = None
        self.diagnostics = {"batch": float(size), "accepted": 0.0, "ratio": 0.0, "variance": 0.0}
        direction, gradient = krylov.flat_gradient(parameters), krylov.unclipped_gradient(objective, parameters)
        if bool(loss.isfinite()) and bool(gradient.isfinite().all()):
            if group["phase"] == 1:
                self._choose_phase(objective, group, size)
            if group["phase"] == 2:
                group["steps_in_phase_2"] += 1
                self._move(parameters, direction, group["lr"] / (group["sigma"] * group["steps_in_phase_2"] ** 0.5))
            elif self._is_accurate(objective, group, gradient, size):
                self._try(objective, group, parameters, direction, gradient, loss)
        group["samples"] += size
        self.diagnostics |= {"sigma": group["sigma"], "phase": float(group["phase"])}
        return loss

    def _choose_phase(self, objective: Objective, group: dict[str, Any], size: int) -> None:
        """Begin the second phase where the gradients have turned against each other, or the batch cannot grow."""
        examples, most = objective.training_examples, group["maximum_batch"]
        if most is None or (examples is not None and examples < most):
            most = examples
        is_largest = most is not None and size + group["batch_multiple"] > most
        turned = group["inner_products"] < 0 and examples is not None and group["samples"] >= examples
        if is_largest or turned:
            group["phase"] = 2
            for parameter in group["params"]:
                self.state[parameter].pop("last_gradient", None)

    def _is_accurate(self, objective: Objective, group: dict[str, Any], gradient: Tensor, size: int) -> bool:
        """The sampling test; where it fails, ``wanted_batch`` is set."""
        if size < 2:
            return True
        squared = float(gradient.double().square().sum())
        if group["sampling_test"] == "norm":
            moments = objective.per_example_squared_gradient_norms().double()
        else:
            moments, squared = objective.per_example_slopes(gradient).double().square(), squared**2
        mean = float(objective.execution.mean_over_ranks(moments.mean()))
        variance = max(size / (size - 1) * (mean - squared), 0.0)
        self.diagnostics["variance"] = variance
        accuracy = group["accuracy"]
        if group["accuracy_rule"] == "inverse_sigma":
            accuracy = min(accuracy, 1 / group["sigma"])
        wanted = wanted_batch(variance, squared, accuracy, objective.training_examples)
        if wanted <= size:
            return True
        self.wanted_batch = wanted
        return False

    def _try(
        self,
        objective: Objective,
        group: dict[str, Any],
        parameters: list[Tensor],
        direction: Tensor,
        gradient: Tensor,
        loss: Tensor,
    ) -> None:
        """Make the step if it lowers the loss of the batch as the gradient predicts, and adapt σ."""
        rate = group["lr"] / group["sigma"]
        predicted = rate * float(direction.double() @ gradient.double())
        if not predicted > 0:
            return
        # In the precision of the loss, whose rounding is allowed for as by Conn, Gould & Toint 2000, section 17.4.2.
        rounding = 10 * torch.finfo(gradient.dtype).eps * abs(float(loss))
        after = krylov.loss_after(objective, parameters, -rate * direction)
        ratio = (float(loss) - after + rounding) / (predicted + rounding)
        self.diagnostics["ratio"] = ratio
        if ratio >= group["accepted"]:
            self._follow_products(group, parameters, gradient)
            self._move(parameters, direction, rate)
            factor = group["decrease"] if ratio >= group["very_successful"] else 1.0
        else:  # also for a loss that is not a number
            factor = group["increase"]
        group["sigma"] = min(max(group["sigma"] * factor, _SMALLEST), _LARGEST)

    def _follow_products(self, group: dict[str, Any], parameters: list[Tensor], gradient: Tensor) -> None:
        """Add the inner product of the gradients of this step and of the last one that was made."""
        state = self.state[parameters[0]]
        if "last_gradient" in state:
            group["inner_products"] += float(state["last_gradient"].double() @ gradient.double())
        state["last_gradient"] = gradient.clone()

    def _move(self, parameters: list[Tensor], direction: Tensor, rate: float) -> None:
        krylov.move(parameters, -rate * direction)
        self.diagnostics["accepted"] = 1.0
