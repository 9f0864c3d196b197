"""How an objective is evaluated: on which device and ranks, in which parts and precision, and the network made ready for it."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from optbench.models import layers
from optbench.models.converting import converted

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
    cached_graphs: how many micro-batches' graphs products with second derivatives may keep at a time, None for all.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    micro_batch: int | None = None
    dtype: torch.dtype | None = None
    loss_scale: LossScale | None = None
    world_size: int = 1
    rank: int = 0
    backward: Backward = _backward
    clip_norm: float | None = None
    cached_graphs: int | None = 1

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
    """A model made ready to be evaluated in parts: its parameters, batch norms and dropout layers found once.

    torch's batch norms and dropouts are replaced in ``model`` by ours (``optbench.models.converting``). Raises UserError for a
    layer that cannot be replaced and whose result depends on how a batch is cut.
    """

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self.model = model = converted(model)
        self.forward: Callable[[Tensor], Tensor] = model
        self.named_parameters = dict(model.named_parameters())
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.norms = layers.batch_norms(model)
        self.draw = layers.place_dropout(model, device or next(model.parameters()).device)

    def record_norms(self, how: str) -> None:
        """Set how every batch norm treats its running statistics: "follow", "record" or "hold"."""
        for norm in self.norms:
            norm.recording = how
