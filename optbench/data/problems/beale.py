"""Beale's function: a minimum on a plain, and a saddle point from which gradient descent does not move."""

from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of, numbers
from optbench.data.raw import RawData


class Beale(Problem):
    """f(x, y) = (1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)², from (1, 1); f = 0 at (3, ½).

    (0, 1) is a saddle point with f = 14.203125 and the eigenvalues ±27.75, along (1, -1) the negative one.

    Source: Moré, Garbow & Hillstrom 1981, "Testing unconstrained optimization software" (ACM Transactions on Mathematical
    Software 7), problem 5.
    """

    def __init__(self) -> None:
        super().__init__(numbers(1.0, 1.0), numbers(3.0, 0.5)[None], saddles=numbers(0.0, 1.0)[None])

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (2,)."""
        x, y = weights
        value: Tensor = (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2
        return value


def load(data_dir: str, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(Beale(), noise, examples)
