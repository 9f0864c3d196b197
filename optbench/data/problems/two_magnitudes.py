"""A two-layer network on data of two magnitudes: a loss whose curvature changes at two separate scales."""

import torch
from torch import Tensor

from optbench import randomness
from optbench.data.problems.problem import Problem, examples_of
from optbench.data.raw import RawData

#: The inputs of the magnitude 1; the others are these times the magnitude.
INPUTS = (1.0, -1.0, 0.7, -0.7)


class TwoMagnitudes(Problem):
    """f(w) = mean over x of ½ (1/W Σⱼ tanh(wⱼ x) - 1/W Σⱼ tanh(w*ⱼ x))², x = ±1, ±0.7 and M times these; f = 0 at w*.

    w: the W weights of the first layer; those of the second are fixed at 1/W. The outputs for large inputs saturate where the
    weights have moved from w*, of the size 1/M, by more than about 1/M; those for small inputs where they have moved by more than
    about 1. From w* along (1, ..., 1)/√W the loss is quadratic, then flat at about ¼, rises again, and is flat at about ½. The
    minimizers are w* with its entries in any order.

    The question is that of Ma, Kunin, Wu & Ying 2022 (arXiv 2204.11326), who name data of different magnitudes as a cause of
    separate scales; this example is our own.
    """

    target: Tensor
    inputs: Tensor

    def __init__(self, teacher: Tensor, magnitude: float, start: Tensor) -> None:
        super().__init__(start, teacher[None])
        small = torch.tensor(INPUTS, dtype=torch.float64)
        self.register_buffer("inputs", torch.cat([small, magnitude * small]), persistent=False)
        self.register_buffer("target", self._outputs(teacher), persistent=False)

    def _outputs(self, weights: Tensor) -> Tensor:
        return torch.outer(self.inputs, weights).tanh().mean(1)

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (W,)."""
        value: Tensor = (self._outputs(weights) - self.target).square().mean() / 2
        return value


def load(
    data_dir: str,
    width: int = 20,
    magnitude: float = 30.0,
    start_distance: float = 1.0,
    generation_seed: int = 0,
    noise: float = 0.0,
    examples: int = 1000,
) -> RawData:
    """The problem with w*ⱼ ~ N(0, 1)/M, from w* + ``start_distance`` (1, ..., 1)/√W; ``data_dir`` is not used."""
    generator = randomness.generator(generation_seed, "two magnitudes")
    teacher = torch.randn(width, dtype=torch.float64, generator=generator) / magnitude
    return examples_of(TwoMagnitudes(teacher, magnitude, teacher + start_distance / width**0.5), noise, examples)
