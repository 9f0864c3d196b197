"""Counter-based random numbers: every draw is a pure function of its purpose and position.

A draw is named by a key (seed, purpose, step) and by a position, such as an example's place in the global batch. No
generator state exists, so a run can resume anywhere, and the draws do not depend on how the batch is divided into
micro-batches or over ranks, nor on the device. The idea is Salmon et al. (2011), "Parallel random numbers: as easy as
1, 2, 3"; the mixing function is a multiply-and-shift hash of 32-bit words (its constant was found by Thomas Mueller).
"""

import hashlib

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIER = 0x45D9F3B  # below 2**27, so that the product with a 32-bit word fits a signed 64-bit integer


def key(seed: int, purpose: str, step: int = 0) -> int:
    """A 32-bit key for the draws of one ``purpose`` at one ``step`` of the run seeded with ``seed``."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def _mix(word: Tensor) -> Tensor:
    word = (((word >> 16) ^ word) * _MULTIPLIER) & _WORD
    word = (((word >> 16) ^ word) * _MULTIPLIER) & _WORD
    return (word >> 16) ^ word


def scattered(position: Tensor) -> Tensor:
    """The part of ``bits`` that does not depend on the key; store it if the same positions are used at every step."""
    return _mix(position & _WORD)


def keyed(draw_key: int | Tensor, scattered_position: Tensor) -> Tensor:
    """The part of ``bits`` that uses the key: ``bits(draw_key, position)`` is ``keyed(draw_key, scattered(position))``."""
    return _mix(scattered_position ^ draw_key)


def bits(draw_key: int | Tensor, position: Tensor) -> Tensor:
    """Hash every ``position`` (int64, any shape) under ``draw_key`` to int64 values uniform on 0 .. 2**32 - 1.

    Positions count modulo 2**32.
    """
    return keyed(draw_key, scattered(position))


def uniform(draw_key: int | Tensor, position: Tensor) -> Tensor:
    """Uniform float32 draws on [0, 1), one for each ``position`` (int64, any shape)."""
    # A float32 holds the upper 24 bits exactly, so that the result never rounds up to 1.
    return (bits(draw_key, position) >> 8).to(torch.float32) * 2.0**-24


def normal(draw_key: int | Tensor, position: Tensor) -> Tensor:
    """Standard normal float64 draws, one for each ``position`` (int64, any shape), between -5.4 and 5.4."""
    return normal_of(uniform(draw_key, position))


def normal_of(uniforms: Tensor) -> Tensor:
    """Standard normal float64 draws from ``uniforms``, float32 draws on [0, 1), by the inverse of the distribution function."""
    # Half of the spacing of float32 draws keeps 0 from becoming minus infinity.
    found: Tensor = torch.special.ndtri(uniforms.to(torch.float64) + 2.0**-25)
    return found


def integers(draw_key: int | Tensor, position: Tensor, high: int) -> Tensor:
    """Integers uniform on 0 .. high - 1 (int64), one for each ``position``; ``high`` must be below 2**31."""
    return (bits(draw_key, position) * high) >> 32


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator seeded by the key of (seed, purpose, step), for draws made once, such as initial weights."""
    return torch.Generator().manual_seed(key(seed, purpose, step))


def permutation(seed: int, purpose: str, epoch: int, length: int) -> Tensor:
    """A random permutation of 0 .. length - 1 (int64, on the CPU), the same on every machine and rank."""
    return torch.randperm(length, generator=generator(seed, purpose, epoch))
