"""Fully sharded data parallelism: every rank holds rows of every tensor."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from optbench.models.converting import converted
from optbench.models.model_size import without_values
from optbench.objective.execution import Backward
from optbench.training.sharding.base import Place, Sharding
from optbench.training.sharding.layout import local, part_of, room_for


class FSDP2(Sharding):
    """Each rank holds rows of every weight, gradient and tensor of state, and gathers a block of weights for its passes.

    Zhao et al. 2023, "PyTorch FSDP" (arXiv 2304.11277), in the form of torch's `fully_shard`; ZeRO stage 3 of Rajbhandari et al.
    2020. Blocks are the members of the containers of a model (nn.Sequential, nn.ModuleList), and the rest of it. Per parameter
    of 4 bytes with a state of s bytes, a rank of N holds (4 + 4 + s)/N bytes, and one gathered block with its gradient.

    Weights are gathered anew for every pass, so that between passes every rank holds its rows only, which is what optimizers and
    averages change. Gradients are means over the ranks, after the last micro-batch.
    """

    divides = True
    wraps = False

    def __init__(self) -> None:
        self._root: FSDPModule | None = None
        self._weights: dict[str, Tensor] = {}  # by the names of the state dict
        self._parameters: list[Tensor] = []  # of the optimizer, in the order of its groups

    def divide(self, model: nn.Module, device: torch.device) -> None:
        """Turn the parameters into DTensors, of which each rank keeps its rows."""
        model = converted(model)
        self.blueprint = without_values(model)
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for block in [*blocks(model), model]:
            # The root, too: a pass without gradients would leave it gathered, while averages change its rows.
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        assert isinstance(model, FSDPModule)
        self._root = model
        self._weights = model.state_dict(keep_vars=True)

    def over(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """``optimizer`` itself, which has been built for the divided parameters."""
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return optimizer

    def backward(self) -> Backward:
        """Gradients accumulate on each rank, and are averaged and divided after the last micro-batch."""
        root = self._root
        assert root is not None

        def backward(loss: Tensor, last: bool) -> None:
            root.set_requires_gradient_sync(last)
            loss.backward()

        return backward

    @classmethod
    def tensors_held(cls, state: float, ranks: int) -> float:
        """(2 + state) / N."""
        return (2 + state) / ranks

    @classmethod
    def bytes_gathered(cls, model: nn.Module) -> int:
        """The weights and gradients of the rest of the model, which outlasts its blocks, and of the largest block."""
        sizes = [sum(map(_nbytes, block.parameters())) for block in blocks(model)]
        return 2 * (sum(map(_nbytes, model.parameters())) - sum(sizes) + max(sizes, default=0))

    def leave(self) -> None:
        """Drop the reference to the divided model."""
        self._root = None

    def is_part(self, place: Place, tensor: Tensor) -> bool:
        """True for tensors of which this rank holds rows."""
        return isinstance(tensor, DTensor)

    def room(self, place: Place, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """A divided tensor for weights, their average, and state of the shape of its parameter; else a whole one."""
        like = self._like(place)
        return torch.empty(shape, dtype=dtype) if like is None or like.shape != shape else room_for(like, dtype)

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
        """Load the state; of whole tensors of the shape of their parameter, the rows of this rank."""
        entries = state["state"]
        assert isinstance(entries, dict)
        divided = {
            number: {name: self._divided(value, self._parameters[number]) for name, value in each.items()}
            for number, each in entries.items()
        }
        super().load_optimizer_state(optimizer, {**state, "state": divided})

    @torch.no_grad()
    def load_weights(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Load a state dict with whole or divided tensors."""
        own = model.state_dict(keep_vars=True)
        divided = {name: tensor for name, tensor in own.items() if isinstance(tensor, DTensor)}
        for name, tensor in divided.items():
            local(tensor).copy_(local(part_of(state[name], tensor)))
        for name in own.keys() - divided.keys():
            own[name].copy_(state[name])

    def _like(self, place: Place) -> Tensor | None:
        if place[:2] == ("optimizer", "state"):
            return self._parameters[int(place[2])]
        return self._weights.get(str(place[-1])) if place[0] in ("model", "average") else None

    @staticmethod
    def _divided(value: object, parameter: Tensor) -> object:
        return part_of(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the containers of ``model`` that have parameters of their own, from the outside; none lies in another.

    A block that shares a parameter with another part of the model is left to the rest of it.
    """
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if _is_container(module) and not _is_container(child):
                if any(True for _ in child.parameters()):
                    found.append(child)
            else:
                visit(child)

    visit(model)
    uses: dict[Tensor, set[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses.setdefault(parameter, set()).add(module)
    return [
        block
        for block in dict.fromkeys(found)
        if all(uses[parameter] <= set(block.modules()) for parameter in block.parameters())
    ]


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)
