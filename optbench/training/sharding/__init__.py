"""Sharding: which part of the optimizer's state, and of the weights, each of the ranks of a run holds."""

import torch.distributed as dist

from optbench.training.sharding.base import Sharding
from optbench.training.sharding.fsdp2 import FSDP2
from optbench.training.sharding.layout import local, state_bytes, whole
from optbench.training.sharding.zero1 import ZeRO1

__all__ = ["Sharding", "build", "kind", "local", "state_bytes", "whole"]

_KINDS: dict[str, type[Sharding]] = {"none": Sharding, "zero1": ZeRO1, "fsdp2": FSDP2}


def kind(name: str, ranks: int) -> type[Sharding]:
    """The class of ``trainer.sharding=name``; a rank by itself divides nothing."""
    return _KINDS[name] if ranks > 1 else Sharding


def build(name: str) -> Sharding:
    """The sharding ``trainer.sharding=name`` over the ranks of the process group."""
    return kind(name, dist.get_world_size())()
