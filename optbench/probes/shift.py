"""The distance between the minima of train and test loss near the weights, and what curvature makes of it in the test loss."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.curvature.minima import Minimum, PenalizedLoss, barrier, minimum_near
from optbench.curvature.operators import operator
from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.vectors import flatten
from optbench.optimizers.groups import trainable
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe, numbers
from optbench.probes.measured import MeasuredModel
from optbench.store.measured import DIAGNOSTIC
from optbench.theory.noisy_quadratic import Array
from optbench.theory.steady_state import curvature_terms, sgd_covariance
from optbench.training.task import Task

_MOST_BYTES = 2**30
# Those that add `weight_decay` times the weights to the gradient, so that it is the L2 penalty of a loss.
_COUPLED = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)


class Shift(SubsetProbe):
    """The terms of Bradley, Gomez-Uribe & Vuyyuru 2022 (arXiv 2108.09507), for the minima of the basin of the weights.

    A copy of the model descends from the mean θ̄ of the iterates to the minimum a of the train loss, and from there to the
    minimum a* of the test loss, both with the L2 penalty of the run's weight decay, in float64. With the shift s = a* - a,
    the bias β = θ̄ - a, the deviations e = θ - θ̄ and the Hessian H of the test loss at a*,

        mean L(θ) - L(a*) ≈ ½ sᵀHs + ½ βᵀHβ - βᵀHs + ½ mean eᵀHe

    with equality if the test loss is quadratic. a* depends on the labels of the test set: this is a diagnosis of a run, and
    nothing may be chosen by it.

    window, iterates: up to ``iterates`` weights at equal distances in the ``window`` steps before a measurement. With window=0,
    and for a run measured afterwards, there is one iterate, the present weights, and the covariance is 0. tolerance, iterations:
    of both descents. penalty: λ of ½ λ |θ|², in place of the weight decay of the run. dense: the most parameters for which the
    covariance term of plain SGD is also predicted, by `optbench.theory.sgd_covariance` with dense matrices at both minima.

    Values that begin with ``diagnostic_``, from the test labels: shift, bias, cross and covariance, the four terms; sum, of
    them; excess, the left side above; shift_excess, L(a) - L(a*); shift_by_train, ½ sᵀHs with the Hessian of the train loss at
    a; covariance_predicted; shift_norm; cosine, of β and s; barrier, on the line from a to a*; gradient_norm, at a*; converged,
    1 if both descents met the tolerance; products, with Hessians. Values from the train loss alone: loss, at a with the penalty;
    excess, mean L(θ) - L(a); bias_norm; gradient_norm, at a; barrier, on the line from θ̄ to a; iterates, their number.
    """

    diagnostic = True

    def __init__(
        self,
        window: int = 0,
        iterates: int = 200,
        tolerance: float = 1e-7,
        iterations: int = 300,
        penalty: float | None = None,
        dense: int = 1500,
        examples: int | None = 2048,
        statistics: str = "refreshed",
    ) -> None:
        super().__init__(examples, statistics, float64=True)
        self.window, self.iterates = window, iterates
        self.tolerance, self.iterations, self.penalty, self.dense = tolerance, iterations, penalty, dense
        self._kept: list[Tensor] = []

    def check(self, context: ProbeContext) -> None:
        """Raise UserError for iterates that take too much memory, and for a weight decay that is no penalty of a loss."""
        model = context.task.model
        parameters = trainable(model)
        each = 8 * sum(parameter.numel() for parameter in parameters)
        if self.window and self.iterates * each > _MOST_BYTES:
            raise UserError(
                f"probe.shift.iterates={self.iterates}: of {each} bytes each take more than {_MOST_BYTES}; accepted: at most "
                f"{_MOST_BYTES // each}, or window=0"
            )
        _decay(context.task.recipe.make_optimizer(model), parameters, self.penalty)

    @contextlib.contextmanager
    def watch(self, objective: Objective, task: Task) -> Iterator[None]:
        """Keep the weights after a step, if it is one of those at equal distances."""
        yield
        if (task.step + 1) % math.ceil(self.window / self.iterates) == 0:
            with self.aside(task):
                self._kept.append(flatten([parameter.detach() for parameter in trainable(task.model)]).cpu())

    def measure(self, context: ProbeContext) -> Measurement:
        """Descend to both minima, and take the terms there."""
        measured = self.measured(context)
        decay = _decay(context.task.recipe.make_optimizer(measured.model), measured.parameters, self.penalty)
        train, test = (PenalizedLoss(measured.objective(split), decay) for split in ("train", "test"))
        iterates = np.stack([numbers(kept) for kept in self._kept]) if self._kept else train.position[None]
        self._kept = []
        mean = iterates.mean(axis=0)
        low = minimum_near(train, mean, self.tolerance, self.iterations)
        test_low = minimum_near(test, low.point, self.tolerance, self.iterations)
        shift, bias = test_low.point - low.point, mean - low.point
        terms = curvature_terms(lambda vector: test.product(test_low.point, vector), shift, bias, iterates - mean)
        values = {
            "loss": low.loss,
            "excess": float(np.mean([train.loss(theta) for theta in iterates])) - low.loss,
            "bias_norm": float(np.linalg.norm(bias)),
            "gradient_norm": low.gradient_norm,
            "barrier": barrier(train, mean, low.point),
            "iterates": float(len(iterates)),
        }
        diagnostics = {
            "shift": terms.shift,
            "bias": terms.bias,
            "cross": terms.cross,
            "covariance": terms.covariance,
            "sum": terms.sum,
            "excess": float(np.mean([test.loss(theta) for theta in iterates])) - test_low.loss,
            "shift_excess": test.loss(low.point) - test_low.loss,
            "shift_by_train": 0.5 * float(shift @ train.product(low.point, shift)),
            "shift_norm": float(np.linalg.norm(shift)),
            "cosine": _cosine(bias, shift),
            "barrier": barrier(test, low.point, test_low.point),
            "gradient_norm": test_low.gradient_norm,
            "converged": float(max(low.gradient_norm, test_low.gradient_norm) <= self.tolerance),
        }
        if len(mean) <= self.dense:
            diagnostics["covariance_predicted"] = _predicted(context.task, measured, train, test, low, test_low)
        diagnostics["products"] = float(train.products + test.products)
        return Measurement(values | {f"{DIAGNOSTIC}_{name}": value for name, value in diagnostics.items()})

    def state_dict(self) -> dict[str, Any]:
        """The iterates of the window so far."""
        return {"iterates": torch.stack(self._kept) if self._kept else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._kept = [] if state["iterates"] is None else list(state["iterates"])


def _decay(optimizer: torch.optim.Optimizer, parameters: list[Any], penalty: float | None) -> Array:
    """λ of every parameter in the L2 penalty; raises UserError for a weight decay that is not the gradient of one."""
    if penalty is not None:
        return np.full(sum(parameter.numel() for parameter in parameters), penalty)
    decays = {id(parameter): 0.0 for parameter in parameters}
    for group in optimizer.param_groups:
        coupled, decoupled = group.get("weight_decay", 0.0), group.get("decoupled_decay", 0.0)
        apart = not isinstance(optimizer, _COUPLED) or group.get("decoupled_weight_decay", False)
        if decoupled or (coupled and apart):
            raise UserError(
                "probe.shift: the weight decay of this optimizer is not the gradient of an L2 penalty, so that its loss has no "
                "known minimum; accepted: optimizer.weight_decay=0, a torch optimizer with "
                "optimizer.weight_decay_mode=coupled, or probe.shift.penalty=VALUE"
            )
        decays |= {id(parameter): float(coupled) for parameter in group["params"]}
    return np.concatenate([np.full(parameter.numel(), decays[id(parameter)]) for parameter in parameters])


def _predicted(
    task: Task, measured: MeasuredModel, train: PenalizedLoss, test: PenalizedLoss, low: Minimum, test_low: Minimum
) -> float:
    """½ tr(H S) with the S of plain SGD from its own equation; NaN for other methods, and without a stationary S."""
    (group, *_) = task.optimizer.param_groups
    if type(task.optimizer) is not torch.optim.SGD or group["momentum"] or task.execution.clip_norm is not None:
        return math.nan
    gradient = train.gradient(low.point) - train.decay * low.point
    identity = torch.eye(measured.dimension, dtype=torch.float64, device=task.device)

    def dense(matrix: str) -> Array:
        found = numbers(operator(train.objective, matrix).products(identity))
        return np.asarray(0.5 * (found + found.T))

    hessian = dense("hessian") + np.diag(train.decay)
    noise = dense("empirical_fisher") - np.outer(gradient, gradient)
    try:
        batch = task.recipe.horizon.plan.batch(max(task.step - 1, 0))
        covariance = sgd_covariance(hessian, noise, group["lr"], batch)
    except ValueError:
        return math.nan
    test.loss(test_low.point)
    test_hessian = numbers(operator(test.objective, "hessian").products(identity)) + np.diag(test.decay)
    return 0.5 * float(np.sum(test_hessian * covariance))


def _cosine(one: Array, other: Array) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else math.nan
