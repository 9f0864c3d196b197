"""Branin's function: three minima of equal depth with saddle points between them."""

import math

import torch
from torch import Tensor

from optbench.data.problems.problem import Problem, examples_of, numbers
from optbench.data.raw import RawData

_B, _C = 5.1 / (4 * math.pi**2), 5 / math.pi
_S, _T = 10.0, 1 / (8 * math.pi)


class Branin(Problem):
    """f(x, y) = (y - b x² + c x - 6)² + 10 (1 - t) cos x + 10 with b = 5.1 / 4π², c = 5 / π and t = 1 / 8π, from (2.5, 7.5).

    The square is zero on the curve y = b x² - c x + 6. There f has minima, 5 / 4π = 0.397887, at all odd multiples of π,
    of which -π, π and 3π are in the usual domain, [-5, 10] x [0, 15], and saddle points with f = 20 - 10 t at the even ones.

    Source: Dixon & Szegő 1978, "The global optimization problem: an introduction".
    """

    def __init__(self) -> None:
        super().__init__(
            numbers(2.5, 7.5),
            torch.stack([_on_curve(turns * math.pi) for turns in (-1, 1, 3)]),
            minimum=_S * _T,
            saddles=torch.stack([_on_curve(turns * math.pi) for turns in (0, 2)]),
        )

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (2,)."""
        x, y = weights
        value: Tensor = (y - _B * x**2 + _C * x - 6) ** 2 + _S * (1 - _T) * x.cos() + _S
        return value


def _on_curve(x: float) -> Tensor:
    return numbers(x, _B * x**2 - _C * x + 6)


def load(data_dir: str, noise: float = 0.0, examples: int = 1000) -> RawData:
    """The problem, with ``noise`` in its gradients; ``data_dir`` is not used."""
    return examples_of(Branin(), noise, examples)
