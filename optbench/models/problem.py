"""The weights of a problem with known answers, which are its own model."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optbench.data.problems import Problem as Function
from optbench.data.spec import DataSpec
from optbench.errors import UserError


class Problem(nn.Module):
    """θ, of which the loss of an example with the noise ζ is f(θ) + ⟨ζ, θ⟩ (see ``optbench.data.problems.problem``).

    It begins at ``start``, or where the problem says, plus a normal draw with the standard deviation ``spread`` in each weight,
    from torch's generator: the seed of a run is then that of its start. With ``excess``, f is less its minimum, so that 0 is the
    lowest loss of every problem. Weights and numbers of the problem are in float64 until
    the module is converted. Raises UserError for data without such a problem, and for a start of another length.
    """

    def __init__(
        self, data: DataSpec, start: Sequence[float] | None = None, spread: float = 0.0, excess: bool = False
    ) -> None:
        super().__init__()
        problem = data.problem
        if not isinstance(problem, Function):
            raise UserError("model=problem: needs the function of its data; accepted: a dataset of kind problem")
        at = problem.start if start is None else torch.tensor(list(start), dtype=torch.float64)
        if at.shape != problem.start.shape:
            raise UserError(
                f"model.start={at.tolist()}: has {len(at)} numbers; accepted: null (where the problem begins), or as many as the "
                f"problem has weights, {len(problem.start)}"
            )
        self.function = copy.deepcopy(problem)  # which is converted with the weights
        self.lowest = problem.minimum if excess else 0.0
        self.weights = nn.Parameter(at + spread * torch.randn(len(at), dtype=torch.float64) if spread else at.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """ζ (n, d) -> f(θ) + ζ θ, (n, 1), or f(θ) - minimum + ζ θ; in evaluation with what the problem shows of f."""
        shown = self.function if self.training else self.function.evaluated
        value: Tensor = shown(self.weights) - self.lowest
        return value + inputs @ self.weights[:, None]
