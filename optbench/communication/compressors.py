"""Compressors of single tensors: the largest entries, signs, random levels, and shorter types."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optbench import randomness
from optbench.communication.base import NUMBER, Compressor, Shapes, sizes


class TopK(Compressor):
    """C(p) keeps the k = ⌈ratio d⌉ entries of every tensor of d that are largest in size; a message holds k values and places.

    Stich, Cordonnier & Jaggi 2018 (arXiv 1809.07599): ‖p - C(p)‖² ≤ (1 - k/d) ‖p‖².
    """

    def __init__(
        self, shapes: Shapes, workers: int = 1, ratio: float = 0.01, error_feedback: bool = True, seed: int = 0
    ) -> None:
        super().__init__(shapes, workers, error_feedback, seed)
        self.ratio = ratio

    def kept(self, entries: int) -> int:
        """k of a tensor with this number of ``entries``."""
        # A ratio such as 0.07 is not exact, so that 0.07 * 100 = 7.000000000000001 must not give 8.
        return min(math.ceil(self.ratio * entries * (1 - 1e-12)), entries)

    def sent(self, name: str, tensor: Tensor, worker: int, step: int) -> Tensor:
        """The k largest entries in their places, and zeros."""
        flat = tensor.flatten()
        places = flat.abs().topk(self.kept(len(flat)), sorted=False).indices
        return torch.zeros_like(flat).index_copy_(0, places, flat[places]).view_as(tensor)

    def tensor_bytes(self, shape: Sequence[int]) -> float:
        """8 k: a value and an index of four bytes each."""
        return 2.0 * NUMBER * self.kept(torch.Size(shape).numel())


class Sign(Compressor):
    """C(p) = (‖p‖₁ / d) sign(p) for every tensor of d entries, one bit each; the sign of 0 is +, as there is no third.

    Karimireddy, Rebjock, Stich & Jaggi 2019 (arXiv 1901.09847): ‖p - C(p)‖² = (1 - ‖p‖₁² / (d ‖p‖₂²)) ‖p‖².
    """

    def sent(self, name: str, tensor: Tensor, worker: int, step: int) -> Tensor:
        """The signs, times the mean absolute value."""
        scale = tensor.abs().mean()
        return torch.where(tensor >= 0, scale, -scale)

    def tensor_bytes(self, shape: Sequence[int]) -> float:
        """d / 8 + 4."""
        return torch.Size(shape).numel() / 8 + NUMBER


class QSGD(Compressor):
    """C(p)_i = ‖p‖₂ sign(p_i) ζ_i / s, where ζ_i rounds s |p_i| / ‖p‖₂ up or down at random, without bias.

    Alistarh et al. 2017 (arXiv 1610.02132), for every tensor by itself: E ‖C(p) - p‖² = ‖p‖² Σ f_i (1 - f_i) / s², with f_i
    the fractional part of s |p_i| / ‖p‖₂. The draws are functions of (seed, worker, step, place of the entry).
    """

    def __init__(
        self, shapes: Shapes, workers: int = 1, levels: int = 4, error_feedback: bool = False, seed: int = 0
    ) -> None:
        super().__init__(shapes, workers, error_feedback, seed)
        self.levels = levels
        ends = torch.tensor([0, *sizes(shapes)]).cumsum(0).tolist()
        self._first = dict(zip(shapes, ends, strict=False))

    def sent(self, name: str, tensor: Tensor, worker: int, step: int) -> Tensor:
        """The levels, times norm / s."""
        norm = torch.linalg.vector_norm(tensor)
        size = self.levels * tensor.abs() / torch.where(norm > 0, norm, 1.0)
        down = size.floor()
        places = torch.arange(tensor.numel(), device=tensor.device).view_as(tensor) + self._first[name]
        draws = randomness.uniform(randomness.key(self.seed, f"levels of worker {worker}", step), places)
        rounded: Tensor = norm / self.levels * tensor.sign() * (down + (draws < size - down))
        return rounded

    def tensor_bytes(self, shape: Sequence[int]) -> float:
        """d log₂(2 s + 1) / 8 + 4: what fixed-length codes of 2 s + 1 levels need, and the norm."""
        return torch.Size(shape).numel() * math.log2(2 * self.levels + 1) / 8 + NUMBER


class _Cast(Compressor):
    """C(p) is p rounded to a type of two bytes. The rounded gradients are summed and received in the type of training."""

    dtype: torch.dtype

    def __init__(self, shapes: Shapes, workers: int = 1, error_feedback: bool = False, seed: int = 0) -> None:
        super().__init__(shapes, workers, error_feedback, seed)

    def sent(self, name: str, tensor: Tensor, worker: int, step: int) -> Tensor:
        """The rounded tensor in the type of ``tensor``; infinite where a number is too large for the type."""
        return tensor.to(self.dtype).to(tensor.dtype)

    def tensor_bytes(self, shape: Sequence[int]) -> float:
        """2 d."""
        return 2.0 * torch.Size(shape).numel()


class FP16(_Cast):
    """C(p) is p rounded to float16: 11 bits of precision, 6e-8 to 65504."""

    dtype = torch.float16


class BF16(_Cast):
    """C(p) is p rounded to bfloat16: 8 bits of precision, in the range of float32."""

    dtype = torch.bfloat16
