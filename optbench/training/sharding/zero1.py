"""ZeRO stage 1: every rank holds the optimizer's state of some of the parameters."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

from optbench.training.sharding.base import Place, Sharding
from optbench.training.sharding.layout import state_bytes


class ZeRO1(Sharding):
    """Each rank updates some of the parameters, with their state, and sends them to the others.

    Rajbhandari, Rasley, Ruwase & He 2020 (arXiv 1910.02054), P_os, by torch's ZeroRedundancyOptimizer. Tensors stay whole: the
    largest go first, each to the rank with the fewest entries so far. Weights and gradients are whole on every rank. Per
    parameter of 4 bytes with a state of s bytes, a rank of N holds 4 + 4 + s/N bytes. It is right for methods whose update of
    a tensor depends on that tensor alone, and equal to the whole optimizer bit for bit.
    """

    divides = True

    def __init__(self) -> None:
        self._numbers: dict[Tensor, int] = {}  # of all parameters, in the order of the groups
        self._own: list[int] = []  # those of this rank, in the order of its groups
        self._bytes = 0
        self._optimizer: ZeroRedundancyOptimizer | None = None

    def over(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """``optimizer`` for the parameters of this rank, whose groups follow those of all parameters."""

        def restricted(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            optimizer.param_groups = groups
            own = {parameter for group in groups for parameter in group["params"]}
            for parameter in set(optimizer.state) - own:  # some methods make their state when they are built
                del optimizer.state[parameter]
            return optimizer

        groups = [dict(group) for group in optimizer.param_groups]
        found = ZeroRedundancyOptimizer(groups, restricted)  # type: ignore[arg-type]  # called like a class
        self._numbers = {parameter: number for number, parameter in enumerate(_parameters(found))}
        self._own = [self._numbers[parameter] for parameter in _parameters(found.optim)]
        self._optimizer = found
        return found

    def held(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The optimizer for the parameters of this rank."""
        return optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer

    def count(self, optimizer: torch.optim.Optimizer) -> None:
        """Add up the bytes of all ranks."""
        counted = [0] * dist.get_world_size()
        dist.all_gather_object(counted, state_bytes(self.held(optimizer)))
        self._bytes = sum(counted)

    def whole_state_bytes(self, optimizer: torch.optim.Optimizer) -> int:
        """The sum over ranks that `count` has found."""
        return self._bytes

    @classmethod
    def tensors_held(cls, state: float, ranks: int) -> float:
        """2 + state / N."""
        return 2 + state / ranks

    def leave(self) -> None:
        """Drop the reference to the process group."""
        if self._optimizer is not None:
            self._optimizer.process_group = None

    def is_part(self, place: Place, tensor: Tensor) -> bool:
        """True for the optimizer's state."""
        return place[:2] == ("optimizer", "state")

    def room(self, place: Place, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """A whole tensor, unless it belongs to the state of another rank's parameter."""
        if place[:2] == ("optimizer", "state") and place[2] not in self._own:
            return None
        return torch.empty(shape, dtype=dtype)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The tensors of this rank's parameters, the plain values of all parameters, and the groups of all."""
        own = {self._own[number]: each for number, each in self.held(optimizer).state_dict()["state"].items()}
        plain = {
            number: {name: value for name, value in each.items() if not isinstance(value, Tensor)}
            for number, each in own.items()
        }
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, plain)
        state = {number: each for of_rank in gathered for number, each in of_rank.items()} | own
        groups = [
            {**group, "params": [self._numbers[parameter] for parameter in group["params"]]}
            for group in optimizer.param_groups
        ]
        return {"state": {number: state[number] for number in sorted(state)}, "param_groups": groups}

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load the groups, and the state of this rank's parameters."""
        state = self.with_own_kernels(optimizer, state)
        held = self.held(optimizer)
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        own = {place: state["state"][number] for place, number in enumerate(self._own) if number in state["state"]}
        places = iter(range(len(self._own)))
        groups = [
            {**saved, "params": [next(places) for _ in group["params"]]}
            for group, saved in zip(held.param_groups, state["param_groups"], strict=True)
        ]
        held.load_state_dict({"state": own, "param_groups": groups})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
