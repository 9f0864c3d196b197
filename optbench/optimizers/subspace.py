"""The Hessian in a subspace, diagonalized: the whole space, or a Krylov space with further directions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optbench.curvature.lanczos import Product, lanczos, orthonormal_extension
from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten

# The number of unit vectors that are multiplied by the Hessian at a time.
_TOGETHER = 64


@dataclass(frozen=True)
class Subspace:
    """The Hessian H in an orthonormal basis V of a subspace: VᵀHV = Y diag(e) Yᵀ, with e and Y in float64 on the CPU.

    basis: (k, P), the columns of V as rows; None for the whole space. values: e, (k,), ascending. vectors: Y, (k, k); the largest
    entry of every column is positive.
    """

    basis: Tensor | None
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor, basis: Tensor | None = None) -> "Subspace":
        """From ``matrix`` = VᵀHV, (k, k), float64 on the CPU."""
        values, vectors = torch.linalg.eigh(matrix)
        # The sign of an eigenvector is arbitrary; ranks and machines must agree on it.
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        return cls(basis, values, vectors * largest.sign())

    @classmethod
    def whole(cls, objective: Objective, parameters: list[Tensor]) -> "Subspace":
        """The whole space of ``parameters``, of which the Hessian is computed from as many products as there are weights."""
        return cls.of(_dense_hessian(objective, parameters))

    def coordinates(self, gradient: Tensor) -> Tensor:
        """YᵀVᵀg, (k,)."""
        inside = gradient if self.basis is None else self.basis @ gradient
        return self.vectors.T @ inside.to("cpu", torch.float64)

    def vector(self, coordinates: Tensor, like: Tensor) -> Tensor:
        """VYc, (P,), on the device and in the type of ``like``."""
        inside = (self.vectors @ coordinates).to(like)
        return inside if self.basis is None else inside @ self.basis


@dataclass(frozen=True)
class Projection:
    """A matrix H restricted to a subspace: orthonormal rows ``basis`` (k, P), and ``matrix`` VᵀHV (k, k), float64 on the CPU."""

    basis: Tensor
    matrix: Tensor

    @classmethod
    def krylov(cls, product: Product, start: Tensor, dimension: int) -> "Projection":
        """The Krylov space of up to ``dimension`` Lanczos steps from ``start`` (P,), which is not 0."""
        found = lanczos(product, start, dimension)
        return cls(found.basis, found.matrix)

    def extended(self, product: Product, vector: Tensor) -> tuple["Projection", Tensor | None]:
        """The space with ``vector`` (P,) in it, and H times the new direction; the same space and None if it is in it already."""
        direction = orthonormal_extension(self.basis, vector)
        if direction is None:
            return self, None
        image = product(direction)
        basis = torch.cat([self.basis, direction.unsqueeze(0)])
        border = (basis @ image).to("cpu", torch.float64)
        matrix = torch.block_diag(self.matrix, border[-1])
        matrix[-1] = matrix[:, -1] = border
        return Projection(basis, matrix), image

    def diagonalized(self) -> Subspace:
        """The space in the coordinates of the eigenvectors of ``matrix``."""
        return Subspace.of(self.matrix, self.basis)


def _dense_hessian(objective: Objective, parameters: list[Tensor]) -> Tensor:
    """H of all parameters, (P, P), float64 on the CPU, exactly symmetric."""
    size = sum(parameter.numel() for parameter in parameters)
    units = torch.eye(size, dtype=parameters[0].dtype, device=parameters[0].device)
    rows = [
        flatten(row).to("cpu", torch.float64)
        for some in units.split(_TOGETHER)
        for row in objective.hvps([unflatten(unit, parameters) for unit in some])
    ]
    matrix = torch.stack(rows)
    return (matrix + matrix.T) / 2


def require_dense_fits(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Raise UserError for ``subspace: dense`` with more parameters than the ``dense_limit`` of ``group``."""
    size = sum(parameter.numel() for parameter in group["params"] if parameter.requires_grad)
    if group["subspace"] == "dense" and size > group["dense_limit"]:
        raise UserError(
            f"subspace=dense: {type(optimizer).__name__} of {size} parameters needs a Hessian of {size} x {size}, beyond "
            f"dense_limit={group['dense_limit']}; accepted: subspace=krylov, a smaller model, or a larger limit"
        )


def check_twice_differentiable(objective: Objective) -> None:
    """Raise UserError if torch cannot differentiate the model of ``objective`` twice."""
    try:
        objective.hvp([torch.zeros_like(parameter) for parameter in objective.network.parameters])
    except RuntimeError as error:
        raise UserError(
            f"model: {type(objective.network.model).__name__} cannot be differentiated twice ({error}); accepted: a model "
            "without such operations, or an optimizer that needs no Hessian, such as hessian_free"
        ) from error
