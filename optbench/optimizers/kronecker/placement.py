"""The assignment of layers to the ranks that invert their factors and keep the inverses: the grid of KAISA.

The ranks form a grid of ``workers`` rows, with one column for each share of the layers. A layer belongs to one column. One
rank of the column inverts the layer's factors and sends the inverses to the other ranks of the column. All of them
precondition the layer's gradient, and each sends the result along its row. One column: every rank keeps all inverses, and
only inverses are sent (the least communication). One row: each inverse is on one rank (the least memory).

Source: Pauloski et al. 2021, "KAISA: an adaptive second-order optimizer framework for deep neural networks", arXiv 2107.01739.
"""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from optbench.objective.vectors import flatten, unflatten


class Placement:
    """The grid of the ranks, and the layers' places in it, from the cost of each layer.

    fraction: of the ranks that keep a layer's inverses: 1 for all, 0 (or 1 / ranks) for one; rounded down to a divisor of
    the number of ranks. All ranks must construct it together.
    """

    def __init__(self, world_size: int, rank: int, fraction: float, costs: Sequence[float]) -> None:
        self.world_size, self.rank = world_size, rank
        wanted = max(1.0, fraction * world_size)
        self.workers = max(
            number for number in range(1, world_size + 1) if world_size % number == 0 and number <= wanted
        )
        self.columns = world_size // self.workers
        loads = [0.0] * world_size
        self.owners = [0] * len(costs)
        # The most expensive layer first, each to the column with the smallest load, and there to such a rank.
        for layer in sorted(range(len(costs)), key=lambda layer: -costs[layer]):
            column = min(range(self.columns), key=lambda column: sum(loads[rank] for rank in self._column(column)))
            owner = min(self._column(column), key=lambda rank: loads[rank])
            self.owners[layer] = owner
            loads[owner] += costs[layer]
        # All ranks take part in making every group, in the same order.
        made_columns = [self._group(self._column(number)) for number in range(self.columns)]
        made_rows = [self._group(self._row(number)) for number in range(self.workers)]
        self._my_column, self._my_row = made_columns[rank % self.columns], made_rows[rank // self.columns]

    def _column(self, number: int) -> list[int]:
        return list(range(number, self.world_size, self.columns))

    def _row(self, number: int) -> list[int]:
        return list(range(number * self.columns, (number + 1) * self.columns))

    def _group(self, ranks: list[int]) -> dist.ProcessGroup | None:
        return dist.new_group(ranks) if 1 < len(ranks) < self.world_size else None

    def owns(self, layer: int) -> bool:
        """True if this rank inverts the factors of ``layer``."""
        return self.owners[layer] == self.rank

    def keeps(self, layer: int) -> bool:
        """True if this rank keeps the inverses of ``layer`` and preconditions its gradient."""
        return self.owners[layer] % self.columns == self.rank % self.columns

    def share_in_column(self, tensors: Sequence[Sequence[Tensor]]) -> None:
        """Fill ``tensors``, some for each layer that this rank keeps and none for other layers, from the layers' owners."""
        if self.workers > 1:
            for owner in self._column(self.rank % self.columns):
                mine = [tensor for layer, each in enumerate(tensors) if self.owners[layer] == owner for tensor in each]
                _broadcast(mine, owner, self._my_column)

    def share_in_row(self, tensors: Sequence[Tensor]) -> None:
        """Fill ``tensors``, one for each layer, from the rank of this rank's row that keeps the layer."""
        if self.columns > 1:
            for source in self._row(self.rank // self.columns):
                column = source % self.columns
                theirs = [tensor for layer, tensor in enumerate(tensors) if self.owners[layer] % self.columns == column]
                _broadcast(theirs, source, self._my_row)


def _broadcast(tensors: Sequence[Tensor], source: int, group: dist.ProcessGroup | None) -> None:
    """Send ``tensors`` of one type, filled in place, from ``source`` to the others of ``group`` in one message."""
    if not tensors:
        return
    flat = flatten(tensors)
    dist.broadcast(flat, source, group=group)
    for tensor, part in zip(tensors, unflatten(flat, tensors), strict=True):
        tensor.copy_(part)
