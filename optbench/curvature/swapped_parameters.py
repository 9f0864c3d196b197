"""Temporarily replace a model's parameters and restore them exactly."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


@contextlib.contextmanager
def kept(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Within this context the ``tensors`` may change; afterwards, even after an exception, their values are restored.

    Yields a copy of the values. They are copied back, never computed back, so that repeated changes add no rounding errors.
    """
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield saved
    finally:
        place(tensors, saved)


@torch.no_grad()
def place(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write ``values`` into ``tensors``, of the same shapes, in place.

    The storage stays the same, and the version counters change, so that an objective detects that its kept graphs are stale.
    Raises ValueError, before anything is written, if the numbers or shapes of the tensors differ.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors]
    given = [tuple(value.shape) for value in values]
    if shapes != given:
        raise ValueError(f"tensors of shapes {given} cannot take the place of tensors of shapes {shapes}")
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
