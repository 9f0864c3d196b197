"""Looking at a model with other parameters than its own, which it has again afterwards, bit for bit."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


@contextlib.contextmanager
def kept(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Within it the ``tensors`` may change; afterwards, an exception included, they hold what a saved copy holds.

    Gives that copy. Values are copied back, never subtracted, so that nothing drifts however often they change.
    """
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield saved
    finally:
        place(tensors, saved)


@torch.no_grad()
def place(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write ``values`` into ``tensors``, of the same shapes, in place.

    The storage stays where it is, and the version counters move: an objective sees that its kept graphs are stale.
    Raises ValueError, before anything is written, where numbers or shapes of the tensors differ.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors]
    given = [tuple(value.shape) for value in values]
    if shapes != given:
        raise ValueError(f"tensors of shapes {given} cannot take the place of tensors of shapes {shapes}")
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
