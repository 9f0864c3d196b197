"""Damped inverses of Kronecker factors, divided over ranks, and the preconditioning of gradients with them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optbench.optimizers.kronecker.layers import Layer
from optbench.optimizers.kronecker.placement import Placement
from optbench.optimizers.kronecker.statistics import Factors

METHODS = ("cholesky", "eigen")
# The number of attempts with increasing multiples of the identity for a matrix without a Cholesky factor.
ATTEMPTS = 8


def damped(inputs: Tensor, outputs: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """A + pi gamma I and G + gamma / pi I: factored Tikhonov damping of strength gamma (Martens & Grosse 2015, section 6.3).

    pi^2 = (tr A / its size) / (tr G / its size) of each group, and 1 where a trace is 0. A and G are (groups, size, size).
    """
    of_inputs, of_outputs = (each.diagonal(dim1=1, dim2=2).mean(1) for each in (inputs, outputs))
    usable = (of_inputs > 0) & (of_outputs > 0)
    pi = torch.where(usable, of_inputs / torch.where(usable, of_outputs, 1), 1).sqrt()
    return _plus(inputs, pi * strength), _plus(outputs, strength / pi)


def _plus(matrices: Tensor, amounts: Tensor) -> Tensor:
    """Each matrix plus its own multiple of the identity."""
    found = matrices.clone()
    found.diagonal(dim1=1, dim2=2).add_(amounts.unsqueeze(1))
    return found


def positive_definite_inverses(matrices: Tensor) -> Tensor:
    """The inverses of symmetric matrices (count, size, size) by Cholesky factors.

    If one has no Cholesky factor because of rounding, they are inverted in float64, with added multiples of the identity,
    from 1e-12 of the mean diagonal on, tenfold each time. For matrices that are not finite the result is NaN.
    """
    factors, failed = torch.linalg.cholesky_ex(matrices)
    if not failed.any():
        return _rows_of_symmetric(torch.cholesky_inverse(factors))
    if not torch.isfinite(matrices).all():
        return torch.full_like(matrices, torch.nan)
    exact = matrices.double()
    scale = exact.diagonal(dim1=1, dim2=2).mean(1).abs().clamp(min=1e-300)
    for attempt in range(ATTEMPTS):
        factors, failed = torch.linalg.cholesky_ex(_plus(exact, scale * 10.0 ** (attempt - 12)))
        if not failed.any():
            return _rows_of_symmetric(torch.cholesky_inverse(factors).to(matrices.dtype))
    return torch.full_like(matrices, torch.nan)


def eigenbasis(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (count, size), none below 0, and eigenvectors (count, size, size) of symmetric matrices.

    Computed in float64, because small eigenvalues are lost in the rounding of float32. Matrices that are not finite give NaN.
    """
    if not torch.isfinite(matrices).all():
        return torch.full_like(matrices[..., 0], torch.nan), torch.full_like(matrices, torch.nan)
    values, vectors = torch.linalg.eigh(matrices.double())
    # LAPACK returns column-major memory, a message is row-major: products of the two differ in the last bits, so that ranks
    # would drift apart.
    return values.clamp(min=0).to(matrices.dtype), vectors.to(matrices.dtype).contiguous()


def _rows_of_symmetric(matrices: Tensor) -> Tensor:
    # As above; the columns that LAPACK returns for a symmetric matrix are its rows, so that nothing is copied.
    return matrices.mT.contiguous()


class Inverses:
    """Multiplies gradients by the inverse of the damped Kronecker approximation of each layer's block.

    ``method="cholesky"``: (A + pi gamma I)^-1 x (G + gamma / pi I)^-1, with gamma = ``strength``. ``"eigen"``: the exact
    inverse of A x G + gamma^2 I, in the eigenbases. They are computed from ``factors`` once, on the ranks that ``placement``
    names. ``places``: the indices of each layer's parameters among the vectors' tensors.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        places: Sequence[Sequence[int]],
        factors: Factors,
        strength: float,
        method: str,
        placement: Placement,
    ) -> None:
        self.layers, self.places, self.placement = layers, places, placement
        self.factors, self.strength, self.method = factors, strength, method
        self._called = [bool(number) for number in _traces(factors)]
        self._parts: list[list[Tensor]] = []
        for number in range(len(layers)):
            a, g = factors.inputs[number], factors.outputs[number]
            if not placement.keeps(number):
                self._parts.append([])
            elif not placement.owns(number):
                self._parts.append(self._empty(a, g))
            elif method == "eigen":
                self._parts.append([*eigenbasis(a), *eigenbasis(g)])
            else:
                self._parts.append([positive_definite_inverses(each) for each in damped(a, g, strength)])
        placement.share_in_column(self._parts)

    def _empty(self, a: Tensor, g: Tensor) -> list[Tensor]:
        shapes = [a, g] if self.method == "cholesky" else [a[..., 0], a, g[..., 0], g]
        return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in shapes]

    @torch.no_grad()
    def precondition(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """The product with a vector, one tensor for each trainable parameter.

        Tensors of parameters without factors are returned unchanged, and so are those of layers that were not called in any
        batch of the factors.
        """
        found = list(vector)
        results = []
        for number, layer in enumerate(self.layers):
            matrix = layer.matrix([vector[place] for place in self.places[number]])
            if self.placement.keeps(number):
                matrix = self._product(number, matrix)
            results.append(matrix.contiguous())
        self.placement.share_in_row(results)
        for layer, places, called, matrix in zip(self.layers, self.places, self._called, results, strict=True):
            if called:
                for place, tensor in zip(places, layer.tensors(matrix), strict=True):
                    found[place] = tensor
        return found

    def _product(self, number: int, matrix: Tensor) -> Tensor:
        if self.method == "cholesky":
            a, g = self._parts[number]
            return g @ matrix @ a
        input_values, input_basis, output_values, output_basis = self._parts[number]
        values = output_values.unsqueeze(2) * input_values.unsqueeze(1) + self.strength**2
        return output_basis @ (output_basis.mT @ matrix @ input_basis / values) @ input_basis.mT

    def state_dict(self) -> dict[str, Any]:
        """The factors and options from which the inverses can be computed again, on any number of ranks."""
        return {"factors": self.factors.lists(), "strength": self.strength, "method": self.method}


def _traces(factors: Factors) -> list[float]:
    """The trace of each A, which is 0 for a layer that was never called; fetched from the device in one transfer."""
    if not factors.inputs:
        return []
    return torch.stack([each.diagonal(dim1=1, dim2=2).sum() for each in factors.inputs]).tolist()
