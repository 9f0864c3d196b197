"""Nesterov and Skokov's function: a valley whose length grows exponentially with the number of weights."""

import torch
from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of
from optbench.data.raw import RawData


class NesterovSkokov(Problem):
    """f(x) = ¼ (x₁ - 1)² + Σᵢ (xᵢ₊₁ - 2 xᵢ² + 1)², from (-1, 1, ..., 1), where f = 1; f = 0 at (1, ..., 1).

    The minimum is the only stationary point. On the bottom of the valley xᵢ₊₁ = T₂(xᵢ) with Chebyshev's polynomial T₂, so that xᵢ
    passes through all of [-1, 1] 2^(i-1) times while x₁ goes from -1 to 1.

    Source: Gürbüzbalaban & Overton 2012, "On Nesterov's nonsmooth Chebyshev-Rosenbrock functions" (Nonlinear Analysis 75), of
    which this is the smooth one.
    """

    def __init__(self, dimension: int = 5) -> None:
        start = torch.ones(dimension, dtype=torch.float64)
        start[0] = -1
        super().__init__(start, torch.ones(1, dimension, dtype=torch.float64))

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (d,)."""
        return (weights[0] - 1) ** 2 / 4 + ((weights[1:] - 2 * weights[:-1] ** 2 + 1) ** 2).sum()


def load(data_dir: str, dimension: int = 5, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem with ``dimension`` >= 2 weights, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(NesterovSkokov(dimension), noise, examples)
