"""Low-rank matrix factorization: every minimum is global, and 0 is a saddle point."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optbench import randomness
from optbench.data.problems.problem import Problem, examples_of
from optbench.data.quadratic import haar_rotation
from optbench.data.raw import RawData
from optbench.errors import UserError


class MatrixFactorization(Problem):
    """f(U, V) = ½ ‖U Vᵀ - M‖² for U (rows, k), V (columns, k) and a matrix M with the singular values σ₁ >= σ₂ >= ...

    The weights are the rows of U, then those of V. The minimum is ½ Σ_{i>k} σᵢ², at the best approximation of M of rank k, and
    there are no other minima. ``minimizers`` holds one point of infinitely many, with UᵀU = VᵀV. At the saddle point 0 the
    smallest eigenvalue of the Hessian is -σ₁. Gradient flow keeps UᵀU - VᵀV; gradient descent does so for small steps.

    Source: Baldi & Hornik 1989, "Neural networks and principal component analysis" (Neural Networks 2).
    """

    target: Tensor

    def __init__(self, target: Tensor, rank: int, start: Tensor) -> None:
        left, sizes, right = torch.linalg.svd(target, full_matrices=False)
        roots = sizes[:rank].sqrt()
        best = torch.cat([(left[:, :rank] * roots).flatten(), (right[:rank].T * roots).flatten()])
        super().__init__(
            start, best[None], minimum=float((sizes[rank:] ** 2).sum()) / 2, saddles=torch.zeros_like(best)[None]
        )
        self.rank = rank
        self.register_buffer("target", target, persistent=False)

    def factors(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """U (rows, k) and V (columns, k) of ``weights``."""
        rows, columns = self.target.shape
        left, right = weights.split([rows * self.rank, columns * self.rank])
        return left.view(rows, self.rank), right.view(columns, self.rank)

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (k (rows + columns),)."""
        left, right = self.factors(weights)
        return ((left @ right.T - self.target) ** 2).sum() / 2


def matrix_with(singular_values: Sequence[float], rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A matrix (rows, columns), float64, with ``singular_values``, and 0 for the others, and random singular vectors."""
    count = len(singular_values)
    left, right = haar_rotation(rows, generator)[:, :count], haar_rotation(columns, generator)[:, :count]
    return left * torch.tensor(singular_values, dtype=torch.float64) @ right.T


def load(
    data_dir: str,
    rows: int = 6,
    columns: int = 5,
    rank: int = 2,
    singular_values: Sequence[float] = (3.0, 2.0, 1.0, 0.5),
    start_size: float = 0.1,
    generation_seed: int = 0,
    noise: float = 0.0,
    examples: int = 1000,
) -> RawData:
    """The problem with M of random singular vectors, from weights with the standard deviation ``start_size``.

    ``data_dir`` is not used. Raises UserError for more singular values, or a larger rank, than M has rows or columns.
    """
    most = min(rows, columns)
    for name, shown, count in (
        ("singular_values", list(singular_values), len(singular_values)), ("rank", rank, rank),
    ):  # fmt: skip
        if count > most:
            raise UserError(f"dataset.{name}={shown}: more than M of {rows} x {columns} has; accepted: at most {most}")
    generator = randomness.generator(generation_seed, "matrix factorization")
    target = matrix_with(singular_values, rows, columns, generator)
    start = start_size * torch.randn(rank * (rows + columns), dtype=torch.float64, generator=generator)
    return examples_of(MatrixFactorization(target, rank, start), noise, examples)
