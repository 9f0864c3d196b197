"""An unbiased estimate of the diagonal of the Hessian from one product, for methods that keep an average of it."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from optbench import randomness
from optbench.objective import Objective
from optbench.optimizers.groups import decay_groups, trainable
from optbench.optimizers.subspace import check_twice_differentiable


class OfHessianDiagonal(torch.optim.Optimizer):
    """The base class of first-order steps that are scaled by such an estimate."""

    @classmethod
    def from_model(
        cls, model: nn.Module, weight_decay: float = 0.0, decay_norm_and_bias: bool = False, **options: Any
    ) -> Self:
        """The method for ``model``; biases and norm scales are not decayed unless ``decay_norm_and_bias``."""
        return cls(decay_groups(trainable(model), weight_decay, decay_norm_and_bias), **options)

    def check(self, objective: Objective) -> None:
        """Raise UserError if no step can be taken on ``objective``: torch must be able to differentiate its model twice."""
        check_twice_differentiable(objective)


@torch.no_grad()
def hessian_diagonal(objective: Objective, seed: int, step: int) -> dict[int, Tensor]:
    """z ∘ H z for the Hessian H of ``objective`` at its present weights and one z of random signs, by the id of each parameter.

    Its expectation is the diagonal of H (Bekas, Kokiopoulou & Saad 2007, after Hutchinson 1989). The signs are functions of
    (``seed``, ``step``, name of the tensor, position in it), equal on all ranks.
    """
    parameters, signs = objective.network.parameters, []
    names = {id(parameter): name for name, parameter in objective.network.named_parameters.items()}
    for parameter in parameters:
        key = randomness.key(seed, f"hutchinson of {names[id(parameter)]}", step)
        position = torch.arange(parameter.numel(), device=parameter.device)
        signs.append((1 - 2 * (randomness.bits(key, position) & 1)).to(parameter.dtype).view(parameter.shape))
    products = objective.hvp(signs)
    return {id(parameter): sign * product for parameter, sign, product in zip(parameters, signs, products, strict=True)}
