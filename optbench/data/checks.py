"""Check loaded data before training, so that bad data are not mistaken for a bad optimizer."""

import math
from typing import Any

import torch
from torch import Tensor

from optbench.data.raw import ExampleStream, RawData, Split
from optbench.data.spec import DataSpec
from optbench.errors import UserError

NO_TARGET = -100


def check(raw: Any, dataset: str) -> None:
    """Raise UserError, naming the ``dataset``, the split and the example, for data that cannot be used for training.

    These are an empty split, inputs and targets whose number, type or shape differs from ``DataSpec``, values that are not
    finite, tokens and classes out of range, and invalid statistics.
    """
    if not isinstance(raw, RawData):
        raise UserError(f"dataset={dataset}: its function must return RawData, not {type(raw).__name__}")
    for name in ("train", "validation", "test"):
        _check_split(getattr(raw, name), raw, f"dataset={dataset}: the {name} split")
    channels = raw.spec.shape[0]
    for name, values in (("mean", raw.mean), ("std", raw.std)):
        if raw.spec.kind != "image" or values is None:
            continue
        if len(values) != channels or not all(math.isfinite(value) and value >= 0 for value in values):
            raise UserError(
                f"dataset={dataset}: {name}={tuple(values)}: must be {channels} finite numbers >= 0, one a channel"
            )
    if raw.class_names is not None and raw.spec.target.startswith("class") and len(raw.class_names) != raw.spec.outputs:
        raise UserError(
            f"dataset={dataset}: has {len(raw.class_names)} class names for {raw.spec.outputs} classes; must be as many"
        )


def _check_split(split: Split, raw: RawData, where: str) -> None:
    inputs, targets, spec = split.inputs, split.targets, raw.spec
    if len(inputs) == 0:
        raise UserError(f"{where}: is empty; needs one example or more")
    if isinstance(inputs, ExampleStream):
        _check_split(inputs.evaluation, raw, where)
        return
    if isinstance(inputs, Tensor):
        _check_inputs(inputs, spec, where, floating=_is_floating(raw.train.inputs))
    if spec.target == "none":
        return
    if not isinstance(targets, Tensor) or len(targets) != len(inputs):
        there = "no" if targets is None else str(len(targets))
        raise UserError(f"{where}: has {there} targets for {len(inputs)} examples; must be as many")
    if spec.target in ("real", "value"):
        _check_finite(targets, f"{where}: the targets")
        return
    if targets.dtype != torch.int64 or targets.ndim != (1 if spec.target == "class" else 2):
        shape = "(N,)" if spec.target == "class" else "(N, T)"
        raise UserError(f"{where}: the targets must be int64 {shape}, but are {_described(targets)}")
    accepted = (targets >= 0) & (targets < spec.outputs)
    if spec.target == "class_per_step":
        accepted |= targets == NO_TARGET
    _check_all(accepted, targets, f"{where}: the targets must be in 0 .. {spec.outputs - 1}")


def _is_floating(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.is_floating_point()


def _check_inputs(inputs: Tensor, spec: DataSpec, where: str, floating: bool) -> None:
    """``floating``: True if the training inputs are floating-point numbers; images of bytes have another unit."""
    dtypes = {"image": "a floating-point type" if floating else "uint8", "tokens": "int64"}
    right = {
        "image": inputs.is_floating_point() if floating else inputs.dtype == torch.uint8,
        "tokens": inputs.dtype == torch.int64,
    }
    if not right.get(spec.kind, inputs.is_floating_point()) or tuple(inputs.shape[1:]) != tuple(spec.shape):
        wanted = f"{dtypes.get(spec.kind, 'a floating-point type')} (N, {', '.join(map(str, spec.shape))})"
        raise UserError(f"{where}: the inputs must be {wanted}, but are {_described(inputs)}")
    if inputs.is_floating_point():
        _check_finite(inputs, f"{where}: the inputs")
    if spec.kind == "tokens" and spec.vocabulary is not None:
        accepted = (inputs >= 0) & (inputs < spec.vocabulary)
        _check_all(accepted, inputs, f"{where}: the inputs must be in 0 .. {spec.vocabulary - 1}")


def _check_finite(values: Tensor, what: str) -> None:
    _check_all(values.isfinite(), values, f"{what} must be finite")


def _check_all(accepted: Tensor, values: Tensor, what: str) -> None:
    if not accepted.all():
        place = int((~accepted).flatten(1).any(1).nonzero()[0]) if accepted.ndim > 1 else int((~accepted).nonzero()[0])
        raise UserError(f"{what}, but example {place} has {values[place][~accepted[place]].flatten()[0].item()}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
