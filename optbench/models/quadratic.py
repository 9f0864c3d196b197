"""The weights of a quadratic problem, which are its own model."""

import torch
from torch import Tensor, nn

from optbench.data.quadratic import Quadratic as Problem
from optbench.data.spec import DataSpec
from optbench.errors import UserError


class Quadratic(nn.Module):
    """θ, of which the loss is ½ θᵀ H θ on the average over the examples of ``dataset=quadratic``.

    It begins at ``start`` in every eigenvector: Uᵀθ = (start, start, ...). Raises UserError for data without such a problem.
    """

    roots: Tensor
    rotation: Tensor | None

    def __init__(self, data: DataSpec, start: float = 1.0) -> None:
        super().__init__()
        problem = data.problem
        if not isinstance(problem, Problem):
            raise UserError("model=quadratic: needs the curvature of its data; accepted: dataset=quadratic")
        self.multiplicative = problem.multiplicative
        # Known from the configuration, and so not a part of the state.
        self.register_buffer("roots", problem.roots, persistent=False)
        self.register_buffer("rotation", problem.rotation, persistent=False)
        at = torch.full_like(problem.roots, start)
        self.weights = nn.Parameter((at if problem.rotation is None else problem.rotation @ at).float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, ...) -> √h ∘ Uᵀθ, the same for every example, (n, d); rows (n, d) -> products with θ, (n, 1)."""
        if self.multiplicative:
            return inputs @ self.weights[:, None]
        along = self.weights if self.rotation is None else self.weights @ self.rotation
        return (self.roots * along).expand(len(inputs), -1)
