"""Rosenbrock's function: a curved valley with a flat bottom."""

import torch
from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of, numbers
from optbench.data.raw import RawData


class Rosenbrock(Problem):
    """f(x) = Σᵢ (1 - xᵢ)² + 100 (xᵢ₊₁ - xᵢ²)² over i < d, from (-1.2, 1, -1.2, ...); f = 0 at (1, ..., 1).

    With d = 2 the minimum is the only stationary point, and the Hessian there has the eigenvalues 501 ± √250601.

    Source: Rosenbrock 1960, The Computer Journal 3.
    """

    def __init__(self, dimension: int = 2) -> None:
        start = numbers(-1.2, 1.0).repeat((dimension + 1) // 2)[:dimension]
        super().__init__(start, torch.ones(1, dimension, dtype=torch.float64))

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (d,)."""
        before, after = weights[:-1], weights[1:]
        return ((1 - before) ** 2 + 100 * (after - before**2) ** 2).sum()


def load(data_dir: str, dimension: int = 2, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem with ``dimension`` >= 2 weights, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(Rosenbrock(dimension), noise, examples)
