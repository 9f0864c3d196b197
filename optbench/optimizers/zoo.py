"""Any optimizer of the pytorch-optimizer package, by name: ``optimizer=zoo optimizer.name=adan``.

Optimizers are refused by name if they need more from a training loop than ``step(closure)``, or if loading their state could
run code. Kron draws from NumPy's global generator, which is not part of any optimizer's state: it does not resume bit for bit.
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from optbench.errors import UserError, nearest
from optbench.optimizers.groups import decay_groups, trainable

_SECOND_EVALUATION = "it wraps another optimizer or evaluates the loss at displaced weights"
_SECOND_BACKWARD = "it differentiates the gradient, which needs a graph that the closure does not keep"
_TRAIN_AND_EVAL = "its weights must be exchanged before every evaluation"
_WITHIN_BACKWARD = "it updates during the backward pass or takes the whole model"
_OWN_GROUPS = "it needs parameter groups of its own"
_UNSAFE_STATE = "its state cannot be loaded without running code, so a run could not resume"

_REFUSED = {
    **dict.fromkeys(("sam", "gsam", "wsam", "bsam", "looksam", "friendlysam"), _SECOND_EVALUATION),
    **dict.fromkeys(("lookahead", "trac", "orthograd", "magma", "schedulefreewrapper"), _SECOND_EVALUATION),
    **dict.fromkeys(("pcgrad", "rotograd", "safefp16optimizer", "dynamiclossscaler"), _SECOND_EVALUATION),
    **dict.fromkeys(("adahessian", "sophiah", "alig"), _SECOND_BACKWARD),
    **dict.fromkeys(("schedulefreeadamw", "schedulefreeradam", "schedulefreesgd", "splus"), _TRAIN_AND_EVAL),
    **dict.fromkeys(("lomo", "adalomo", "adammini"), _WITHIN_BACKWARD),
    **dict.fromkeys(
        ("adamuon", "adago", "normuon", "muonclip", "distributedmuon", "spectralsphere", "lorarite"), _OWN_GROUPS
    ),
    **dict.fromkeys(("adashift", "conda", "scalableshampoo", "scion", "scionlight"), _UNSAFE_STATE),
    "muon": f"{_OWN_GROUPS}; use optimizer=muon",
    "lbfgs": "it evaluates the closure several times a step; use optimizer=lbfgs",
    "a2grad": "its steps have no learning rate that a schedule could set",
    "demo": "it exchanges the gradients between ranks by itself",
}


def from_model(
    model: nn.Module,
    name: str,
    lr: float | None = None,
    weight_decay: float | None = None,
    decay_norm_and_bias: bool = False,
    options: Mapping[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer ``name`` of pytorch-optimizer (in upper or lower case) for the parameters of ``model``.

    ``lr`` and ``weight_decay``: None keeps the package's default; biases and norm scales are not decayed unless
    ``decay_norm_and_bias``. ``options`` are passed to the constructor.

    Raises:
        UserError: the package is missing or does not know the name or an option, or the method needs more than a closure.
    """
    known = _classes()
    key = name.lower()
    if key in _REFUSED:
        raise UserError(f"optimizer.name={name}: cannot run here: {_REFUSED[key]}")
    if key not in known:
        hint = nearest(key, known.keys() - _REFUSED.keys())
        raise UserError(f"optimizer.name={name}: not in the pytorch-optimizer package; {hint}")
    target = known[key]
    accepted = inspect.signature(target).parameters
    arguments: dict[str, Any] = dict(options or {})
    if "params" in arguments or "lr" in arguments or "weight_decay" in arguments:
        raise UserError(
            "optimizer.options: learning_rate and weight_decay are options of their own; params are the model's"
        )
    for option in arguments:
        # Most of the package's constructors accept and ignore unknown options.
        if option not in accepted:
            raise UserError(f"optimizer.options.{option}: not an option of {name}; {nearest(option, accepted)}")
    if lr is not None:
        if "lr" not in accepted:
            raise UserError(f"optimizer.learning_rate={lr}: {name} has no learning rate; must be null")
        arguments["lr"] = lr
    parameters: Any = trainable(model)
    if "weight_decay" in accepted:
        decay = accepted["weight_decay"].default if weight_decay is None else weight_decay
        parameters = decay_groups(parameters, decay, decay_norm_and_bias)
    elif weight_decay:
        raise UserError(f"optimizer.weight_decay={weight_decay}: {name} has no weight decay; must be null")
    try:
        return target(parameters, **arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"optimizer.name={name}, optimizer.options={arguments}: {error}") from error


def _classes() -> Mapping[str, type[torch.optim.Optimizer]]:
    """The package's optimizers by their names in lower case."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Imported here, because it is an optional package and takes half a second.
            from pytorch_optimizer.optimizer import OPTIMIZERS
    except ImportError as error:
        raise UserError(
            f"optimizer=zoo: needs the pytorch-optimizer package ({error}): pip install 'optbench[zoo]'"
        ) from error
    found: Mapping[str, type[torch.optim.Optimizer]] = OPTIMIZERS
    return found
