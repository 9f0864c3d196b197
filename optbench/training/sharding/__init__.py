"""Sharding: which part of the optimizer's state, and of the weights, each of the ranks of a run holds."""

from importlib import import_module

import torch.distributed as dist

from optbench.training.sharding.base import Sharding
from optbench.training.sharding.layout import local, state_bytes, whole

__all__ = ["Sharding", "build", "kind", "local", "state_bytes", "whole"]

# Imported when they are chosen: torch's own optimizers for ranks take a tenth of a second of every process.
_KINDS = {"zero1": "ZeRO1", "fsdp2": "FSDP2"}


def kind(name: str, ranks: int) -> type[Sharding]:
    """The class of ``trainer.sharding=name``; a rank by itself divides nothing."""
    if name == "none" or ranks == 1:
        return Sharding
    found: type[Sharding] = getattr(import_module(f"{__name__}.{name}"), _KINDS[name])
    return found


def build(name: str) -> Sharding:
    """The sharding ``trainer.sharding=name`` over the ranks of the process group."""
    return kind(name, dist.get_world_size())()
