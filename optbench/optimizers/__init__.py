"""Optimizers: optbench's own, torch's, and those of the pytorch-optimizer package, all built from a configuration."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from optbench.config.run_config import Choice
from optbench.config.targets import load_target
from optbench.errors import UserError
from optbench.optimizers.adahessian import AdaHessian
from optbench.optimizers.ademamix import AdEMAMix
from optbench.optimizers.cubic_newton import CubicNewton
from optbench.optimizers.damped_newton import DampedNewton
from optbench.optimizers.decoupled import with_decoupled_weight_decay
from optbench.optimizers.ekfac import EKFAC
from optbench.optimizers.entropy_sgd import EntropySGD
from optbench.optimizers.groups import decay_groups, trainable
from optbench.optimizers.hessian_free import HessianFree
from optbench.optimizers.kfac import KFAC
from optbench.optimizers.kfac_natural import KFACNatural
from optbench.optimizers.lamb import LAMB
from optbench.optimizers.lars import LARS
from optbench.optimizers.levenberg_marquardt import LevenbergMarquardt
from optbench.optimizers.lion import Lion
from optbench.optimizers.mars import MARS
from optbench.optimizers.muon import Muon
from optbench.optimizers.nadam import NAdam
from optbench.optimizers.ogr import OGR
from optbench.optimizers.perturbed_sgd import PerturbedSGD
from optbench.optimizers.prodigy import Prodigy
from optbench.optimizers.saddle_free_newton import SaddleFreeNewton
from optbench.optimizers.sam import SAM
from optbench.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from optbench.optimizers.score_ggn import SCoReGGN
from optbench.optimizers.shampoo import Shampoo
from optbench.optimizers.soap import SOAP
from optbench.optimizers.sophia import Sophia
from optbench.optimizers.zeroth_order import ZerothOrder

__all__ = [
    "EKFAC",
    "KFAC",
    "LAMB",
    "LARS",
    "MARS",
    "OGR",
    "SAM",
    "SOAP",
    "AdEMAMix",
    "AdaHessian",
    "CubicNewton",
    "DampedNewton",
    "EntropySGD",
    "HessianFree",
    "KFACNatural",
    "LevenbergMarquardt",
    "Lion",
    "Muon",
    "NAdam",
    "PerturbedSGD",
    "Prodigy",
    "SCoReGGN",
    "SaddleFreeNewton",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shampoo",
    "Sophia",
    "ZerothOrder",
    "build",
    "with_decoupled_weight_decay",
]

# The constructor's argument, and the configuration's options for it; two options make a pair.
_ARGUMENTS: list[tuple[str, tuple[str, ...]]] = [
    ("lr", ("learning_rate",)),
    ("betas", ("beta1", "beta2")),
    ("eps", ("epsilon",)),
    ("eps", ("epsilon1", "epsilon2")),
    ("etas", ("eta_minus", "eta_plus")),
    ("step_sizes", ("step_size_min", "step_size_max")),
]
# torch's classes without a fused kernel whose foreach form is also faster on the CPU (on CUDA torch uses it by itself),
# measured on LeNet-5 and on 180 tensors of up to 36,864 elements.
_FOREACH_ON_CPU = ("Adadelta", "Adamax", "RAdam", "RMSprop")


def build(choice: Choice, model: nn.Module, learning_rate: float | None, seed: int = 0) -> torch.optim.Optimizer:
    """The optimizer that ``choice`` (of the group `optimizer`) describes, for the parameters of ``model``.

    ``learning_rate`` (already scaled to the batch) replaces the configured one, and is None only if the method chooses it
    by itself. Matrices and kernels are decayed by ``weight_decay``; biases and norm scales (fewer than two dimensions) only
    if ``decay_norm_and_bias``. With ``weight_decay_mode: decoupled`` the decay is not added to the gradient. A class with a
    ``from_model`` method, or a plain function, gets the model in place of its parameters and makes its own groups. A class
    that takes a ``seed`` for its random draws gets the run's. Every group of the result has ``initial_lr``, for schedules.

    Raises:
        UserError: ``_target_`` cannot be imported, the model has nothing to train, or a value is not accepted.
    """
    name = choice.name
    options = {**choice.options, "learning_rate": learning_rate}
    target: Any = load_target(choice, torch.optim.Optimizer)
    if "seed" in inspect.signature(target).parameters:
        options["seed"] = seed
    if not trainable(model):
        raise UserError(f"optimizer={name}: the model has no parameters that require a gradient")
    try:
        if not isinstance(target, type):
            optimizer: torch.optim.Optimizer = target(model, **_arguments(options))
        elif hasattr(target, "from_model"):
            optimizer = target.from_model(model, **_arguments(options))
        else:
            optimizer = _from_parameters(target, trainable(model), options)
    except ValueError as error:
        raise UserError(f"optimizer={name}: {error}") from error
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under the names of the constructor's arguments; options without a rule keep their names."""
    rest = dict(options)
    arguments: dict[str, Any] = {}
    for argument, parts in _ARGUMENTS:
        if all(part in rest for part in parts):
            values = tuple(rest.pop(part) for part in parts)
            arguments[argument] = values if len(values) > 1 else values[0]
    return {**arguments, **rest}


def _from_parameters(
    target: type[torch.optim.Optimizer], parameters: list[nn.Parameter], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    rest = dict(options)
    fast = _fast_kernels(target, parameters)
    if "weight_decay" not in rest:
        return target(parameters, **_arguments(rest), **fast)
    decay = rest.pop("weight_decay")
    decay_norm_and_bias = rest.pop("decay_norm_and_bias", False)
    if rest.pop("weight_decay_mode", "coupled") == "decoupled":
        target, key = with_decoupled_weight_decay(target), "decoupled_decay"
        rest["weight_decay"] = 0.0
    else:
        key = "weight_decay"
    return target(decay_groups(parameters, decay, decay_norm_and_bias, key), **_arguments(rest), **fast)


def _fast_kernels(target: type[torch.optim.Optimizer], parameters: list[nn.Parameter]) -> dict[str, Any]:
    """``fused`` or ``foreach``, if ``target`` has it for these parameters and it is faster than the default."""
    if any(parameter.is_meta for parameter in parameters):
        return {}
    accepted = inspect.signature(target).parameters
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        # Rows that ranks hold of a tensor: torch 2.13 divides no fused kernel but Adam's.
        return {"foreach": True} if "foreach" in accepted else {}
    torchs = _torch_class(target)
    if torchs is not None and "fused" in accepted:
        kernel = f"aten::_fused_{torchs.__name__.lower()}_"
        devices = {parameter.device.type.upper() for parameter in parameters}
        # Not for half precision: torch 2.13's fused SGD does not update most of a bfloat16 tensor on the CPU.
        if all(parameter.dtype in (torch.float32, torch.float64) for parameter in parameters) and all(
            torch._C._dispatch_has_kernel_for_dispatch_key(kernel, device) for device in devices
        ):
            return {"fused": True}
    return {"foreach": True} if target.__name__ in _FOREACH_ON_CPU and "foreach" in accepted else {}


def _torch_class(target: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer] | None:
    """The class of torch whose step ``target`` uses unchanged: itself or a base class; None if there is none.

    A user's own step may treat inherited options, such as ``fused``, in any way.
    """
    torchs: Any = next(base for base in target.__mro__ if base.__module__.startswith("torch.optim"))
    # torch wraps the step of a class when its first instance is made, and stores the wrapper in that class.
    step: Any = inspect.unwrap(target.step)
    return torchs if step.__module__.startswith("torch.optim") and step is inspect.unwrap(torchs.step) else None
