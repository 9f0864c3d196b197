"""½ x² - ½ y² + ¼ y⁴: a saddle point between two minima."""

from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of, numbers
from optbench.data.raw import RawData


class Saddle(Problem):
    """f(x, y) = ½ x² - ½ y² + ¼ y⁴, from (½, 0); f = -¼ at (0, ±1), and a saddle point with the eigenvalues 1 and -1 at 0.

    The start has y = 0, so that gradient descent goes to the saddle point. From a small y₀ it takes about
    ln(δ / |y₀|) / ln(1 + α) steps with the learning rate α to reach |y| = δ.

    Source: Nesterov 2004, "Introductory lectures on convex optimization", example 1.2.2.
    """

    def __init__(self) -> None:
        super().__init__(
            numbers(0.5, 0.0),
            numbers(0.0, 1.0, 0.0, -1.0).view(2, 2),
            minimum=-0.25,
            saddles=numbers(0.0, 0.0)[None],
        )

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (2,)."""
        x, y = weights
        value: Tensor = x**2 / 2 - y**2 / 2 + y**4 / 4
        return value


def load(data_dir: str, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(Saddle(), noise, examples)
