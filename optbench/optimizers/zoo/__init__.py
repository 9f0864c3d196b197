"""Any optimizer of the pytorch-optimizer package, by name: ``optimizer=zoo optimizer.name=adan``.

`standing` says which names are accepted. Those that need more than parameters get it here, and those that need more of a step
than ``step(closure)`` are adapted to the contract of the bench.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from optbench.errors import UserError, nearest
from optbench.optimizers.base import KeepsTypes
from optbench.optimizers.groups import decay_groups, hidden_matrices, trainable
from optbench.optimizers.zoo import adapted
from optbench.optimizers.zoo.standing import Need, Standing, accepted, classes, named, standing

__all__ = ["Need", "Standing", "accepted", "classes", "from_model", "named", "standing"]

_PARTS = {
    **dict.fromkeys(("sam", "looksam", "friendlysam", "bsam"), (adapted.EvaluatesFirst,)),
    **dict.fromkeys(("adahessian", "sophiah"), (adapted.OfProducts,)),
    **dict.fromkeys(("kron", "sara"), (adapted.KeyedDraws,)),
    **dict.fromkeys(("nadam", "qhadam"), (KeepsTypes,)),
    **dict.fromkeys(("conda", "scalableshampoo", "scion", "scionlight", "adashift"), (adapted.Packed,)),
    **dict.fromkeys(("schedulefreeadamw", "schedulefreeradam", "schedulefreesgd", "splus"), (adapted.OwnWeights,)),
    "alig": (adapted.LargestStep,),
    "gsam": (adapted.OfPair,),
}
# The classes of the objects in the states of these, below pytorch_optimizer.optimizer.
_OBJECTS = {
    "conda": ("utils.galore.GaLoreProjector",),
    "scalableshampoo": (
        "utils.preconditioner.PreConditioner",
        "utils.partition.BlockPartitioner",
        "utils.graft.Graft",
        "utils.graft.SGDGraft",
        "utils.graft.SQRTNGraft",
        "utils.graft.AdaGradGraft",
        "utils.graft.RMSPropGraft",
    ),
}
# Options that the bench decides, as schedules are its own. The number of iterations is that of a schedule which is off.
_FIXED = {"ranger21": {"num_iterations": 1, "disable_lr_scheduler": True}}
# State for which float32 is the default, and which has the type of the weights here.
_TYPES = {"fadam": ("momentum_dtype", "fim_dtype"), "kron": ("precondition_dtype",)}
# GSAM takes an object that gives the radius of every step.
_EXTRA = {"gsam": ("rho",)}
_RESERVED = ("params", "lr", "max_lr", "weight_decay", "model", "optimizer", "base_optimizer", "rho_scheduler")


def from_model(
    model: nn.Module,
    name: str,
    lr: float | None = None,
    weight_decay: float | None = None,
    decay_norm_and_bias: bool = False,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> torch.optim.Optimizer:
    """The optimizer ``name`` of pytorch-optimizer (in upper or lower case) for the parameters of ``model``.

    ``lr`` and ``weight_decay``: None keeps the package's default; biases and norm scales are not decayed unless
    ``decay_norm_and_bias``. ``options`` are passed to the constructor; methods that wrap another optimizer take its name as
    ``base`` among them, and its options as ``base_options``. ``seed``: of the draws that are the bench's.

    Raises:
        UserError: the package is missing or does not know the name or an option, or the name is refused.
    """
    known, key = classes(), name.lower()
    if key not in known:
        raise UserError(f"optimizer.name={name}: not in the pytorch-optimizer package; {nearest(key, accepted())}")
    found = standing(key)
    if found.refused is not None:
        raise UserError(f"optimizer.name={name}: cannot run here: {found.reason}")
    given = _Given(model, key, lr, weight_decay, decay_norm_and_bias, dict(options or {}), seed)
    try:
        return given.build()
    except UserError:
        raise
    # The package's own errors have no class in common but this one.
    except Exception as error:
        raise UserError(f"optimizer.name={name}, optimizer.options={dict(options or {})}: {error}") from error


@dataclass(frozen=True)
class _Given:
    """The arguments of `from_model`, with the name in lower case."""

    model: nn.Module
    name: str
    lr: float | None
    weight_decay: float | None
    decay_norm_and_bias: bool
    options: dict[str, Any]
    seed: int

    def build(self) -> torch.optim.Optimizer:
        """The optimizer."""
        need, target = standing(self.name).need, self._target()
        options = self.options
        if need in (Need.BASE, Need.BASE_CLASS):
            base, of_base = self._base()
            options = {key: value for key, value in options.items() if key not in ("base", "base_options")}
        arguments: dict[str, Any] = {**_checked(target, self.name, options), **self._fixed(self.name)}
        optimizer: torch.optim.Optimizer
        match need:
            case Need.BASE:
                optimizer = target(base(self._groups(base), **of_base), **arguments)
                if hasattr(optimizer, "train"):
                    optimizer.train()
            case Need.BASE_CLASS if self.name == "gsam":
                inner = base(self._groups(base), **of_base)
                radius = arguments.pop("rho", 0.05)
                constant = SimpleNamespace(step=lambda: radius)
                optimizer = target(self._groups(base), inner, self.model, constant, **arguments)
            case Need.BASE_CLASS:
                whole = {"model": self.model} if self.name == "wsam" else {}
                optimizer = target(params=self._groups(base), base_optimizer=base, **whole, **of_base, **arguments)
            case Need.HIDDEN_MATRICES:
                optimizer = target(self._matrices_and_rest(target), **self._rate(target), **arguments)
            case Need.MODEL:
                decay = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
                optimizer = target(self.model, **self._rate(target), **decay, **arguments)
            case Need.LARGEST_STEP:
                if self.lr is None:
                    raise UserError(f"optimizer.learning_rate=null: {self.name} needs it: it is the largest step")
                optimizer = target(self._groups(target), max_lr=self.lr, **arguments)
                for group in optimizer.param_groups:
                    group["lr"] = self.lr
            case _:
                optimizer = target(self._groups(target), **self._rate(target), **arguments)
        return optimizer

    def _target(self) -> type[Any]:
        """The class, adapted to the contract."""
        target, parts = classes()[self.name], _PARTS.get(self.name, ())
        return adapted.adapted(target, *parts, seed=self.seed, packed_classes=_objects(self.name)) if parts else target

    def _base(self) -> tuple[type[Any], dict[str, Any]]:
        """The class and the arguments of the optimizer that another one wraps."""
        name = str(self.options.get("base", "sgd")).lower()
        known = [each for each in accepted() if standing(each).need is Need.PARAMETERS and each not in _PARTS]
        if name not in known:
            raise UserError(f"optimizer.options.base={name}: cannot be wrapped; {nearest(name, known)}")
        base = classes()[name]
        defaults = {"momentum": 0.9} if name == "sgd" else {}
        options = {**defaults, **self.options.get("base_options", {})}
        return base, {**_checked(base, name, options, "base_options"), **self._fixed(name), **self._rate(base)}

    def _fixed(self, name: str) -> dict[str, Any]:
        """The arguments of ``name`` that are not chosen."""
        dtype = trainable(self.model)[0].dtype
        return {**_FIXED.get(name, {}), **dict.fromkeys(_TYPES.get(name, ()), dtype)}

    def _rate(self, target: type[Any]) -> dict[str, float]:
        if self.lr is None:
            return {}
        if "lr" not in inspect.signature(target).parameters:
            raise UserError(f"optimizer.learning_rate={self.lr}: {self.name} has no learning rate; must be null")
        return {"lr": self.lr}

    def _groups(self, target: type[Any]) -> list[Any]:
        """The parameters, in groups by their decay where ``target`` has one."""
        parameters: list[Any] = trainable(self.model)
        accepted_ones = inspect.signature(target).parameters
        if "weight_decay" in accepted_ones:
            default = accepted_ones["weight_decay"].default
            decay = default if self.weight_decay is None else self.weight_decay
            return decay_groups(parameters, decay, self.decay_norm_and_bias)
        if self.weight_decay:
            raise UserError(
                f"optimizer.weight_decay={self.weight_decay}: {self.name} has no weight decay; must be null"
            )
        return parameters

    def _matrices_and_rest(self, target: type[Any]) -> list[dict[str, Any]]:
        """Groups for hidden matrices, and for all other parameters, on which such a method is AdamW."""
        hidden = hidden_matrices(self.model)
        chosen = set(hidden)
        rest = [each for each in trainable(self.model) if each not in chosen]
        defaults = inspect.signature(target).parameters
        of_hidden, of_rest = (
            defaults[name].default if self.weight_decay is None else self.weight_decay
            for name in ("weight_decay", "adamw_wd")
        )
        if self.weight_decay is None:
            of_rest = self.options.get("adamw_wd", of_rest)
        groups: list[dict[str, Any]] = []
        if hidden:
            groups.append({"params": hidden, "use_muon": True, "weight_decay": of_hidden})
        for group in decay_groups(rest, of_rest, self.decay_norm_and_bias) if rest else []:
            groups.append({**group, "use_muon": False})
        return groups


def _objects(name: str) -> tuple[type[Any], ...]:
    """The classes of the objects in the state of the method ``name``."""
    paths = (path.rpartition(".") for path in _OBJECTS.get(name, ()))
    return tuple(getattr(import_module(f"pytorch_optimizer.optimizer.{module}"), kind) for module, _, kind in paths)


def _checked(target: type[Any], name: str, options: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """``options`` as they are. Raises UserError for one that ``target`` does not have, or that is none to be chosen."""
    place = f"optimizer.options.{key}" if key else "optimizer.options"
    offered = {**inspect.signature(target).parameters, **dict.fromkeys(_EXTRA.get(name, ()))}
    for option in options:
        if option in _RESERVED:
            raise UserError(f"{place}: learning_rate and weight_decay are options of their own; params are the model's")
        # Most of the package's constructors accept and ignore unknown options.
        if option not in offered:
            raise UserError(f"{place}.{option}: not an option of {name}; {nearest(option, offered)}")
    return dict(options)
