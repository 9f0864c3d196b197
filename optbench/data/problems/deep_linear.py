"""A deep linear network: a convex loss of the product of its weights, which is not convex in them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optbench import randomness
from optbench.data.problems.matrix_factorization import matrix_with
from optbench.data.problems.problem import Problem, examples_of
from optbench.data.raw import RawData


class DeepLinear(Problem):
    """f(W₁, ..., W_N) = ½ ‖W_N ... W₁ - M‖² for N square matrices (k, k); f = 0 where the product is M.

    The weights are W₁, then W₂, and so on. ``minimizers`` holds one point of infinitely many, with factors of equal singular
    values. Every minimum is global. 0 is a saddle point: with N = 2 the smallest eigenvalue there is -σ₁ of M, with N >= 3 the
    Hessian is 0, so that no second derivative shows the way out.

    Source: Kawaguchi 2016, "Deep learning without poor local minima" (arXiv 1605.07110).
    """

    target: Tensor

    def __init__(self, target: Tensor, layers: int, start: Tensor) -> None:
        left, sizes, right = torch.linalg.svd(target)
        middle = torch.diag(sizes ** (1 / layers))
        best = torch.stack([middle @ right, *[middle] * (layers - 2), left @ middle]).flatten()
        super().__init__(start, best[None], saddles=torch.zeros_like(best)[None])
        self.layers = layers
        self.register_buffer("target", target, persistent=False)

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (N k²,)."""
        first, *others = weights.view(self.layers, *self.target.shape)
        product = first
        for factor in others:
            product = factor @ product
        value: Tensor = ((product - self.target) ** 2).sum() / 2
        return value


def load(
    data_dir: str,
    layers: int = 3,
    singular_values: Sequence[float] = (2.0, 1.0, 0.5),
    start_size: float = 0.3,
    generation_seed: int = 0,
    noise: float = 0.0,
    examples: int = 1000,
) -> RawData:
    """The problem with ``layers`` >= 2 and M of random singular vectors, from weights with the standard deviation ``start_size``.

    ``data_dir`` is not used.
    """
    width = len(singular_values)
    generator = randomness.generator(generation_seed, "deep linear")
    target = matrix_with(singular_values, width, width, generator)
    start = start_size * torch.randn(layers * width * width, dtype=torch.float64, generator=generator)
    return examples_of(DeepLinear(target, layers, start), noise, examples)
