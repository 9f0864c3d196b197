"""Local SGD: workers take steps of their own, and average their weights now and then."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optbench.communication.base import Communication, Shapes, dense_bytes

#: Evaluates a worker's loss and its gradient at the present parameters of the model.
Closure = Callable[[], Any]


class LocalSGD(Communication):
    """Worker w takes steps on its share of every batch, x_w ← x_w - step(∇f_w(x_w)); every H steps x_w ← mean of all x_v.

    Stich 2019 (arXiv 1805.09767). With ``start`` it is post-local SGD (Lin et al. 2020, arXiv 1808.07217): before, a step is
    one of the whole batch. Every worker has an optimizer state of its own, which is never averaged; each begins with a copy of
    the state there is at ``start``. Clipping applies to every worker's gradient.

    Between steps the model holds the mean of the x_w, which is what is evaluated and measured, and the final model.

    period: H. start: the number of steps before the first local one.
    """

    def __init__(self, shapes: Shapes, workers: int = 1, period: int = 8, start: int = 0, seed: int = 0) -> None:
        super().__init__(shapes, workers)
        self.period, self.start = period, start
        # Of the workers of this rank, by their numbers, from the first local step on.
        self.weights: dict[int, list[Tensor]] = {}
        self.optimizers: dict[int, torch.optim.Optimizer] = {}
        self._parameters: list[nn.Parameter] = []
        self._mean: list[Tensor] = []

    @property
    def has_begun(self) -> bool:
        """True if the workers have weights of their own."""
        return bool(self.weights)

    def is_local(self, step: int) -> bool:
        """True if the workers take ``step`` by themselves."""
        return step >= self.start

    def ends_period(self, step: int) -> bool:
        """True if the weights are averaged after the local ``step``."""
        return (step + 1 - self.start) % self.period == 0

    def bytes_per_step(self, steps: int) -> float:
        """4 d for every dense step and every average of the weights, over ``steps``: 4 d / H of whole periods."""
        dense = min(self.start, steps)
        return dense_bytes(self.shapes) * (dense + (steps - dense) // self.period) / max(steps, 1)

    def begin(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        make_optimizer: Callable[[], torch.optim.Optimizer],
    ) -> None:
        """Give every worker of this rank the present values of ``parameters`` and a copy of the state of ``optimizer``.

        The first of them keeps ``optimizer`` itself. ``make_optimizer``: another one for the same parameters.
        """
        self._parameters = list(parameters)
        self._mean = [parameter.data for parameter in parameters]
        for worker in self.held:
            self.weights[worker] = [parameter.detach().clone() for parameter in parameters]
            if worker == self.held[0]:
                self.optimizers[worker] = optimizer
                continue
            self.optimizers[worker] = own = make_optimizer()
            # Loading does not copy tensors of the right type.
            own.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def step(self, step: int, closure: Callable[[int], Closure]) -> None:
        """Take ``step`` with every worker of this rank, and leave the mean of all workers' weights in the model.

        closure: the number of a worker -> its closure, which is called while the model holds the worker's weights.
        """
        for worker in self.held:
            for parameter, own in zip(self._parameters, self.weights[worker], strict=True):
                parameter.data = own
            self.optimizers[worker].step(closure(worker))
            self.weights[worker] = [parameter.data for parameter in self._parameters]
        with torch.no_grad():
            torch._foreach_copy_(self._mean, self.mean_over_workers([self.weights[worker] for worker in self.held]))
            if self.ends_period(step):
                for weights in self.weights.values():
                    torch._foreach_copy_(weights, self._mean)
        for parameter, mean in zip(self._parameters, self._mean, strict=True):
            parameter.data = mean

    def memories(self) -> dict[int, Any]:
        """The weights by name, and the optimizer's state, of each worker of this rank; nothing before the first local step."""
        return {
            worker: {
                "weights": dict(zip(self.shapes, weights, strict=True)),
                "optimizer": self.optimizers[worker].state_dict(),
            }
            for worker, weights in self.weights.items()
        }

    def load_memory(self, worker: int, memory: Any) -> None:
        """Continue as ``worker``, after ``begin``."""
        own = [memory["weights"][name].to(self.execution.device) for name in self.shapes]
        torch._foreach_copy_(self.weights[worker], own)
        self.optimizers[worker].load_state_dict(copy.deepcopy(memory["optimizer"]))
