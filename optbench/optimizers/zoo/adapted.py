"""Subclasses of the package's optimizers that take their steps by the contract of the bench.

A step gets the objective of its batch, evaluates it first at the present weights, returns that loss, and keeps all state in a
state dict of tensors and plain values.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench import randomness
from optbench.objective import Objective
from optbench.optimizers import krylov
from optbench.optimizers.base import unhooked
from optbench.optimizers.hutchinson import hessian_diagonal
from optbench.optimizers.subspace import check_twice_differentiable

_PACKED = "object of "


class EvaluatesFirst:
    """For methods that expect the gradient at the present weights before their step, which returns no loss or a later one."""

    def step(self, closure: Callable[[], Any]) -> Any:
        """Evaluate ``closure``, then take the step of the class; returns the first loss."""
        with torch.enable_grad():
            loss = closure()
        _step_of(EvaluatesFirst, self)(self, closure)
        return loss


class OfPair:
    """For GSAM, whose closure returns the model's outputs with the loss; it does not use them."""

    def step(self, closure: Callable[[], Any]) -> Any:
        """Take the step of the class; returns the first loss."""

        def pair() -> tuple[None, Any]:
            with torch.enable_grad():
                return None, closure()

        return _step_of(OfPair, self)(self, pair)[1]


class LargestStep:
    """For ALI-G, whose learning rate is the largest step that it takes, and which does not turn gradients on."""

    param_groups: list[dict[str, Any]]

    def step(self, closure: Callable[[], Any]) -> Any:
        """Take the step of the class, at most as long as the present learning rate says; returns the loss."""
        for group in self.param_groups:
            group["max_lr"] = group["lr"]
        with torch.no_grad():
            return _step_of(LargestStep, self)(self, torch.enable_grad()(closure))


class OfProducts:
    """For methods that take z ∘ H z, of which they would otherwise differentiate a graph that no gradient keeps.

    The signs z are functions of (seed, step, name of the tensor, position in it).
    """

    seed: int
    update_period: int
    param_groups: list[dict[str, Any]]

    def check(self, objective: Objective) -> None:
        """Raise UserError if no step can be taken on ``objective``: torch must be able to differentiate its model twice."""
        check_twice_differentiable(objective)

    def step(self, closure: Callable[[], Any]) -> Any:
        """Take the step of the class on the batch of ``closure``, an ``Objective``; returns the loss.

        Raises UserError for another closure.
        """
        objective = krylov.require_objective(closure, type(self).__name__)
        with torch.enable_grad():
            loss = objective()
        step = self.param_groups[0].get("step", 0)
        products = None
        if step % self.update_period == 0:
            diagonal = hessian_diagonal(objective, self.seed, step)
            products = [diagonal[id(each)] for group in self.param_groups for each in group["params"]]
        _step_of(OfProducts, self)(self, hessian=products)
        return loss


class KeyedDraws:
    """For methods that draw from the generators of Python or NumPy, which are in no checkpoint.

    Within a step all generators, torch's too, are seeded by (seed, step); afterwards they are where they were.
    """

    seed: int
    param_groups: list[dict[str, Any]]

    def step(self, closure: Callable[[], Any]) -> Any:
        """Take the step of the class; returns the loss. The closure sees the generators of the run."""
        with torch.enable_grad():
            loss = closure()
        group = self.param_groups[0]
        group["keyed_step"] = group.get("keyed_step", 0) + 1
        with _seeded(randomness.key(self.seed, "zoo", group["keyed_step"])):
            _step_of(KeyedDraws, self)(self)
        return loss


@contextmanager
def _seeded(key: int) -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    random.seed(key)
    np.random.seed(key % 2**32)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(key)
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


class OwnWeights:
    """For methods that exchange the weights before evaluations, which some of them cannot before the first step."""

    param_groups: list[dict[str, Any]]

    def eval(self) -> None:
        """Exchange the weights, if there has been a step."""
        if self.param_groups[0].get("step", 0):
            super().eval()  # type: ignore[misc]

    def train(self) -> None:
        """Exchange them back."""
        super().train()  # type: ignore[misc]


class Packed:
    """For methods whose state holds objects: in a state dict their attributes stand in their places, as dictionaries.

    Loading a checkpoint makes no objects of foreign classes. ``packed_classes``: those of the objects; a deque is packed too.
    """

    packed_classes: tuple[type[Any], ...] = ()
    state: dict[Any, Any]
    param_groups: list[dict[str, Any]]

    def state_dict(self) -> dict[str, Any]:
        """The state dict of the class, of tensors and plain values."""
        found: dict[str, Any] = _packed(super().state_dict(), self.packed_classes)  # type: ignore[misc]
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        for parameter, state in self.state.items():
            self.state[parameter] = _unpacked(state, {each.__name__: each for each in self.packed_classes})


def _packed(value: Any, kinds: tuple[type[Any], ...]) -> Any:
    if isinstance(value, kinds):
        return {_PACKED: type(value).__name__, **_packed(vars(value), kinds)}
    if isinstance(value, deque):
        return {_PACKED: "deque", "items": _packed(list(value), kinds), "maxlen": value.maxlen}
    if isinstance(value, dict):
        return {name: _packed(each, kinds) for name, each in value.items()}
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_packed(each, kinds) for each in value)
    # A number of an enumeration would be an object of its class.
    return int(value) if isinstance(value, int) and type(value) not in (int, bool) else value


def _unpacked(value: Any, kinds: dict[str, type[Any]]) -> Any:
    if isinstance(value, dict):
        inner = {name: _unpacked(each, kinds) for name, each in value.items() if name != _PACKED}
        if _PACKED not in value:
            return inner
        if value[_PACKED] == "deque":
            return deque(inner["items"], maxlen=inner["maxlen"])
        kind: Any = kinds[value[_PACKED]]
        found = kind.__new__(kind)
        vars(found).update(inner)
        return found
    if isinstance(value, torch.Size | Tensor):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(each, kinds) for each in value)
    return value


def adapted(target: type[Any], *parts: type[Any], **attributes: Any) -> type[Any]:
    """``target`` with the methods of ``parts`` before its own and these ``attributes``, under its own name."""
    own = {"__module__": target.__module__, "__doc__": target.__doc__, **attributes}
    return type(target.__name__, (*parts, target), own)


def _step_of(part: type[Any], optimizer: Any) -> Callable[..., Any]:
    """The step that comes after that of ``part``, without the hooks that torch runs around the outer one."""
    return unhooked(super(part, type(optimizer)))  # type: ignore[arg-type]
