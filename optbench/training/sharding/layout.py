"""The layout of tensors of which every rank holds rows: torch's DTensor, its local part, and the same part of others."""

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
