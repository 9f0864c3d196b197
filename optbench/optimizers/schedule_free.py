"""Schedule-free SGD and AdamW: gradients at an interpolation between an average of the iterates and the last iterate."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, require, require_betas, require_common


class ScheduleFree(FirstOrderOptimizer):
    """The iteration of Defazio et al. 2024; a subclass says how the base iterate z moves.

    The parameters are y, where gradients are taken. x counts: it is what evaluations, probes and other users of the weights see.
    With the learning rate α_k of a step (a warm-up included) and the largest one so far α_max

        z ← z - α_k d(g at y)                     d: the direction of the base, with decay λ y
        c = w/S,  w = k^r α_max^p,  S ← S + w     ``weight_power`` r, ``rate_power`` p
        x ← (1 - c) x + c z,    y ← β x + (1 - β) z

    from x = y = z = θ₀. There is no first moment and no schedule, but a warm-up is advised.

    x is kept, not derived from y and z: evaluations then change nothing to the last bit, and β may change on the way.

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky 2024, "The road less scheduled" (arXiv 2405.15682), equations
    for x, y and z, and its authors' code, for the weights of the average and for the decay at y.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any], weight_power: float, rate_power: float) -> None:
        require_common(defaults["lr"], defaults["weight_decay"])
        require(weight_power >= 0, "weight_power", weight_power, ">= 0")
        require(rate_power >= 0, "rate_power", rate_power, ">= 0")
        super().__init__(params, {**defaults, "step": 0, "largest_rate": 0.0, "weight_sum": 0.0})
        self._weight_power, self._rate_power = weight_power, rate_power

    def evaluation_parameters(self) -> dict[Tensor, Tensor]:
        """x of every parameter that has moved."""
        return {parameter: state["average"] for parameter, state in self.state.items() if "average" in state}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one update; returns the result of ``closure``, which fills the gradients (None without one)."""
        for group in self.param_groups:
            self._count(group)
        return super().step(closure)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["iterate"] = parameter.detach().clone()
                self.state[parameter]["average"] = parameter.detach().clone()
        iterates = [self.state[parameter]["iterate"] for parameter in parameters]
        averages = [self.state[parameter]["average"] for parameter in parameters]
        directions = self._directions(group, parameters, gradients)
        if group["weight_decay"]:
            directions = list(torch._foreach_add(directions, parameters, alpha=group["weight_decay"]))
        torch._foreach_add_(iterates, directions, alpha=-group["lr"])
        torch._foreach_lerp_(averages, iterates, group["share"])
        torch._foreach_copy_(parameters, iterates)
        torch._foreach_lerp_(parameters, averages, self._interpolation(group))

    def _count(self, group: dict[str, Any]) -> None:
        """Move the numbers of a group: k, α_max, S and c."""
        group["step"] += 1
        group["largest_rate"] = max(group["largest_rate"], group["lr"])
        weight = group["step"] ** self._weight_power * group["largest_rate"] ** self._rate_power
        group["weight_sum"] += weight
        group["share"] = weight / group["weight_sum"] if group["weight_sum"] else 0.0

    def _directions(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """d of the base, without the decay: new tensors, or the gradients themselves."""
        raise NotImplementedError

    def _interpolation(self, group: dict[str, Any]) -> float:
        """β."""
        raise NotImplementedError


class ScheduleFreeSGD(ScheduleFree):
    """`ScheduleFree` around SGD: d(g) = g. momentum: β."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_power: float = 0.0,
        rate_power: float = 2.0,
        weight_decay: float = 0.0,
    ) -> None:
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults, weight_power, rate_power)

    def _directions(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        return gradients

    def _interpolation(self, group: dict[str, Any]) -> float:
        return float(group["momentum"])


class ScheduleFreeAdamW(ScheduleFree):
    """`ScheduleFree` around AdamW: d(g) = g / (√v̂ + ε), v the average of g² with decay β₂ and bias correction. β is β₁."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_power: float = 0.0,
        rate_power: float = 2.0,
        weight_decay: float = 0.0,
    ) -> None:
        require_betas(betas)
        require(eps >= 0, "eps", eps, ">= 0")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, weight_power, rate_power)

    def _directions(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        beta2 = group["betas"][1]
        squares = self._buffers("exp_avg_sq", parameters)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, (1 - beta2 ** group["step"]) ** 0.5)
        torch._foreach_add_(denominators, group["eps"])
        return list(torch._foreach_div(gradients, denominators))

    def _interpolation(self, group: dict[str, Any]) -> float:
        return float(group["betas"][0])
