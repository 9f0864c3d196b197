"""|x| (1 - e^-|x|): not convex, but its gradient points away from the minimum everywhere."""

from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of, numbers
from optbench.data.raw import RawData


class StarConvex(Problem):
    """f(x) = |x| (1 - e^-|x|), from x = 3; f = 0 at 0, the only stationary point.

    It is star-convex: f'(x) x >= ``quasar_constant`` f(x) with the constant 1; the ratio falls from 2 at 0 to 1 far away.
    f'' = (2 - |x|) e^-|x| is at most 2, and negative beyond 2, down to -e^-3 at 3.

    Source: Nesterov & Polyak 2006, "Cubic regularization of Newton method and its global performance" (Mathematical Programming
    108), an example of star-convex functions.
    """

    smoothness = 2.0
    quasar_constant = 1.0

    def __init__(self) -> None:
        super().__init__(numbers(3.0), numbers(0.0)[None])

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (1,)."""
        size = weights.abs()
        return -(size * (-size).expm1()).sum()


def load(data_dir: str, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(StarConvex(), noise, examples)
