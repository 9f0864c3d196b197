"""Agreement with a formula in NumPy, with another implementation that computes exactly the same, or with one that is named."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optbench.config.targets import imported
from optbench.testing import problem
from optbench.testing.formulas import FORMULAS, Formula
from optbench.testing.outcomes import Found, NotApplicable, require_close
from optbench.testing.session import Session, Steps
from optbench.testing.subject import Subject

_STEPS = 10
# torch keeps the product of NAdam's momenta in float32; sums over the whole tensor are done in another order.
_RTOL = {"nadam": 1e-5}
_OURS, _ZOO = "optbench.optimizers.", "optbench.optimizers.zoo.from_model"
_UNKNOWN = "no reference is known; --reference names one"
# The constants of the formulas, by the names that they have in parameter groups.
_CONSTANTS = {"momentum": "mu", "alpha": "rho", "rho": "rho", "eps": "eps", "momentum_decay": "psi"}


@dataclass(frozen=True)
class Peer:
    """Another implementation that is exact: ``make`` builds it from a model and the group's options.

    options: of ours, at which the two compute the same. about: which implementation that is.
    """

    about: str
    make: Callable[[nn.Module, Mapping[str, Any]], torch.optim.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)


def _of_package(name: str, *taken: str, **options: Any) -> Callable[..., torch.optim.Optimizer]:
    def make(model: nn.Module, group: Mapping[str, Any]) -> torch.optim.Optimizer:
        try:
            target = imported(f"pytorch_optimizer.{name}", "reference")
        except Exception as error:
            raise NotApplicable(f"its reference, pytorch_optimizer.{name}, is not installed") from error
        given = {option: group[option] for option in ("lr", *taken)}
        optimizer: torch.optim.Optimizer = target(model.parameters(), **given, **options)
        return optimizer

    return make


_PEERS = {
    "lars": Peer(
        "pytorch_optimizer.LARS, which has no epsilon",
        _of_package("LARS", "weight_decay", "momentum", "trust_coefficient", "nesterov"),
        {"epsilon": 0.0},
    ),
    "lamb": Peer(
        "pytorch_optimizer.Lamb, which corrects no bias, adapts vectors too and clips the norm to [0, 10]",
        _of_package("Lamb", "betas", "weight_decay", "eps", weight_decouple=False, adam_debias=True),
        {
            "clamp": [0, 10],
            "bias_correction": False,
            "always_adapt": True,
            "epsilon": 1e-14,
            "decay_norm_and_bias": True,
        },
    ),
}


def reference(subject: Subject) -> Found:
    """Ten steps end where those of the reference end, to rounding; decay is left out where a formula is the reference."""
    if subject.reference is not None:
        # So that one group of parameters has one decay, as the reference's.
        one: dict[str, Any] = {"decay_norm_and_bias": True} if "weight_decay" in subject.choice.options else {}
        session = Session(subject, **one)
        make = _named(subject.reference)
        return _compare(subject, session, _stepped(make, session), subject.reference)
    if subject.transforms:
        raise NotApplicable("there are transforms around it, and no reference with them is known")
    target = str(subject.choice.target)
    if not target.startswith(("torch.optim.", _OURS)):  # a class of one's own may inherit from a choice, with its name
        raise NotApplicable(_UNKNOWN)
    peer = _PEERS.get(subject.choice.rule) if target.startswith(_OURS) and target != _ZOO else None
    if peer is not None:
        session = Session(subject, **peer.options)
        return _compare(subject, session, _stepped(peer.make, session), peer.about)
    session = Session(subject, **subject.without_decay)
    group = session.optimizer.param_groups[0]
    formula = _formula(subject, group)
    if formula is None:
        raise NotApplicable(_UNKNOWN)
    weights = _by_formula(formula, session)
    return _compare(subject, session, weights, f"the formula of {formula.__name__}, {inspect.getdoc(formula)}")


def _compare(subject: Subject, session: Session, expected: dict[str, Tensor], about: str) -> Found:
    rtol = _RTOL.get(subject.choice.rule.lower(), 1e-7)
    found = require_close(session.step(_STEPS).weights(), expected, f"ten steps and {about}", rtol=rtol)
    return Found({**found.values, "reference": about})


def _named(path: str) -> Callable[[nn.Module, Mapping[str, Any]], torch.optim.Optimizer]:
    """An optimizer of the class at ``path`` with those options of the group that its constructor takes."""
    target = imported(path, "reference")

    def make(model: nn.Module, group: Mapping[str, Any]) -> torch.optim.Optimizer:
        accepted = inspect.signature(target).parameters
        given = {name: group[name] for name in accepted if name in group and name not in ("params", "foreach", "fused")}
        optimizer: torch.optim.Optimizer = target(model.parameters(), **given)
        return optimizer

    return make


def _stepped(make: Callable[[nn.Module, Mapping[str, Any]], torch.optim.Optimizer], like: Session) -> dict[str, Tensor]:
    """The weights after ten steps of another optimizer with the options of ``like``'s first group."""
    other = Steps(problem.network(), lambda model: make(model, like.optimizer.param_groups[0]))
    # Its groups may be several: decay and rates are theirs.
    return other.step(_STEPS).weights()


def _formula(subject: Subject, group: Mapping[str, Any]) -> Formula | None:
    """The formula of a choice, of a class of torch's, or of a name of the zoo; None where there is none at these options."""
    name = subject.choice.rule.lower()
    if name == "adamw":
        name = "adam"
    if name in ("sgd", "momentum", "nesterov"):
        name = "nesterov" if group.get("nesterov") else "momentum" if group.get("momentum") else "sgd"
    if name in ("adam", "amsgrad"):
        name = "amsgrad" if group.get("amsgrad") else "adam"
    plain = not any(group.get(option) for option in ("centered", "lr_decay", "dampening", "maximize"))
    return FORMULAS.get(name) if plain and not (name == "rmsprop" and group.get("momentum")) else None


def _by_formula(formula: Formula, like: Session) -> dict[str, Tensor]:
    """The weights after ten steps of the ``formula`` with the constants of ``like``'s first group."""
    group = like.optimizer.param_groups[0]
    constants = {_CONSTANTS[name]: value for name, value in group.items() if name in _CONSTANTS and value is not None}
    if "betas" in group:
        constants |= {"beta1": group["betas"][0], "beta2": group["betas"][1]}
    accepted = inspect.signature(formula).parameters
    constants = {"lr": float(group["lr"])} | {name: value for name, value in constants.items() if name in accepted}
    memories: dict[str, dict[str, Any]] = {}
    session = Steps(problem.network(), _Still)
    for step in range(1, _STEPS + 1):
        session.step()
        weights = session.weights()
        for name, gradient in session.gradients().items():
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                change = formula(gradient.numpy(), memories.setdefault(name, {}), step, **constants)
            weights[name] -= torch.from_numpy(np.asarray(change))
        session.move_to(weights)
    return session.weights()


class _Still(torch.optim.Optimizer):
    """Evaluates its closure and moves nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"lr": 0.0})

    def step(self, closure: Any = None) -> Any:
        """Evaluate ``closure``, with the gradient."""
        return closure()
