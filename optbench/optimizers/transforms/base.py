"""An optimizer with transforms around it, and what a transform may change of its step."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from optbench.errors import UserError


class Transform:
    """A part of a step around any optimizer; a subclass overrides one of the methods, or several.

    state: the tensors and plain numbers that it remembers of each parameter, which are saved. Only parameters with a gradient
    have a part in a step. Several transforms are called one after another at each of the four places.
    """

    def __init__(self) -> None:
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    def begin(self, parameters: list[Tensor]) -> None:
        """Look at the weights of all parameters before a step."""

    def gradient(self, parameters: list[Tensor], evaluate: Callable[[], Any] | None) -> None:
        """Change ``grad`` of ``parameters`` in place, whenever an evaluation has filled it.

        evaluate: fills it again, at the present weights and on the same batch; None where the gradients were given.
        """

    def update(self, parameter: Tensor, before: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        """Change ``parameter`` in place, which a step of the optimizer has moved from ``before``.

        gradient: the last one of the step. lr: of the step. decay: λ where the step contains -lr λ ``before``, and 0 if it does
        not, or if λ is not known (`decoupled_decay`).
        """

    def end(self, parameters: list[Tensor]) -> None:
        """Change the weights of ``parameters``, those with a gradient, in place after a step and its updates."""


def without_decay(parameter: Tensor, before: Tensor, lr: float, decay: float) -> tuple[Tensor, Tensor]:
    """The step from ``before`` to ``parameter`` without -lr λ ``before``, and the point from which that part leaves for it.

    A tensor that has not moved has not decayed: some methods make no first step.
    """
    moved: Tensor = parameter - before
    if lr * decay == 0:
        return moved, before
    drift = before * (lr * decay) * moved.any()
    return moved + drift, before - drift


def decoupled_decay(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """λ if ``optimizer`` subtracts lr λ θ from the weights of ``group``, apart from the gradient's path, else 0.

    Known by the groups of `with_decoupled_weight_decay`, the flags that torch and pytorch-optimizer have in their groups, and
    the attribute ``decay_is_decoupled`` of a class. Of other methods (Prodigy, whose decay has a rate of its own; K-FAC; LAMB)
    the decay is a part of the step like any other.
    """
    found = float(group.get("decoupled_decay", 0.0))
    flagged = group.get("decoupled_weight_decay") or (group.get("weight_decouple") and not group.get("fixed_decay"))
    if flagged or getattr(optimizer, "decay_is_decoupled", False) or isinstance(optimizer, torch.optim.Adafactor):
        found += float(group["weight_decay"])
    return found


def _placed(value: Any, like: Tensor) -> Any:
    """A remembered value on the device of its parameter, and in its precision, as torch's optimizers load theirs."""
    if not isinstance(value, Tensor):
        return value
    return value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)


class Transformed(torch.optim.Optimizer):
    """``inner`` with ``transforms`` around each of its steps, which act in the order given.

    Groups, state and everything else are those of ``inner``; the state dict has the entry ``transforms`` beside those of it.
    The gradients are changed whenever the objective has been evaluated, within the step of ``inner``.

    Raises UserError for two transforms of one class.
    """

    def __init__(self, inner: torch.optim.Optimizer, transforms: Sequence[Transform]) -> None:
        # Not that of torch's class, which would make groups and state of its own.
        self.inner, self.transforms = inner, list(transforms)
        names = [type(each).__name__ for each in self.transforms]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"transform: {name} is there twice; accepted: once")
        self._updating = [each for each in self.transforms if type(each).update is not Transform.update]
        self._gradients: dict[Tensor, Tensor] = {}
        self._with_gradient: list[Tensor] = []
        self._within = False
        for each in self.transforms:
            if hasattr(each, "evaluation_parameters"):
                self.evaluation_parameters = each.evaluation_parameters

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "transforms"):  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return " + ".join([repr(self.inner), *(type(each).__name__ for each in self.transforms)])

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the inner optimizer."""
        return self.inner.param_groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:  # type: ignore[override]
        """The state of the inner optimizer."""
        return self.inner.state

    @property
    def steps(self) -> int:
        """The number of steps of a method that has kinds of steps (`optbench.optimizers.periods`)."""
        return self.inner.steps  # type: ignore[attr-defined, no-any-return]

    @steps.setter
    def steps(self, number: int) -> None:
        self.inner.steps = number  # type: ignore[attr-defined]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self.inner.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        self.inner.add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of the inner optimizer with the transforms; returns what it returns."""
        parameters = [each for group in self.param_groups for each in group["params"]]
        for transform in self.transforms:
            transform.begin(parameters)
        before = [each.detach().clone() for each in parameters] if self._updating else []
        rates = [
            (float(group["lr"]), decoupled_decay(self.inner, group))
            for group in self.param_groups
            for _ in group["params"]
            if self._updating
        ]
        with self._heard(closure) as told:
            result = self.inner.step(told)
        for parameter, start, (lr, decay) in zip(parameters, before, rates, strict=False):
            if parameter in self._gradients:
                for transform in self._updating:
                    transform.update(parameter, start, self._gradients[parameter], lr, decay)
        self._gradients = {}
        for transform in self.transforms:
            transform.end(self._with_gradient)
        self._with_gradient = []
        return result

    @contextmanager
    def _heard(self, closure: Callable[[], Any] | None) -> Iterator[Callable[[], Any] | None]:
        """Within it, the gradients are changed at the end of every evaluation of the closure that it gives."""
        if closure is None:
            self._receive(None)
            yield None
        elif (listeners := getattr(closure, "on_gradient", None)) is not None:

            def hear(_: Any) -> None:
                self._receive(closure)

            listeners.append(hear)
            try:
                yield closure
            finally:
                listeners.remove(hear)
        else:

            def evaluate() -> Any:
                result = closure()
                self._receive(closure)
                return result

            yield evaluate

    @torch.no_grad()
    def _receive(self, evaluate: Callable[[], Any] | None) -> None:
        if self._within:  # an evaluation that a transform has asked for
            return
        self._within = True
        try:
            parameters = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
            for transform in self.transforms:
                transform.gradient(parameters, evaluate)
        finally:
            self._within = False
        self._with_gradient = parameters
        if self._updating:
            self._gradients = {each: each.grad.clone() for each in parameters}

    # ---- state for checkpoints ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """That of the inner optimizer, and what the transforms remember, with parameters numbered as there."""
        numbers = {each: number for number, each in enumerate(self._all())}
        remembered = {
            type(each).__name__: {numbers[parameter]: dict(state) for parameter, state in each.state.items()}
            for each in self.transforms
        }
        return {**self.inner.state_dict(), "transforms": remembered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        rest = dict(state_dict)
        remembered, parameters = rest.pop("transforms"), self._all()
        self.inner.load_state_dict(rest)
        for each in self.transforms:
            each.state.clear()
            for number, state in remembered[type(each).__name__].items():
                like = parameters[number]
                each.state[like] = {name: _placed(value, like) for name, value in state.items()}

    def unsaved_bytes(self) -> int:
        """The bytes that the inner optimizer keeps outside of its state."""
        return int(self.inner.unsaved_bytes()) if hasattr(self.inner, "unsaved_bytes") else 0

    def _all(self) -> list[Tensor]:
        return [each for group in self.param_groups for each in group["params"]]
