"""AdaCore: the subset whose weighted gradient is nearest to that of all examples, after preconditioning by the curvature."""

from typing import Any

from torch import Tensor, nn

from optbench.errors import UserError
from optbench.selection.craig import Craig
from optbench.selection.curvature import CurvatureAverage
from optbench.selection.population import Population


class AdaCore(Craig):
    """CRAIG with the features u_i = g_i / (D̄ + ε mean D̄)^power, for an average D̄ of the diagonal of the Hessian.

    g_i is the gradient of example i in the bias of the last linear layer, which is that in the outputs, and D̄ is the diagonal for
    the same coordinates: `CurvatureAverage` of estimates z ∘ H z at this and earlier selections, each the mean of ``draws`` of
    them.

    power: 1 for Newton's step H^-1 g, whose distances change if parameters are scaled; 0.5 for H^-1/2 g, whose distances do not.
    average, decay: see `CurvatureAverage`. draws: random vectors of one selection. examples: the first so many examples, over
    which the Hessian is a mean; None for all. epsilon: ε.

    Source: Pooladzandi, Davini & Mirzasoleiman 2022, "Adaptive second order coresets for data-efficient machine learning" (arXiv
    2207.13887). A reconstruction: only its abstract and opening could be read, and its repository is empty. They confirm the
    exponential average of the Hessian, the preconditioned gradient, and weighted subsets. The coordinates, the form of the
    average and all defaults are ours; the paper's average of gradients over selections is left out.
    """

    def __init__(
        self,
        fraction: float,
        every: int,
        per_class: bool = True,
        power: float = 1.0,
        average: str = "mean_abs",
        decay: float = 0.9,
        draws: int = 10,
        examples: int | None = 2048,
        epsilon: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(fraction, every, per_class, seed)
        self.power, self.draws, self.examples, self.epsilon = power, draws, examples, epsilon
        self.curvature = CurvatureAverage(average, decay)

    def check(self, model: nn.Module) -> None:
        """Raise UserError for a model whose outputs are not those of a linear layer with a bias."""
        if last_bias(model) is None:
            raise UserError(
                f"selection=adacore: {type(model).__name__} does not end in a linear layer (nn.Linear) with a bias, whose "
                "curvature it measures; accepted: another model, or selection=craig"
            )

    def features(self, population: Population) -> Tensor:
        """The preconditioned gradients u_i, (n, d), float64."""
        gradients = population.output_gradients()
        bias = last_bias(population.network.model)
        assert bias is not None
        diagonal = self.curvature.update(population.hessian_diagonal(bias, self.draws, self.examples, self.number))
        return gradients / (diagonal + self.epsilon * diagonal.mean()) ** self.power

    def state_dict(self) -> dict[str, Any]:
        """The state of CRAIG, and the average of the curvature."""
        return {**super().state_dict(), "curvature": self.curvature.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        super().load_state_dict(state)
        self.curvature.load_state_dict(state["curvature"])


def last_bias(model: nn.Module) -> nn.Parameter | None:
    """The bias of the last of the modules without modules, if it is a linear layer that trains one; otherwise None."""
    leaves = [module for module in model.modules() if not list(module.children())]
    last = leaves[-1]
    if not isinstance(last, nn.Linear) or last.bias is None or not last.bias.requires_grad:
        return None
    return last.bias
