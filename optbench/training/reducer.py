"""Means of gradients over ranks, by the reducer of DistributedDataParallel."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.overrides.distributed import prepare_for_backward
from torch import Tensor, nn


class Reducer:
    """Averages the gradients of the parameters of ``replica`` during a backward pass, or after several.

    The first way sends gradients while others are computed. The second way lets a rank repeat a pass that has failed, as
    nothing has been sent.
    """

    def __init__(self, replica: nn.parallel.DistributedDataParallel) -> None:
        self._replica = replica

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate the gradient of ``loss``; if it is the ``last`` one of a batch, average the sum of all."""
        self._replica.require_backward_grad_sync = last
        prepare_for_backward(self._replica, loss)
        loss.backward()

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients that ``parameters`` have: the reducer takes them for those of a backward pass."""
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        self.backward(_Given.apply(gradients, *parameters), True)  # type: ignore[no-untyped-call]


class _Given(torch.autograd.Function):
    """A number whose derivatives in the parameters are given."""

    @staticmethod
    def forward(ctx: Any, derivatives: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.derivatives = derivatives
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Any, ...]:
        return None, *ctx.derivatives
