"""A function of the weights that is its own data: the base class, and the examples with which it is trained.

The loss of example n at the weights θ is f(θ) + ⟨ζₙ, θ⟩ with ζₙ ~ N(0, ``noise``² I): its gradient is that of f plus ζₙ, and
its Hessian is that of f. The number of an example and the seed of the run determine ζₙ, so that no example comes twice. Without
noise all examples are equal. Validation, test and the evaluation of the training set have one example, with ζ = 0.
"""

import torch
from torch import Tensor, nn

from optbench.data.normal_rows import NormalRows
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec


class Problem(nn.Module):
    """f, called with the weights θ, (d,); returns a 0-d tensor. It is a module, so that its numbers follow the weights.

    start: (d,). minimum: the lowest value of f. minimizers: (k, d), points where f has it: all or, where there are very many,
    some. saddles: (k, d), stationary points from which f falls in some direction, all or some of them. smoothness: a bound on the
    absolute eigenvalues of the Hessian everywhere, None if there is none. pl_constant: a μ > 0 with ½ ‖∇f‖² >= μ (f - minimum)
    everywhere (Polyak-Łojasiewicz), None if there is none. All are in float64.
    """

    smoothness: float | None = None
    pl_constant: float | None = None

    def __init__(self, start: Tensor, minimizers: Tensor, minimum: float = 0.0, saddles: Tensor | None = None) -> None:
        super().__init__()
        self.start, self.minimizers, self.minimum = start, minimizers, minimum
        self.saddles = torch.empty(0, len(start), dtype=torch.float64) if saddles is None else saddles

    def forward(self, weights: Tensor) -> Tensor:
        """f at ``weights``, (d,)."""
        raise NotImplementedError

    def evaluated(self, weights: Tensor) -> Tensor:
        """The value that evaluations show of ``weights``: f, unless a problem says otherwise."""
        value: Tensor = self(weights)
        return value


class NoisyExamples:
    """Training examples of a problem with ``width`` weights: ζₙ with the standard deviation ``noise`` of each entry."""

    def __init__(self, examples: int, width: int, noise: float, evaluation: Split) -> None:
        self.examples, self.noise, self.evaluation = examples, noise, evaluation
        self._normal = NormalRows(width)

    def __len__(self) -> int:
        return self.examples

    def train_batch(self, first: int, count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """ζ of the examples ``first .. first + count - 1``, (count, d), and targets without numbers, (count, 0)."""
        if self.noise == 0:
            inputs = torch.zeros(count, self._normal.width, dtype=dtype)
        else:
            inputs = self._normal.draw(first, count, seed, dtype).mul_(self.noise)
        return inputs, inputs.new_empty(count, 0)


def examples_of(problem: Problem, noise: float, examples: int) -> RawData:
    """The data of ``problem`` with ``examples`` in an epoch and the standard deviation ``noise`` of every entry of a gradient."""
    width = len(problem.start)
    exact = Split(torch.zeros(1, width, dtype=torch.float64), torch.empty(1, 0, dtype=torch.float64))
    spec = DataSpec("problem", (width,), 1, target="value", problem=problem)
    return RawData(Split(NoisyExamples(examples, width, noise, exact), None), exact, exact, spec)


def numbers(*values: float) -> Tensor:
    """``values`` as a vector, float64."""
    return torch.tensor(values, dtype=torch.float64)
