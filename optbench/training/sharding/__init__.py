"""Sharding: which part of the optimizer's state, and of the weights, each of the ranks of a run holds."""

import torch.distributed as dist

from optbench.training.sharding.base import Sharding
from optbench.training.sharding.fsdp2 import FSDP2
from optbench.training.sharding.layout import local, part_of
from optbench.training.sharding.zero1 import ZeRO1

__all__ = ["Sharding", "build", "local", "part_of"]

_KINDS: dict[str, type[Sharding]] = {"none": Sharding, "zero1": ZeRO1, "fsdp2": FSDP2}


def build(name: str) -> Sharding:
    """The sharding ``trainer.sharding=name`` over the ranks of the process group; a process by itself divides nothing."""
    return _KINDS[name]() if dist.is_initialized() and dist.get_world_size() > 1 else Sharding()
