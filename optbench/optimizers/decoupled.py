"""Decoupled weight decay around any optimizer."""

from collections.abc import Callable
from typing import Any

import torch

from optbench.optimizers.base import unhooked

# One class for each base, so that two optimizers of the same kind are of the same type.
_CLASSES: dict[type[torch.optim.Optimizer], type[torch.optim.Optimizer]] = {}


def with_decoupled_weight_decay(base: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """A subclass of ``base`` that decays the weights directly, not through the gradient.

    With learning rate α and weight decay λ, a step takes the gradient at θ, then θ ← (1 - αλ)θ, then ``base``'s step
    with that gradient (Loshchilov & Hutter 2019, "Decoupled weight decay regularization", arXiv 1711.05101, algorithm
    2, with their schedule multiplier inside α, as in torch's AdamW). λ is each parameter group's ``decoupled_decay``
    (0 if it is absent); the base's own ``weight_decay`` keeps its meaning. For optimizers that evaluate the closure once;
    parameters without a gradient do not change.
    """
    if base in _CLASSES:
        return _CLASSES[base]
    base_step = unhooked(base)

    class Decoupled(base):  # type: ignore[valid-type, misc]
        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in self.param_groups:
                decay = group.get("decoupled_decay", 0.0)
                parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
                if decay > 0 and parameters:
                    torch._foreach_mul_(parameters, 1 - group["lr"] * decay)
            base_step(self)
            return loss

    Decoupled.__name__ = Decoupled.__qualname__ = f"{base.__name__}WithDecoupledWeightDecay"
    Decoupled.__doc__ = f"{base.__name__} with decoupled weight decay; see with_decoupled_weight_decay."
    return _CLASSES.setdefault(base, Decoupled)
