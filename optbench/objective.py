"""The loss of the current global batch as a function of the parameters: the closure that every optimizer is given.

PyTorch's closure evaluates the loss and its gradient. An ``Objective`` is that closure and knows more: the value alone,
at other parameters too. Whatever it returns is the mean over the global batch, whether that passes through the model at
once, in micro-batches, or divided over ranks.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from optbench import randomness
from optbench.errors import UserError
from optbench.models import layers

Backward = Callable[[Tensor, bool], None]


def _backward(loss: Tensor, last: bool) -> None:
    loss.backward()


class LossScale:
    """The factor that keeps fp16 gradients from vanishing (Micikevicius et al. 2018, "Mixed precision training").

    Where a gradient overflows, the factor is halved and the same batch is evaluated again, so that no step is skipped
    and the closure's contract (a loss and its gradient) holds; after ``growth_interval`` evaluations without overflow it
    doubles.
    """

    def __init__(self, factor: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.factor, self.growth_interval, self.good = factor, growth_interval, 0

    def grew_too_large(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether the scaled gradients overflowed, which halves the factor; otherwise they are divided by it."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # A sum over all of them is finite exactly when each is (infinities of both signs make it not a number).
        total = torch.stack(torch._foreach_norm(gradients, 1)).sum()
        if not torch.isfinite(total) and self.factor > 1:
            self.factor, self.good = self.factor / 2, 0
            return True
        torch._foreach_div_(gradients, self.factor)
        self.good += 1
        if self.good >= self.growth_interval:
            self.factor, self.good = self.factor * 2, 0
        return False

    def state_dict(self) -> dict[str, Any]:
        """The factor and the evaluations since it last changed."""
        return {"factor": self.factor, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.factor, self.good = state["factor"], state["good"]


@dataclass
class Execution:
    """How an objective is evaluated; nothing here changes its value but for rounding.

    micro_batch: examples in one pass, None for all. dtype: the type that autocast computes in, None for no autocast.
    world_size: the ranks that the batch is divided over. backward: differentiates one micro-batch's loss; told whether it
    is the last, after which gradients are averaged over ranks. clip_norm: the largest global norm of the gradient.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    micro_batch: int | None = None
    dtype: torch.dtype | None = None
    loss_scale: LossScale | None = None
    world_size: int = 1
    rank: int = 0
    backward: Backward = _backward
    clip_norm: float | None = None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of every forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value


class Network:
    """A model made ready to be evaluated in parts: its parameters, batch norms and dropout layers found once."""

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self.model = model
        self.forward: Callable[[Tensor], Tensor] = model
        self.named_parameters = dict(model.named_parameters())
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.norms = layers.batch_norms(model)
        self.draw = layers.place_dropout(model, device or next(model.parameters()).device)

    def record_norms(self, how: str) -> None:
        """Set how every batch norm treats its running statistics: "follow", "record" or "hold"."""
        for norm in self.norms:
            norm.recording = how


class Objective:
    """The mean loss over one global batch, of which this rank holds ``inputs`` and ``targets``.

    network: the model, in train mode. loss: (outputs, targets) -> mean over the examples it is given.
    dropout_key: names this step's dropout masks. Called, it zeroes the gradients, evaluates the loss and its gradient
    into ``parameter.grad`` and returns the loss, a 0-d tensor. Every call within a step sees the same dropout masks, and
    only the first one is recorded in the running statistics of batch norm, which move when ``finish`` is called.
    """

    def __init__(
        self,
        network: Network,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        execution: Execution | None = None,
        dropout_key: int = 0,
    ) -> None:
        self.network = network
        self.loss_function = loss
        self.execution = execution or Execution(device=inputs.device)
        self.evaluations = 0
        self.value: Tensor | None = None  # the loss where the step began: of the first evaluation
        self.gradient_norm: Tensor | None = None
        size, micro = len(inputs), self.execution.micro_batch
        self._key = dropout_key
        if micro is None or micro >= size:
            self._parts = [(inputs, targets, 1.0, 0)]
        else:
            starts = range(0, size, micro)
            self._parts = [
                (part, target, len(part) / size, start)
                for part, target, start in zip(inputs.split(micro), targets.split(micro), starts, strict=True)
            ]
        # Where in the global batch this rank's examples begin: the ranks hold equal shares, in order.
        self._first = size * self.execution.rank

    def __call__(self) -> Tensor:
        """Zero the gradients, fill them with the gradient of the global mean loss, and return that loss."""
        network, execution = self.network, self.execution
        if network.norms:
            network.record_norms("hold" if self.evaluations else "record")
        scale = execution.loss_scale
        value = self._accumulate(scale.factor if scale else 1.0)
        while scale is not None and scale.grew_too_large(network.parameters):
            if network.norms:
                network.record_norms("hold")
            value = self._accumulate(scale.factor)
        if execution.clip_norm is not None:
            self.gradient_norm = nn.utils.clip_grad_norm_(network.parameters, execution.clip_norm)
        value = execution.mean_over_ranks(value)
        if self.evaluations == 0:
            self.value = value
        self.evaluations += 1
        return value

    def _accumulate(self, scale: float) -> Tensor:
        for parameter in self.network.parameters:
            parameter.grad = None
        total: Tensor | None = None
        last = len(self._parts) - 1
        for number, part in enumerate(self._parts):
            weight = part[2]
            loss = self._forward(part)
            if weight != 1.0:
                loss = loss * weight
            self.execution.backward(loss * scale if scale != 1.0 else loss, number == last)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _forward(self, part: tuple[Tensor, Tensor, float, int]) -> Tensor:
        inputs, targets, _, start = part
        return self.loss_function(self._outputs(inputs, start), targets)

    def _outputs(self, inputs: Tensor, start: int) -> Tensor:
        if self.network.draw is not None:
            self.network.draw[0] = self._key
            self.network.draw[1] = self._first + start
        if self.execution.dtype is None:
            return self.network.forward(inputs)
        # Autocast keeps low-precision copies of the parameters until the outermost context ends; a context of our own
        # around every pass, never around a whole step, is what makes it see the parameters that the step has changed.
        with self.execution.autocast():
            return self.network.forward(inputs)

    @torch.no_grad()
    def loss(self, at: Sequence[Tensor] | None = None) -> Tensor:
        """The global mean loss without its gradient, in train mode, at the parameters or ``at`` others.

        ``at``: one tensor for each of ``model.parameters()``, in their order. Gradients and running statistics stay.
        """
        network = self.network
        if network.norms:
            network.record_norms("hold")
        swapped = None
        if at is not None:
            if len(at) != len(network.named_parameters):
                raise UserError(
                    f"objective.loss(at=...): {len(at)} tensors for {len(network.named_parameters)} parameters"
                )
            swapped = [parameter.data for parameter in network.named_parameters.values()]
            for parameter, trial in zip(network.named_parameters.values(), at, strict=True):
                parameter.data = trial
        try:
            total = torch.stack([self._forward(part) * part[2] for part in self._parts]).sum()
        finally:
            if swapped is not None:
                for parameter, own in zip(network.named_parameters.values(), swapped, strict=True):
                    parameter.data = own
        return self.execution.mean_over_ranks(total)

    def finish(self) -> None:
        """The step is over: move the running statistics of batch norm, once."""
        if self.network.norms:
            layers.commit_batch_norms(self.network.norms, self.execution.world_size)
            self.network.record_norms("follow")


def dropout_key(seed: int, step: int) -> int:
    """The key of the dropout masks of ``step``."""
    return randomness.key(seed, "dropout", step)
