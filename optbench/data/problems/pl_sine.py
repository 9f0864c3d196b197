"""x² + 3 sin² x: not convex, and yet gradient descent converges to its minimum at a linear rate from everywhere."""

from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of, numbers
from optbench.data.raw import RawData


class PLSine(Problem):
    """f(x) = x² + 3 sin² x, from x = 3; f = 0 at 0, the only stationary point.

    f'' = 2 + 6 cos 2x lies in [-4, 8]. ½ f'² >= μ f holds with μ = 0.1755309, tight at |x| = 2.2017, so that gradient descent
    with the step 1/8 has f_k <= (1 - μ/8)^k f_0.

    Source: Karimi, Nutini & Schmidt 2016, "Linear convergence of gradient and proximal-gradient methods under the
    Polyak-Łojasiewicz condition" (arXiv 1608.04636), who give μ = 1/32.
    """

    smoothness = 8.0
    pl_constant = 0.1755309

    def __init__(self) -> None:
        super().__init__(numbers(3.0), numbers(0.0)[None])

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (1,)."""
        return (weights**2 + 3 * weights.sin() ** 2).sum()


def load(data_dir: str, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(PLSine(), noise, examples)
