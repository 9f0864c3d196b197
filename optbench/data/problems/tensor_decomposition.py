"""Decomposition of a tensor of fourth order into orthogonal components: all minima are the components, in some order."""

import torch
from torch import Tensor

from optbench import randomness
from optbench.data.problems.problem import Problem, examples_of
from optbench.data.quadratic import haar_rotation
from optbench.data.raw import RawData


class TensorDecomposition(Problem):
    """f(u) = Σ_{i≠j} T(uᵢ, uᵢ, uⱼ, uⱼ) for T = Σₖ aₖ⊗aₖ⊗aₖ⊗aₖ with orthonormal a₁ .. a_d, and d unit vectors uᵢ.

    T(u, u, v, v) = Σₖ (aₖᵀu)² (aₖᵀv)². The weights are d vectors of any length, the rows of a matrix (d, d), and the uᵢ are their
    directions, so that f does not depend on the lengths. f = 0 exactly where the uᵢ are the ±aₖ in some order, of which
    ``minimizers`` holds one, and f = d (d - 1) where all uᵢ are the same aₖ.

    Source: Ge, Huang, Jin & Yuan 2015, "Escaping from saddle points - online stochastic gradient for tensor decomposition"
    (arXiv 1503.02101).
    """

    components: Tensor

    def __init__(self, components: Tensor, start: Tensor) -> None:
        super().__init__(start, components.flatten()[None])
        self.register_buffer("components", components, persistent=False)

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (d²,); not a number if one of the vectors is 0."""
        vectors = weights.view_as(self.components)
        units = vectors / vectors.norm(dim=1, keepdim=True)
        squares = (units @ self.components.T) ** 2
        value: Tensor = 2 * (squares @ squares.T).triu(1).sum()
        return value


def load(
    data_dir: str, dimension: int = 3, generation_seed: int = 0, noise: float = 0.0, examples: int = 1000
) -> RawData:
    """The problem with ``dimension`` random components, from random unit vectors, with ``noise`` in its gradients.

    ``data_dir`` is not used.
    """
    generator = randomness.generator(generation_seed, "tensor decomposition")
    components = haar_rotation(dimension, generator)
    start = torch.randn(dimension, dimension, dtype=torch.float64, generator=generator)
    start = start / start.norm(dim=1, keepdim=True)
    return examples_of(TensorDecomposition(components, start.flatten()), noise, examples)
