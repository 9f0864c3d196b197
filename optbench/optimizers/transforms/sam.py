"""The gradient of SAM for any first-order optimizer."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from optbench.errors import UserError
from optbench.optimizers.base import require
from optbench.optimizers.sam import evaluate_above
from optbench.optimizers.transforms.base import Transform


class Ascended(Transform):
    """The gradient at θ + ε in place of that at θ, with ε of SAM, or of ASAM if ``adaptive`` (`optbench.optimizers.sam.SAM`).

    radius: ρ. eta: η. The optimizer's own step, with its weight decay, is from θ. Other transforms see the gradient at θ + ε.

    Source: Foret, Kleiner, Mobahi & Neyshabur 2021 (arXiv 2010.01412), whose base may be any optimizer; Kwon et al. 2021 (arXiv
    2102.11600).
    """

    def __init__(self, radius: float = 0.05, adaptive: bool = False, eta: float = 0.01) -> None:
        require(radius >= 0, "radius", radius, ">= 0")
        require(eta >= 0, "eta", eta, ">= 0")
        super().__init__()
        self._radius, self._adaptive, self._eta = radius, adaptive, eta

    def gradient(self, parameters: list[Tensor], evaluate: Callable[[], Any] | None) -> None:
        """Evaluate again at θ + ε; raises UserError where the gradients were given without a closure."""
        if evaluate is None:
            raise UserError(
                "transform=sam: needs a closure that evaluates the loss and its gradient, which it calls twice"
            )
        evaluate_above(evaluate, parameters, self._radius, self._adaptive, self._eta)
