"""The block-tridiagonal approximation of the inverse Fisher matrix of a chain of linear layers.

Martens & Grosse 2015 (arXiv 1503.05671), section 4.3 and appendix B. The layers are 1, ..., n from the inputs to the outputs;
layer i has the inputs a_i (with a 1 for its bias) and the derivative g_i of the loss in its outputs, and

    A_i = E[a_i a_i^T],    A_{i,i+1} = E[a_i a_{i+1}^T],    G_i = E[g_i g_i^T],    G_{i,i+1} = E[g_i g_{i+1}^T].

With vec stacking columns, block (i, j) of the Fisher matrix is close to A_{i,j} (x) G_{i,j}. The tridiagonal approximation is
the matrix F with these blocks for |i - j| <= 1 whose inverse is block-tridiagonal: the covariance of a Gaussian that is a
directed chain n -> ... -> 1, in which layer i regresses on layer i + 1. With

    P_i = A_{i,i+1} A_{i+1}^-1,    Q_i = G_{i,i+1} G_{i+1}^-1,    Psi_i = P_i (x) Q_i

and the conditional covariances of the chain,

    S_i = A_i (x) G_i - (P_i A_{i+1} P_i^T) (x) (Q_i G_{i+1} Q_i^T),    S_n = A_n (x) G_n,

it is F^-1 = X^T diag(S_i^-1) X, where X is the identity except for blocks -Psi_i at (i, i + 1). All matrices are prepared in
float64, because rounding is magnified if a layer is nearly determined by the next one.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from optbench.errors import UserError
from optbench.optimizers.kronecker import Factors, KroneckerFactors, damped

# The smallest divisor 1 - s t; it would be 0 for a layer that the next one determines.
_SMALLEST_DENOMINATOR = 1e-8
# The smallest eigenvalue of a positive definite matrix that is used, relative to the largest.
_SMALLEST_EIGENVALUE = 1e-14


class KroneckerDifference:
    """Solves (A (x) B - C (x) D) vec(U) = vec(V), for A, B positive definite and C, D semi-definite, C <= A and D <= B.

    A^-1/2 C A^-1/2 = E diag(s) E^T and K = A^-1/2 E, so that K^T A K = 1 and K^T C K = diag(s); L and t alike from B and D.
    Then U = L [(L^T V K) / (1 - t s^T)] K^T (Martens & Grosse 2015, appendix B).

    inputs: A^-1/2 (m, m) and C (m, m); outputs: B^-1/2 (k, k) and D (k, k); None for C and D means 0.
    """

    def __init__(self, inputs: tuple[Tensor, Tensor | None], outputs: tuple[Tensor, Tensor | None]) -> None:
        self._left, s = _diagonalized(*inputs)
        self._right, t = _diagonalized(*outputs)
        self._denominators = (1 - torch.outer(t, s)).clamp(min=_SMALLEST_DENOMINATOR)

    def solve(self, right_hand_side: Tensor) -> Tensor:
        """U for V, both (k, m)."""
        turned = self._right.T @ right_hand_side @ self._left
        return self._right @ (turned / self._denominators) @ self._left.T

    def to(self, dtype: torch.dtype) -> "KroneckerDifference":
        """Convert it to ``dtype``, and return it."""
        self._left, self._right = self._left.to(dtype), self._right.to(dtype)
        self._denominators = self._denominators.to(dtype)
        return self


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix; NaN if it is not finite, for which torch would raise."""
    if not torch.isfinite(matrix).all():
        return torch.full_like(matrix[0], torch.nan), torch.full_like(matrix, torch.nan)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


def inverse_square_root(matrix: Tensor) -> Tensor:
    """A^-1/2 of a symmetric positive definite matrix."""
    values, vectors = _eigen(matrix)
    return vectors / values.clamp(min=_SMALLEST_EIGENVALUE * values[-1]).sqrt() @ vectors.T


def _diagonalized(root: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor]:
    """K and s for A^-1/2 and C."""
    if other is None:
        return root, root.new_zeros(len(root))
    values, vectors = _eigen(_symmetric(root @ other @ root))
    return root @ vectors, values


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


class TridiagonalInverse:
    """F^-1 of the module's docstring, which multiplies one matrix for each layer.

    inputs, outputs: A_i and G_i, damped so that they are positive definite. inputs_with_next, outputs_with_next: A_{i,i+1} and
    G_{i,i+1}, one fewer, not damped.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        inputs_with_next: Sequence[Tensor],
        outputs_with_next: Sequence[Tensor],
    ) -> None:
        a_roots, self._p, a_explained = self._regressions(inputs, inputs_with_next)
        g_roots, self._q, g_explained = self._regressions(outputs, outputs_with_next)
        dtype = inputs[0].dtype
        self._conditionals = [
            KroneckerDifference(of_inputs, of_outputs).to(dtype)
            for of_inputs, of_outputs in zip(
                zip(a_roots, a_explained, strict=True), zip(g_roots, g_explained, strict=True), strict=True
            )
        ]

    @staticmethod
    def _regressions(
        matrices: Sequence[Tensor], with_next: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
        """A_i^-1/2 for every layer; P_i for all but the last; P_i A_{i+1} P_i^T = A_{i,i+1} P_i^T, None for the last."""
        roots = [inverse_square_root(matrix.double()) for matrix in matrices]
        between = [matrix.double() for matrix in with_next]
        regressions = [matrix @ root @ root for matrix, root in zip(between, roots[1:], strict=True)]
        explained = [matrix @ regression.T for matrix, regression in zip(between, regressions, strict=True)]
        return roots, [matrix.to(matrices[0].dtype) for matrix in regressions], [*explained, None]

    def multiply(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """F^-1 times ``matrices``, one (outputs, inputs) for each layer."""
        # First X v, then diag(S^-1), then X^T.
        differences = list(matrices)
        for i, (p, q) in enumerate(zip(self._p, self._q, strict=True)):
            differences[i] = matrices[i] - q @ matrices[i + 1] @ p.T
        solved = [solver.solve(matrix) for solver, matrix in zip(self._conditionals, differences, strict=True)]
        products = list(solved)
        for i, (p, q) in enumerate(zip(self._p, self._q, strict=True)):
            products[i + 1] = solved[i + 1] - q.T @ solved[i] @ p
        return products


class ChainInverses:
    """The block-tridiagonal inverse for the layers of a model; ``kronecker.Inverses`` is the block-diagonal one.

    factors: of the model. averages: the factors for the inverse, including those between neighbours. strength: gamma of the
    factored damping, applied only to the factors on the diagonal. Every rank computes the whole inverse.
    """

    def __init__(self, factors: KroneckerFactors, averages: Factors, strength: float) -> None:
        self._layers, self._places = factors.layers, factors.places
        self._averages, self._strength = averages, strength
        inputs, outputs = [], []
        for a, g in zip(averages.inputs, averages.outputs, strict=True):
            of_inputs, of_outputs = damped(a, g, strength)
            inputs.append(of_inputs[0])
            outputs.append(of_outputs[0])
        self._inverse = TridiagonalInverse(inputs, outputs, averages.between_inputs, averages.between_outputs)

    @torch.no_grad()
    def precondition(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """The product with a vector, one tensor for each trainable parameter."""
        matrices = [
            layer.matrix([vector[place] for place in places])[0]
            for layer, places in zip(self._layers, self._places, strict=True)
        ]
        found = list(vector)
        for layer, places, matrix in zip(self._layers, self._places, self._inverse.multiply(matrices), strict=True):
            for place, tensor in zip(places, layer.tensors(matrix.unsqueeze(0)), strict=True):
                found[place] = tensor
        return found

    def state_dict(self) -> dict[str, Any]:
        """The factors and the damping from which the inverse can be computed again."""
        return {"factors": self._averages.lists(), "strength": self._strength}

    @classmethod
    def restore(cls, factors: KroneckerFactors, state: Mapping[str, Any]) -> "ChainInverses":
        """The inverse computed again from ``state``, its ``state_dict``."""
        return cls(factors, factors.placed(state["factors"]), state["strength"])


def chain_bytes(factors: KroneckerFactors) -> int:
    """The bytes of the tensors of `ChainInverses`: K, L and the divisors of each layer, and P and Q between neighbours."""
    sizes = [(layer.input_size, layer.output_size) for layer in factors.layers]
    numbers = sum(a * a + g * g + a * g for a, g in sizes)
    numbers += sum(a * b + g * h for (a, g), (b, h) in pairwise(sizes))
    return numbers * factors.element_bytes


def require_chain(factors: KroneckerFactors) -> None:
    """Raise UserError for a model that is not a plain chain of linear layers of matching sizes."""
    why = None
    kinds = [type(layer.module).__name__ for layer in factors.layers if not isinstance(layer.module, nn.Linear)]
    if kinds:
        why = f"it has layers of type {', '.join(dict.fromkeys(kinds))}"
    elif factors.plain:
        why = f"it has parameters without factors: {', '.join(factors.plain)}"
    else:
        for layer, after in pairwise(factors.layers):
            if layer.weight.shape[0] != after.weight.shape[1]:
                why = (
                    f"{layer.name} has {layer.weight.shape[0]} outputs and {after.name} {after.weight.shape[1]} inputs"
                )
                break
    if why is not None:
        raise UserError(
            f"optimizer.structure=block_tridiagonal: needs a plain chain of linear layers (mlp, autoencoder), and the model is "
            f"none: {why}; accepted for this model: block_diagonal"
        )
