"""The Lanczos process: an orthonormal basis of a Krylov space in which a symmetric matrix is tridiagonal.

It needs only products with the matrix. Vectors are flat; ``on_flat_vectors`` converts a product of lists of tensors, such as
``objective.hvp``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from optbench.objective.vectors import flatten, unflatten

Product: TypeAlias = Callable[[Tensor], Tensor]


def on_flat_vectors(product: Callable[[list[Tensor]], Sequence[Tensor]], like: Sequence[Tensor]) -> Product:
    """Convert ``product``, of lists of tensors of the shapes of ``like``, to a product of flat vectors."""
    return lambda vector: flatten(product(unflatten(vector, like)))


@dataclass(frozen=True)
class RitzValues:
    """Approximate eigenvalues of a matrix A, ascending, float64 on the CPU.

    values: (k,). residuals: (k,), the norms ‖A x - value x‖ for the approximate eigenvectors x: an eigenvalue of A lies within
    that distance of each value. weights: (k,), the squared components of the start along each x, which sum to 1 over all
    pairs of a run.
    """

    values: Tensor
    residuals: Tensor
    weights: Tensor


@dataclass(frozen=True)
class RitzPairs(RitzValues):
    """Approximate eigenpairs of a matrix A: ``RitzValues`` and vectors (k, P), the unit vectors x as rows."""

    vectors: Tensor


@dataclass(frozen=True)
class Lanczos:
    """The result of ``lanczos``: A V = V T + b_k v_(k+1) e_k^T with the rows of ``basis`` as the columns of V.

    basis: (k, P), orthonormal rows. diagonal: (k,) a_1 .. a_k and off_diagonal: (k - 1,) b_1 .. b_(k-1), of T, in float64 on
    the CPU. residual: b_k, the norm of the part that A maps out of the space; 0 if the space is invariant under A.
    """

    basis: Tensor
    diagonal: Tensor
    off_diagonal: Tensor
    residual: float

    @property
    def matrix(self) -> Tensor:
        """T = V^T A V, (k, k), float64 on the CPU."""
        off = self.off_diagonal
        return torch.diag(self.diagonal) + torch.diag(off, 1) + torch.diag(off, -1)

    def ritz(self, largest: int | None = None, smallest: int | None = None) -> RitzPairs:
        """Ritz pairs (t, V s) for the eigenpairs (t, s) of T, with residuals b_k |s_k| and weights s_1^2.

        largest, smallest: the numbers of pairs from the upper and the lower end (as signed numbers); all pairs if neither is
        given. A pair that belongs to both ends is returned once.
        """
        found, vectors = self._ritz(largest, smallest)
        vectors = vectors.T.to(self.basis) @ self.basis
        return RitzPairs(found.values, found.residuals, found.weights, vectors)

    def ritz_values(self, largest: int | None = None, smallest: int | None = None) -> RitzValues:
        """``ritz`` without the vectors, which saves their memory and arithmetic."""
        return self._ritz(largest, smallest)[0]

    def _ritz(self, largest: int | None, smallest: int | None) -> tuple[RitzValues, Tensor]:
        values, vectors = torch.linalg.eigh(self.matrix)
        count = len(values)
        if largest is None and smallest is None:
            largest = count
        below, above = min(smallest or 0, count), max(count - (largest or 0), 0)
        chosen = [index for index in range(count) if index < below or index >= above]
        values, vectors = values[chosen], vectors[:, chosen]
        return RitzValues(values, self.residual * vectors[-1].abs(), vectors[0].square()), vectors


@torch.no_grad()
def lanczos(
    product: Product,
    start: Tensor,
    steps: int,
    tolerance: float | None = None,
    until: Callable[[Lanczos], bool] | None = None,
) -> Lanczos:
    """At most ``steps`` steps of the Lanczos process for the symmetric matrix that ``product`` multiplies by.

    start: (P,), not zero, the direction of the first basis vector. Every new vector is orthogonalized against all
    others in two passes of Gram-Schmidt, without which copies of converged eigenvalues appear after some dozens of
    steps (Parlett 1998, "The symmetric eigenvalue problem", chapter 13). The process ends early if the space is invariant,
    that is, if the next b is below ``tolerance`` (by default 1e-10, or ten units of rounding of the type if that is more)
    times the largest |entry| of T; or if ``until`` returns True for the process after a step. Raises ValueError for a start
    that is zero or not finite, and for steps below 1.

    Both ends of the spectrum converge in the same run, outliers first: see ``Lanczos.ritz``. There are no restarts: memory is
    needed for the basis, steps x P numbers of the type of ``start`` (100 steps for P = 10^6 in float32: 400 MB), and for a few
    more vectors. In addition to the products, step k takes about 8 k P multiplications and additions.
    """
    length = float(start.norm())
    if not 0 < length < float("inf"):
        raise ValueError(f"the start of a Lanczos process must be finite and not zero; its norm is {length}")
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1")
    steps = min(steps, start.numel())
    if tolerance is None:
        tolerance = max(1e-10, 10 * torch.finfo(start.dtype).eps)
    basis = start.new_zeros(steps, start.numel())
    basis[0] = start / length
    diagonal: list[float] = []
    off_diagonal: list[float] = []

    def process() -> Lanczos:
        return Lanczos(
            basis[: len(diagonal)],
            torch.tensor(diagonal, dtype=torch.float64),
            torch.tensor(off_diagonal[:-1], dtype=torch.float64),
            off_diagonal[-1],
        )

    for step in range(steps):
        image = product(basis[step])
        diagonal.append(float(image @ basis[step]))
        rest = _orthogonal_to(basis[: step + 1], image)
        off_diagonal.append(float(rest.norm()))
        if off_diagonal[-1] <= tolerance * max(map(abs, diagonal + off_diagonal)):
            off_diagonal[-1] = 0.0
            break
        if until is not None and until(process()):
            break
        if step + 1 < steps:
            # A short rest is no longer orthogonal, because of rounding, once it is scaled to length 1.
            rest = _orthogonal_to(basis[: step + 1], rest / off_diagonal[-1])
            basis[step + 1] = rest / rest.norm()
    return process()


def orthonormal_extension(basis: Tensor, vector: Tensor) -> Tensor | None:
    """The normalized part of ``vector`` orthogonal to the rows of ``basis``, or None if it is only rounding error."""
    length = vector.norm()
    if not length > 0:
        return None
    rest = _orthogonal_to(basis, vector / length)
    if not rest.norm() > 1e3 * torch.finfo(vector.dtype).eps:
        return None
    rest = _orthogonal_to(basis, rest / rest.norm())
    found: Tensor | None = rest / rest.norm()
    return found


def _orthogonal_to(basis: Tensor, vector: Tensor) -> Tensor:
    """The part of ``vector`` orthogonal to the orthonormal rows of ``basis``, by two passes of Gram-Schmidt."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector
