"""PowerSGD: the mean gradient of every matrix as a product of low rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optbench import randomness
from optbench.communication.base import NUMBER, Compressor, Shapes


class PowerSGD(Compressor):
    """Every worker receives P Qᵀ, of rank r, for the mean M over the workers of every matrix p_w = g_w + e_w (m, n).

    Vogels, Karimireddy & Jaggi 2019 (arXiv 1905.13727), algorithm 1, one step of subspace iteration from the Q of the last
    step:  P ← orthogonalize(mean p_w Q)  (m, r),  Q ← mean p_wᵀ P  (n, r),  e_w ← p_w - P (p_wᵀ P)ᵀ.

    All of it is linear in the mean, so that what is received does not depend on the number of workers, to rounding. Q is the
    same on all workers. A tensor of more dimensions is a matrix (first, product of the others). Vectors, and matrices of which
    the factors have as many entries, r (m + n) ≥ m n, are sent whole.
    """

    def __init__(
        self, shapes: Shapes, workers: int = 1, rank: int = 4, error_feedback: bool = True, seed: int = 0
    ) -> None:
        super().__init__(shapes, workers, error_feedback, seed)
        self.rank = rank
        self.factors: dict[str, Tensor] = {}  # Q by name, from the first exchange on

    def _is_factored(self, shape: Sequence[int]) -> bool:
        rows, columns = _as_matrix(shape)
        return len(shape) > 1 and self.rank * (rows + columns) < rows * columns

    def tensor_bytes(self, shape: Sequence[int]) -> float:
        """4 r (m + n) of a matrix, and 4 d of what is sent whole."""
        rows, columns = _as_matrix(shape)
        return float(NUMBER * (self.rank * (rows + columns) if self._is_factored(shape) else rows * columns))

    @torch.no_grad()
    def exchange(self, gradients: Sequence[Mapping[str, Tensor]], step: int) -> dict[str, Tensor]:
        """Send the gradients of the workers of this rank in two messages, P and Q, and return what all workers receive."""
        to_send = [self._with_error(worker, own) for worker, own in zip(self.held, gradients, strict=True)]
        factored = [name for name in to_send[0] if self._is_factored(self.shapes[name])]
        whole = [name for name in to_send[0] if name not in factored]
        matrices = [[own[name].flatten(1) for name in factored] for own in to_send]
        right = [self._factor(name, matrix) for name, matrix in zip(factored, matrices[0], strict=True)]
        means = self.mean_over_workers(
            [
                [*(matrix @ factor for matrix, factor in zip(mine, right, strict=True)), *(own[name] for name in whole)]
                for mine, own in zip(matrices, to_send, strict=True)
            ]
        )
        left = [torch.linalg.qr(projected).Q for projected in means[: len(factored)]]
        products = [[matrix.T @ basis for matrix, basis in zip(mine, left, strict=True)] for mine in matrices]
        right = self.mean_over_workers(products)
        self.factors |= dict(zip(factored, right, strict=True))
        sent = [
            {
                name: (basis @ product.T).view_as(own[name])
                for name, basis, product in zip(factored, left, mine, strict=True)
            }
            for own, mine in zip(to_send, products, strict=True)
        ]
        self._remember(to_send, sent)
        received = dict(zip(whole, means[len(factored) :], strict=True))
        for name, basis, factor in zip(factored, left, right, strict=True):
            received[name] = (basis @ factor.T).view_as(to_send[0][name])
        return received

    def _factor(self, name: str, matrix: Tensor) -> Tensor:
        """The Q of the last step; at first independent normal numbers, the same on all workers."""
        if name not in self.factors:
            draws = randomness.generator(self.seed, f"PowerSGD {name}")
            # In float64, so that the start is the same in every precision, to rounding.
            start = torch.randn(matrix.shape[1], self.rank, dtype=torch.float64, generator=draws)
            self.factors[name] = start.to(matrix)
        return self.factors[name]

    def shared_state(self) -> dict[str, Any]:
        """Q by name."""
        return dict(self.factors)

    def load_shared_state(self, state: Mapping[str, Any]) -> None:
        """Continue with these Q."""
        self.factors = {name: factor.to(self.execution.device, copy=True) for name, factor in state.items()}


def _as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    return rows, torch.Size(shape).numel() // max(rows, 1)
