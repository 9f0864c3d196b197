"""The contract of sharding, and its simplest case: every rank holds everything."""

from typing import Any

import torch
from torch import Tensor, nn

from optbench.objective.execution import Backward
from optbench.training.sharding.layout import state_bytes

#: The way to a tensor in the state of training: the keys of nested dictionaries.
Place = tuple[str | int, ...]
# Options of parameter groups that choose a kernel, which each sharding chooses for itself.
_KERNELS = ("fused", "foreach")


class Sharding:
    """Every rank holds all weights and the whole state of the optimizer.

    A subclass divides some of them over the ranks of the process group. Whatever it divides, all ranks take the same steps at
    the same time. The state of training has the same structure under every sharding: tensors of which this rank holds rows are
    DTensors, and those that only another rank holds are left out. divides: True if some of it is not on every rank.
    wraps: True if DistributedDataParallel averages the gradients.
    """

    divides = False
    wraps = True
    #: The whole model on the meta device, where that cannot be copied from the model any more.
    blueprint: nn.Module | None = None

    def divide(self, model: nn.Module, device: torch.device) -> None:
        """Divide the weights of ``model``, which are the same on all ranks, and move the part of this rank to ``device``."""

    def over(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer that steps in place of ``optimizer``, which has been built for all parameters and taken no step."""
        return optimizer

    def held(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer with the state of this rank, of one that `over` gave."""
        return optimizer

    def backward(self) -> Backward | None:
        """A backward pass that averages gradients over the ranks; None where DistributedDataParallel, or nobody, does it."""
        return None

    def count(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember what `whole_state_bytes` needs of the other ranks; all ranks call it together, at the end of training."""

    def whole_state_bytes(self, optimizer: torch.optim.Optimizer) -> int:
        """The bytes of the optimizer's state (`state_bytes`) on all ranks that divide it, as if on one."""
        return state_bytes(optimizer, whole=True)

    def leave(self) -> None:
        """Drop all references to the process group, which will be destroyed."""

    @classmethod
    def tensors_held(cls, state: float, ranks: int) -> float:
        """The tensors of the size of all weights that a rank holds: weights, gradients, and ``state`` of the optimizer."""
        return 2 + state

    @classmethod
    def bytes_gathered(cls, model: nn.Module) -> int:
        """The bytes that a rank holds in addition while it passes through ``model``."""
        return 0

    # ---- state for checkpoints ------------------------------------------------------------------------------------------

    def is_part(self, place: Place, tensor: Tensor) -> bool:
        """True if ``tensor``, at ``place`` in the state of training, is not on all ranks, or not whole."""
        return False

    def room(self, place: Place, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """A new tensor for what this rank needs of a tensor that a checkpoint holds at ``place``; None if it needs nothing."""
        return torch.empty(shape, dtype=dtype)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state dict of the optimizer, with parameters numbered by their places in all groups; all ranks call it together."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Continue from ``optimizer_state`` of any sharding and number of ranks."""
        optimizer.load_state_dict(self.with_own_kernels(optimizer, state))

    def load_weights(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Load the state dict of a model of any sharding."""
        model.load_state_dict(state)

    @staticmethod
    def with_own_kernels(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """A state dict of ``optimizer`` whose groups name the kernels that it has by now."""
        groups = [
            group | {name: own[name] for name in _KERNELS if name in own}
            for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
        ]
        return {**state, "param_groups": groups}
