"""Low-rank matrices from a part of what is known of them: random products, or some of the entries."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optbench import randomness
from optbench.data.problems.matrix_factorization import MatrixFactorization, matrix_with
from optbench.data.problems.problem import examples_of
from optbench.data.raw import RawData
from optbench.errors import UserError


class MatrixSensing(MatrixFactorization):
    """f(U, V) = s/2 Σᵢ ⟨Aᵢ, U Vᵀ - M⟩², where M has at most the rank k, so that f = 0 at its factors.

    measurements: (m, rows, columns), the Aᵢ. scale: s. The mean of f over the draws of A is that of `MatrixFactorization`,
    ½ ‖U Vᵀ - M‖², for Gaussian entries with s = 1/m, and for single entries without replacement with s = rows · columns / m.
    At the saddle point 0 the smallest eigenvalue of the Hessian is minus the largest singular value of s Σᵢ ⟨Aᵢ, M⟩ Aᵢ. With
    enough measurements all minima are global.

    Source: Bhojanapalli, Neyshabur & Srebro 2016 (arXiv 1605.07221) for sensing; Ge, Lee & Ma 2016 (arXiv 1605.07272) for
    completion, whose regularizer is left out.
    """

    measurements: Tensor

    def __init__(self, target: Tensor, rank: int, start: Tensor, measurements: Tensor, scale: float) -> None:
        super().__init__(target, rank, start)
        self.scale = scale
        self.register_buffer("measurements", measurements, persistent=False)

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (k (rows + columns),)."""
        left, right = self.factors(weights)
        errors = torch.tensordot(self.measurements, left @ right.T - self.target, dims=2)
        value: Tensor = self.scale / 2 * (errors**2).sum()
        return value

    def relative_error(self, weights: Tensor) -> Tensor:
        """‖U Vᵀ - M‖ / ‖M‖, 0-d: f may be small where too little is known."""
        left, right = self.factors(weights)
        found: Tensor = (left @ right.T - self.target).norm() / self.target.norm()
        return found


def load(
    data_dir: str,
    rows: int = 6,
    columns: int = 5,
    rank: int = 2,
    singular_values: Sequence[float] = (3.0, 2.0),
    measurements: int = 60,
    start_size: float = 0.1,
    generation_seed: int = 0,
    noise: float = 0.0,
    examples: int = 1000,
) -> RawData:
    """Matrix sensing: ``measurements`` products with matrices of standard normal entries.

    ``data_dir`` is not used. Raises UserError for more singular values than ``rank``, or a rank above rows or columns.
    """
    generator = randomness.generator(generation_seed, "matrix sensing")
    target, start = hidden_matrix(rows, columns, rank, singular_values, start_size, generator)
    drawn = torch.randn(measurements, rows, columns, dtype=torch.float64, generator=generator)
    return examples_of(MatrixSensing(target, rank, start, drawn, 1 / measurements), noise, examples)


def load_completion(
    data_dir: str,
    rows: int = 6,
    columns: int = 5,
    rank: int = 2,
    singular_values: Sequence[float] = (3.0, 2.0),
    entries: int = 24,
    start_size: float = 0.1,
    generation_seed: int = 0,
    noise: float = 0.0,
    examples: int = 1000,
) -> RawData:
    """Matrix completion: ``entries`` of M at random places, none twice.

    ``data_dir`` is not used. Raises UserError for more entries than M has, more singular values than ``rank``, or a rank above
    rows or columns.
    """
    if entries > rows * columns:
        raise UserError(
            f"dataset.entries={entries}: more than M of {rows} x {columns} has; accepted: at most {rows * columns}"
        )
    generator = randomness.generator(generation_seed, "matrix completion")
    target, start = hidden_matrix(rows, columns, rank, singular_values, start_size, generator)
    places = torch.randperm(rows * columns, generator=generator)[:entries]
    known = torch.eye(rows * columns, dtype=torch.float64)[places].view(entries, rows, columns)
    return examples_of(MatrixSensing(target, rank, start, known, rows * columns / entries), noise, examples)


def hidden_matrix(
    rows: int, columns: int, rank: int, singular_values: Sequence[float], start_size: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """M (rows, columns) of at most the rank k, and weights at which to begin."""
    most = min(rows, columns)
    if rank > most:
        raise UserError(f"dataset.rank={rank}: more than M of {rows} x {columns} has; accepted: at most {most}")
    if len(singular_values) > rank:
        raise UserError(
            f"dataset.singular_values={list(singular_values)}: more than the rank {rank} of the factors, so that the minimum is "
            f"not known; accepted: at most {rank}"
        )
    target = matrix_with(singular_values, rows, columns, generator)
    return target, start_size * torch.randn(rank * (rows + columns), dtype=torch.float64, generator=generator)
