"""The base class of optbench's first-order optimizers: the step around the update, and Adam's direction."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optbench.optimizers.groups import parameters_given


class FirstOrderOptimizer(torch.optim.Optimizer):
    """Evaluates the closure once, then calls ``_update`` for each set of parameters that can share one fused operation.

    Parameters without a gradient do not change, as with torch's optimizers.

    decay_is_decoupled: True if a step contains -lr λ θ with λ the ``weight_decay`` of a group, apart from the gradient's path, so
    that transforms of a step can leave it alone.
    """

    decay_is_decoupled = False

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(parameters_given(params), defaults)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Update ``parameters`` (one device and dtype, of ``group``) in place; ``gradients`` must not be written to."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; returns the result of ``closure``, which fills the gradients (None without one)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            for parameters in alike.values():
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                self._update(group, parameters, gradients)
        return loss

    def _buffers(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """The state tensors ``name`` of ``parameters``, zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [self.state[parameter][name] for parameter in parameters]

    def _adam_directions(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        betas: tuple[float, float],
        eps: float,
        bias_correction: bool = True,
    ) -> list[Tensor]:
        """m̂ / (√v̂ + ε) of Adam (Kingma & Ba 2015, algorithm 1), one new tensor for each parameter.

        m and v are the running means of g and g² with decays β₁ and β₂; m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ).
        """
        beta1, beta2 = betas
        averages = self._buffers("exp_avg", parameters)
        squares = self._buffers("exp_avg_sq", parameters)
        torch._foreach_lerp_(averages, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        if not bias_correction:
            torch._foreach_add_(denominators, eps)
            return list(torch._foreach_div(averages, denominators))
        steps = []
        for parameter in parameters:
            state = self.state[parameter]
            state["step"] = state.get("step", 0) + 1
            steps.append(state["step"])
        torch._foreach_div_(denominators, [(1 - beta2**step) ** 0.5 for step in steps])
        torch._foreach_add_(denominators, eps)
        directions = torch._foreach_div(averages, denominators)
        torch._foreach_div_(directions, [1 - beta1**step for step in steps])
        return list(directions)


class KeepsTypes(torch.optim.Optimizer):
    """For methods whose state is not of the floating type of the weights, to which torch casts it when it is loaded."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state dict."""
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, key in zip(group["params"], saved["params"], strict=True):
                for name, value in state_dict["state"].get(key, {}).items():
                    loaded = self.state[parameter].get(name)
                    if isinstance(value, Tensor) and isinstance(loaded, Tensor) and value.is_floating_point():
                        dtype = self._state_type(name, value, parameter)
                        if loaded.dtype != dtype:
                            self.state[parameter][name] = value.to(loaded.device, dtype, copy=True)

    def _state_type(self, name: str, saved: Tensor, parameter: Tensor) -> torch.dtype:
        """The type of the state ``name`` of ``parameter``: that of the ``saved`` one."""
        return saved.dtype


def unhooked(optimizer: type[torch.optim.Optimizer]) -> Callable[..., Any]:
    """The ``step`` of a class without the hooks in which torch wraps it once there is an instance.

    A subclass that calls its base's step needs it: the hooks must run once, around its own step.
    """
    step: Callable[..., Any] = optimizer.step
    return getattr(step, "__wrapped__", step) if getattr(step, "hooked", False) else step


def norms(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of each tensor, as one vector."""
    return torch.stack(torch._foreach_norm(tensors))


def require(valid: bool, name: str, value: object, accepted: str) -> None:
    """Raise a ValueError with the ``accepted`` values of ``name``, unless ``valid``."""
    if not valid:
        raise ValueError(f"{name}={value}: must be {accepted}")


def require_common(lr: float, weight_decay: float) -> None:
    """Raise a ValueError for a negative learning rate or weight decay."""
    require(lr >= 0, "lr", lr, ">= 0")
    require(weight_decay >= 0, "weight_decay", weight_decay, ">= 0")


def require_betas(betas: tuple[float, float]) -> None:
    """Raise a ValueError for decay rates outside [0, 1)."""
    require(len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "betas", betas, "two numbers in [0, 1)")
