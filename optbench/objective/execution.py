"""The evaluation of an objective: its device, ranks, micro-batches and precision, and the network prepared for it."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from optbench.models import checkpointing, layers
from optbench.models.converting import converted
from optbench.objective.vectors import flatten, unflatten

Backward = Callable[[Tensor, bool], None]


def _backward(loss: Tensor, last: bool) -> None:
    loss.backward()


class LossScale:
    """The factor that keeps fp16 gradients from vanishing (Micikevicius et al. 2018, "Mixed precision training").

    If a gradient overflows, the factor is halved and the same batch is evaluated again, so that no step is skipped and the
    closure's contract (a loss and its gradient) holds; after ``growth_interval`` evaluations without overflow it doubles.
    """

    def __init__(self, factor: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.factor, self.growth_interval, self.good = factor, growth_interval, 0

    def grew_too_large(self, parameters: Sequence[nn.Parameter]) -> bool:
        """True if the scaled gradients overflowed, which halves the factor; otherwise they are divided by it."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # The sum of the L1 norms is finite exactly if every element is.
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
        """The factor, and the number of evaluations since its last change."""
        return {"factor": self.factor, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.factor, self.good = state["factor"], state["good"]


@dataclass
class Execution:
    """The settings by which an objective is evaluated; they change its value only by rounding.

    micro_batch: examples in one pass, None for all. adjustable: True if it may be halved where memory runs out. dtype: the
    type in which autocast computes, None for no autocast. world_size: the number of ranks that share the batch. backward:
    differentiates one micro-batch's loss; its flag marks the last one, after which gradients are averaged over ranks. average:
    averages the gradients of parameters over ranks, after backward passes without that flag; None if nothing can.
    clip_norm: the largest global norm of the gradient. cached_graphs: the number of micro-batches whose graphs products with
    second derivatives may keep at a time, None for all.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    micro_batch: int | None = None
    adjustable: bool = False
    dtype: torch.dtype | None = None
    loss_scale: LossScale | None = None
    world_size: int = 1
    rank: int = 0
    backward: Backward = _backward
    average: Callable[[Sequence[nn.Parameter]], None] | None = None
    clip_norm: float | None = None
    cached_graphs: int | None = 1

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of every forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def on_any_rank(self, here: bool) -> bool:
        """True if ``here`` is true on one of the ranks."""
        if self.world_size == 1:
            return here
        found = torch.tensor(float(here), device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)

    def means_over_ranks(self, lists: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Each tensor of ``lists`` as its mean over the ranks, all in one message."""
        tensors = [tensor for each in lists for tensor in each]
        if self.world_size == 1 or not tensors:
            return [list(each) for each in lists]
        means = iter(unflatten(self.mean_over_ranks(flatten(tensors)), tensors))
        return [[next(means) for _ in each] for each in lists]


def is_out_of_memory(error: BaseException) -> bool:
    """True if ``error`` says that a device or the machine has no memory left for a tensor."""
    # torch's allocator of main memory has no type of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


class Network:
    """A model prepared for evaluation in micro-batches, with its parameters, batch norms and dropout layers.

    torch's batch norms and dropouts are replaced in ``model`` by optbench's (``optbench.models.converting``). Raises UserError
    for a layer that cannot be replaced and whose result depends on the division of a batch.
    """

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self.model = model = converted(model)
        self.forward: Callable[[Tensor], Tensor] = model
        self.named_parameters = dict(model.named_parameters())
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.norms = layers.batch_norms(model)
        self.chains = checkpointing.chains(model)
        self.draw = layers.place_dropout(model, device or next(model.parameters()).device)

    def record_norms(self, how: str) -> None:
        """Set the treatment of running statistics in every batch norm: "follow", "record" or "hold"."""
        for norm in self.norms:
            norm.recording = how
