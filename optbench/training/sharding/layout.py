"""The layout of tensors of which every rank holds rows: torch's DTensor, its local part, the same part of others, their bytes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """The rows that this rank holds of ``tensor``, with the same memory; ``tensor`` itself if it is whole."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of ``tensor``, gathered from the ranks if they divide it, which must then call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """The ``tensor`` divided as ``like`` is, where it is whole and ``like`` is divided; every rank must hold it."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    moved = tensor.to(like.device)
    # No rank sends: each keeps its own rows.
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def as_part(rows: Tensor, like: Tensor) -> Tensor:
    """``rows``, what this rank holds of a tensor that is divided as ``like`` is, as that tensor."""
    if not isinstance(like, DTensor):
        return rows
    return DTensor.from_local(
        rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def room_for(like: Tensor, dtype: torch.dtype) -> Tensor:
    """A new tensor with the shape and the division of ``like``."""
    rows: Any = torch.empty_like(local(like), dtype=dtype)
    return as_part(rows, like)


def state_bytes(optimizer: torch.optim.Optimizer, whole: bool = False) -> int:
    """The bytes of the tensors in the state of ``optimizer``, each storage once, and of what it keeps without saving it.

    Of tensors that ranks divide, those of this rank count; if ``whole``, those of all ranks.
    """
    held = {}
    for tensor in _tensors(optimizer.state_dict()):
        own = local(tensor)
        storage = own.untyped_storage()
        divided = whole and own is not tensor
        # Empty parts have no address.
        key = storage.data_ptr() or id(tensor)
        held[key] = tensor.numel() * tensor.element_size() if divided else storage.nbytes()
    return sum(held.values()) + (optimizer.unsaved_bytes() if hasattr(optimizer, "unsaved_bytes") else 0)


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)
