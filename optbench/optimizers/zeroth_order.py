"""Descent without gradients: differences of the loss along random directions."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench import randomness
from optbench.objective import Objective
from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import parameters_given, trainable

DISTRIBUTIONS = ("gaussian", "sphere", "rademacher")


class ZerothOrder(torch.optim.Optimizer):
    """SGD with an estimate of the gradient from losses alone, x ← x - lr ĝ with the mean ĝ over ``directions`` draws of u of

        forward    ĝ = s [f(x + μu) - f(x)] / μ · u             ``directions`` + 1 losses a step
        central    ĝ = s [f(x + μu) - f(x - μu)] / 2μ · u       2 ``directions`` losses a step

    for d weights, ``smoothing`` μ, and by ``distribution``

        gaussian      u ~ N(0, I), s = 1             Nesterov & Spokoiny 2017: E ĝ is the gradient of E f(x + μu)
        sphere        u uniform, ‖u‖ = 1, s = d      Flaxman, Kalai & McMahan 2005 (arXiv cs/0408007)
        rademacher    uᵢ = ±1, s = 1                 simultaneous perturbation (SPSA), Spall 1992

    As μ → 0 the second moment E ‖ĝ‖² is (d + 2) ‖g‖² for gaussian and d ‖g‖² for the others, so that the best learning rate is
    about as many times smaller than that of SGD. On ½ ‖x‖² with gaussian directions it is 1 / (d + 2), and each step takes the
    expected loss to 1 - 1 / (d + 2) of itself. The estimate is a difference of two rounded losses, divided by μ: in float32 it
    needs a larger μ than in float64.

    All losses of a step are those of its batch. Directions are functions of (``seed``, step, position of the weight), equal on
    all ranks. They are not kept: those of a step are drawn again for each use, so that the only memory is a second copy of the
    weights, for x + μu. The loss that a step returns is the first one that it takes, f(x) or f(x + μu).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        distribution: str = "gaussian",
        difference: str = "central",
        smoothing: float = 1e-3,
        directions: int = 1,
        seed: int = 0,
    ) -> None:
        require_common(lr, 0.0)
        require(distribution in DISTRIBUTIONS, "distribution", distribution, f"one of {', '.join(DISTRIBUTIONS)}")
        require(difference in ("forward", "central"), "difference", difference, "one of forward, central")
        require(smoothing > 0, "smoothing", smoothing, "> 0")
        require(directions >= 1, "directions", directions, ">= 1")
        self._distribution, self._central, self._seed = distribution, difference == "central", seed
        self._smoothing, self._directions = smoothing, directions
        super().__init__(parameters_given(params), {"lr": lr, "step": 0})

    @classmethod
    def from_model(cls, model: nn.Module, lr: float, **options: Any) -> "ZerothOrder":
        """The method for all parameters of ``model`` that require a gradient."""
        return cls(trainable(model), lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update from losses of ``closure``, an ``Objective``; returns the first of them.

        Raises UserError for another closure, which has no losses at other weights.
        """
        objective = krylov.require_objective(closure, type(self).__name__, "the loss at other weights")
        weights = [each for group in self.param_groups for each in group["params"] if each.requires_grad]
        step = self.param_groups[0]["step"]
        keys = [
            randomness.key(self._seed, "direction", step * self._directions + number)
            for number in range(self._directions)
        ]
        # A 0-d tensor for each direction; all of them are known before the first weight moves.
        middle = None if self._central else objective.loss()
        slopes = [self._slope(objective, weights, key, middle) for key in keys]
        rates = {id(each): group["lr"] for group in self.param_groups for each in group["params"]}
        for key, slope in zip(keys, slopes, strict=True):
            for weight, direction in zip(weights, self._drawn(key, weights), strict=True):
                weight.addcmul_(slope.to(weight.dtype), direction, value=-rates[id(weight)] / self._directions)
        for group in self.param_groups:
            group["step"] = step + 1
        return objective.value

    def _slope(self, objective: Objective, weights: list[Tensor], key: int, middle: Tensor | None) -> Tensor:
        """s times the difference quotient of the loss along the direction of ``key``, 0-d; ``middle`` is f(x), if it is known."""

        def loss_at(distance: float) -> Tensor:
            drawn = self._drawn(key, weights)
            moved = [weight.add(each, alpha=distance) for weight, each in zip(weights, drawn, strict=True)]
            return objective.loss_with(weights, moved).double()

        scale = sum(map(torch.numel, weights)) if self._distribution == "sphere" else 1
        above = loss_at(self._smoothing)
        if middle is not None:
            return (above - middle.double()) * (scale / self._smoothing)
        return (above - loss_at(-self._smoothing)) * (scale / (2 * self._smoothing))

    def _drawn(self, key: int, weights: list[Tensor]) -> Iterator[Tensor]:
        """The direction u of ``key``, in the shapes and types of ``weights``, one after the other."""
        length = 1.0
        if self._distribution == "sphere":
            length = float(sum(self._numbers(key, *place).square().sum() for place in _places(weights))) ** 0.5
        for weight, place in zip(weights, _places(weights), strict=True):
            yield (self._numbers(key, *place) / length).to(weight.dtype).view(weight.shape)

    def _numbers(self, key: int, first: int, like: Tensor) -> Tensor:
        """Draws for the positions from ``first`` of the weights of ``like``, one after the other, float64."""
        positions = torch.arange(first, first + like.numel(), device=like.device)
        if self._distribution == "rademacher":
            return torch.where(randomness.uniform(key, positions) < 0.5, -1.0, 1.0).double()
        return randomness.normal(key, positions)


def _places(weights: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """The position of the first number of each of ``weights`` among all numbers, and the weights."""
    first = 0
    for weight in weights:
        yield first, weight
        first += weight.numel()
