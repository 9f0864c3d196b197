"""LAMB: layer-wise adaptive moments."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, norms, require, require_betas, require_common


class LAMB(FirstOrderOptimizer):
    """Adam whose step for each tensor w is rescaled to the length lr · φ(‖w‖).

    With Adam's direction r = m̂ / (√v̂ + ε), weight decay λ and learning rate α, for each tensor

        u = r + λw,    w ← w - α · φ(‖w‖) / ‖u‖ · u,    the ratio φ(‖w‖) / ‖u‖ being 1 if ‖w‖ = 0 or ‖u‖ = 0.

    φ(z) = z, or z clipped to [low, high] with ``clamp=(low, high)``. Biases and the scales of norms (tensors of fewer
    than two dimensions) take the plain Adam step without decay, unless ``always_adapt``. (Other codes skip the ratio if
    the weight decay is 0; here LAMB without weight decay still uses it.)

    Source: You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes" (arXiv
    1904.00962), algorithm 2. The paper's text leaves φ's bounds open, and its later versions drop the bias correction
    (``bias_correction=False``). Not in the paper: the exclusions.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        clamp: Sequence[float] | None = None,
        bias_correction: bool = True,
        always_adapt: bool = False,
    ) -> None:
        require_common(lr, weight_decay)
        require_betas(betas)
        require(eps >= 0, "eps", eps, ">= 0")
        bounds = None if clamp is None else tuple(float(bound) for bound in clamp)
        require(
            bounds is None or (len(bounds) == 2 and 0 <= bounds[0] < bounds[1]),
            "clamp",
            clamp,
            "null or two numbers with 0 <= low < high",
        )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "clamp": bounds,
            "bias_correction": bias_correction,
            "always_adapt": always_adapt,
        }
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        directions = self._adam_directions(
            parameters, gradients, group["betas"], group["eps"], group["bias_correction"]
        )
        adapted = [i for i, weight in enumerate(parameters) if group["always_adapt"] or weight.ndim > 1]
        if adapted:
            self._adapt(group, [parameters[i] for i in adapted], [directions[i] for i in adapted])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])

    @staticmethod
    def _adapt(group: dict[str, Any], weights: list[Tensor], directions: list[Tensor]) -> None:
        """Turn each r into φ(‖w‖) / ‖u‖ · u, in place."""
        if group["weight_decay"] > 0:
            torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
        weight_norms, direction_norms = norms(weights), norms(directions)
        lengths = weight_norms if group["clamp"] is None else weight_norms.clamp(*group["clamp"])
        ratios = torch.where((weight_norms > 0) & (direction_norms > 0), lengths / direction_norms, 1.0)
        torch._foreach_mul_(directions, ratios.unbind())
