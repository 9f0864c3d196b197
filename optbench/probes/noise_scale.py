"""The gradient noise scale of McCandlish et al. 2018, from the micro-batches and ranks of the training steps."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from optbench.curvature.gradient_noise import NoiseScale
from optbench.errors import UserError
from optbench.models import layers
from optbench.objective import Objective, dropout_key
from optbench.objective.execution import Network, _backward
from optbench.objective.vectors import flatten
from optbench.probes.base import Measurement, Probe, ProbeContext
from optbench.probes.measured import copied
from optbench.training.task import Task


@dataclass(frozen=True)
class _Norms:
    """For one gradient: the mean over this rank's parts of |G_b|^2, |G_B|^2, and the sizes b and B in examples."""

    small: Tensor
    big: Tensor
    part: int
    batch: int


class NoiseScaleProbe(Probe):
    """tr Σ / |G|² in examples: the batch size above which more examples for each step have little benefit.

    During the ``window`` steps before a measurement it records the norm of every micro-batch's gradient, on every rank, and
    that of the whole batch's, at the cost of reading each gradient once. If a step has one micro-batch on one rank, and at
    the start, it instead evaluates the two halves of each of the next ``batches`` batches, on a copy of the model in train
    mode; "watched" is then 0, not 1. With batch norm these gradients are those of groups no larger than a half. The finite
    training set is taken into account, as in `optbench.curvature.gradient_noise.NoiseScale`.

    decay: the factor by which the estimates of |G|² and of tr Σ are kept from one gradient to the next, between and within
    measurements, before their quotient is taken; null: all gradients so far have equal weight. Values: simple, NaN if the
    estimate of |G|² is not positive; gradient_norm_squared; trace; watched.
    """

    at = "training"

    def __init__(self, window: int = 3, batches: int = 5, decay: float | None = 0.95) -> None:
        self.window, self.batches, self.decay = window, batches, decay
        self._watched: list[_Norms] = []
        self._scale = NoiseScale(decay)

    def check(self, context: ProbeContext) -> None:
        """Raise UserError for a batch that cannot be halved."""
        batch = context.task.recipe.horizon.plan.batch(0)
        if batch < 2:
            raise UserError(
                f"probe=noise_scale: needs gradients of parts of a batch; accepted: batch >= 2, not {batch}"
            )

    @contextlib.contextmanager
    def watch(self, objective: Objective, task: Task) -> Iterator[None]:
        """Record the norms of the first gradient that the optimizer evaluates."""
        execution = task.execution
        batch = task.recipe.horizon.plan.batch(task.step)
        share = batch // execution.world_size
        size = min(execution.micro_batch or share, share)
        if size == batch:
            yield
            return
        # The norms of a part that is computed again would count twice.
        objective.may_halve = False
        notes = _Notes(objective.network, share, size)
        inner = execution.backward

        def backward(loss: Tensor, last: bool) -> None:
            scale = execution.loss_scale.factor if execution.loss_scale is not None else 1.0
            notes.begin()
            inner(loss, last)
            notes.end(scale, last)

        execution.backward = backward
        try:
            yield
        finally:
            execution.backward = inner
            notes.remove()
        if notes.found is not None:
            self._watched.append(_Norms(*notes.found, size, batch))

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the noise scale; see the class for the gradients used."""
        task = context.task
        watched = bool(self._watched)
        norms = self._watched or self._halves(task)
        self._watched = []
        small = torch.stack([each.small for each in norms]).double().to(task.device)
        task.execution.mean_over_ranks(small)
        self._scale.examples = task.recipe.horizon.examples
        for each, mean in zip(norms, small.tolist(), strict=True):
            self._scale.update(mean, float(each.big), each.part, each.batch)
        values = {
            "simple": self._scale.value,
            "gradient_norm_squared": self._scale.gradient_norm_squared,
            "trace": self._scale.trace,
            "watched": float(watched),
        }
        return Measurement(values)

    def _halves(self, task: Task) -> list[_Norms]:
        """The norms for the next batches; every rank evaluates two halves of its share."""
        network = Network(copied(task.model).train(), task.device)
        return [self._halves_of(task, network, task.step + ahead) for ahead in range(self.batches)]

    def _halves_of(self, task: Task, network: Network, step: int) -> _Norms:
        plan, execution, recipe = task.recipe.horizon.plan, task.execution, task.recipe
        batch, ranks = plan.batch(step), execution.world_size
        inputs, targets = task.source.batch(step, plan.first_sample(step), batch, execution.rank, ranks)
        weights = task.source.weights(plan.first_sample(step), batch, execution.rank, ranks)
        parts = 2 if len(inputs) > 1 else 1  # a share of one example, on several ranks, is one part
        size = len(inputs) // parts
        layers.set_ghost_batch_size(network.model, min(recipe.ghost_batch_size or size, size))
        gradients = []
        for part in range(parts):
            # The rank gives the position of a part in the global batch, which determines its dropout masks.
            alone = replace(
                execution,
                world_size=1,
                rank=execution.rank * parts + part,
                backward=_backward,
                dtype=None,
                loss_scale=None,
                clip_norm=None,
                micro_batch=None if network.norms else execution.micro_batch,
            )
            chosen = slice(part * size, (part + 1) * size)
            key = dropout_key(recipe.seed, step) if network.draw is not None else 0
            mine = None if weights is None else weights[chosen]
            objective = Objective(network, recipe.loss, inputs[chosen], targets[chosen], alone, key, weights=mine)
            gradients.append(flatten(objective.gradient()).double())
        mean = execution.mean_over_ranks(torch.stack(gradients).mean(0))
        small = torch.stack([gradient.square().sum() for gradient in gradients]).mean()
        return _Norms(small, mean.square().sum(), size, size * parts * ranks)

    def state_dict(self) -> dict[str, Any]:
        """The estimates so far, and the norms recorded for the next measurement."""
        watched = [(each.small.cpu(), each.big.cpu(), each.part, each.batch) for each in self._watched]
        return {"scale": self._scale.state_dict(), "watched": watched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._scale.load_state_dict(state["scale"])
        self._watched = [_Norms(*each) for each in state["watched"]]


class _Notes:
    """Squared norms of the gradients of one evaluation's micro-batches, read by hooks on the parameters.

    A hook gets the gradient of one backward pass before it is added to ``parameter.grad``, and before DistributedDataParallel
    averages it over ranks. found: the mean over the parts of full size, and the norm of the whole gradient.
    """

    def __init__(self, network: Network, share: int, size: int) -> None:
        self._parameters, self._weight = network.parameters, size / share
        self._full_parts = share // size  # the last micro-batch after them may be smaller
        self._gradients: list[Tensor] = []
        self._norms: list[Tensor] = []  # the norms of every parameter's gradient in every part
        self._part = 0
        self.found: tuple[Tensor, Tensor] | None = None
        # The hooks cost almost nothing: the norms of all parameters are computed together after the pass.
        self._handles = [parameter.register_hook(self._gradients.append) for parameter in network.parameters]

    def begin(self) -> None:
        """Called before the backward pass of a micro-batch."""
        self._gradients.clear()

    @torch.no_grad()
    def end(self, scale: float, last: bool) -> None:
        """Called after the pass; the loss was multiplied by ``scale`` and by the micro-batch's share of the examples."""
        if self.found is None and self._part < self._full_parts:
            self._norms += torch._foreach_norm(self._gradients)
        self._gradients.clear()
        self._part += 1
        if not last:
            return
        if self.found is None:
            whole = torch._foreach_norm([each.grad for each in self._parameters if each.grad is not None])
            squares = torch.stack([*self._norms, *whole]).square_()
            small = squares[: len(self._norms)].sum() / (self._full_parts * (self._weight * scale) ** 2)
            big = squares[len(self._norms) :].sum() / scale**2
            # If fp16 overflowed, the objective evaluates the same batch again with a smaller scale.
            if scale == 1.0 or bool(torch.isfinite(big)):
                self.found = small, big
        self._norms, self._part = [], 0

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
