"""Beale's function of three weights, from all points of a grid at once."""

import torch
from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of
from optbench.data.raw import RawData

FROZEN = 1e20  # a value above which a start does not move by its gradient any more, so that the sum stays finite
DIVERGED = 1e6


class BealeStarts(Problem):
    """Σ f(x, y, z) over the points of a grid, each with weights of its own; f(x, y, z) = b(x, y) + b(z, y), 0 at (3, ½, 3).

    b is Beale's function (see ``optbench.data.problems.beale``). The grid has all points of {-extent, ..., extent}³, 125 of them
    with 2; the weights are x, y, z of the first point, then of the next one. ``shift`` moves grid and minimum, f(θ - shift).
    Starts do not act on one another: a method that treats weights one by one, or in blocks of three, makes as many runs as there
    are starts. The gradient is that of the sum, and 0 for a start with f > 1e20.

    Source: Duda, the notebook of the subspace variant of OGR (see ``optbench.optimizers.ogr``).
    """

    def __init__(self, extent: int = 2, shift: float = 0.0) -> None:
        side = torch.arange(-extent, extent + 1, dtype=torch.float64)
        grid = torch.cartesian_prod(side, side, side).flatten()
        best = torch.tensor([3.0, 0.5, 3.0], dtype=torch.float64).repeat(len(grid) // 3)
        super().__init__(grid + shift, best[None] + shift)
        self.shift = shift

    def values(self, weights: Tensor) -> Tensor:
        """f of every start, (starts,), from ``weights``, (3 starts,)."""
        x, y, z = (weights - self.shift).view(-1, 3).unbind(1)
        values = torch.zeros_like(x)
        for u in (x, z):
            values = values + (1.5 - u + u * y) ** 2 + (2.25 - u + u * y**2) ** 2 + (2.625 - u + u * y**3) ** 2
        return values

    def forward(self, weights: Tensor) -> Tensor:
        """The sum of f over the starts."""
        return self.values(weights).clamp(max=FROZEN).sum()

    def evaluated(self, weights: Tensor) -> Tensor:
        """The mean over starts of ln f, 0-d, in which f >= 1e6 and NaN count as 1e6: the logarithm of a geometric mean."""
        return self.values(weights).nan_to_num(DIVERGED).clamp(1e-300, DIVERGED).log().mean()


def load(data_dir: str, extent: int = 2, shift: float = 0.0, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem from (2 ``extent`` + 1)³ starts, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(BealeStarts(extent, shift), noise, examples)
