"""Rows of standard normal numbers without end, each a pure function of the seed of a run and its number."""

import torch
from torch import Tensor

from optbench import randomness

_BLOCK = 2**14  # numbers drawn at a time: enough to hide the cost of a call, few enough to stay in a cache


class NormalRows:
    """Rows of ``width`` standard normal numbers, on the CPU. They are drawn in blocks, of which the last one is kept."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._rows = max(_BLOCK // width, 1)
        # The last block of which a part was needed, with its seed and number.
        self._block: tuple[tuple[int, int], Tensor] | None = None

    def draw(self, first: int, count: int, seed: int, dtype: torch.dtype) -> Tensor:
        """The rows ``first .. first + count - 1`` of the run with ``seed``, (count, width)."""
        found, at = torch.empty(count, self.width), 0  # in float32, which takes a sixth of the time
        while at < count:
            number, start = divmod(first + at, self._rows)
            part = found[at : at + self._rows - start]
            if len(part) == self._rows:
                self._fill(part, seed, number)
            else:
                part.copy_(self._kept(seed, number)[start : start + len(part)])
            at += len(part)
        return found.to(dtype)

    def _kept(self, seed: int, number: int) -> Tensor:
        """A block of which batches take parts."""
        if self._block is None or self._block[0] != (seed, number):
            rows = torch.empty(self._rows, self.width)
            self._fill(rows, seed, number)
            self._block = (seed, number), rows
        return self._block[1]

    def _fill(self, rows: Tensor, seed: int, number: int) -> None:
        rows.normal_(generator=randomness.generator(seed, "noise of examples", number))
