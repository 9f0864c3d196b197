"""dataset=arrays: the user's NumPy arrays, in an .npz file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.data import npz
from optbench.data.classes import numbered
from optbench.data.folders import own_place
from optbench.data.held_out import HeldOut
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import channel_statistics, divide, limit_train, standardized
from optbench.errors import UserError
from optbench.system import memory


def load(
    data_dir: str,
    path: str | None = None,
    title: str | None = None,
    layout: str = "vectors",
    task: str | None = None,
    test: int | None = None,
    validation: int | None = None,
    train_limit: int | None = None,
    normalize: bool = True,
    normalize_targets: bool = True,
) -> RawData:
    """Read the .npz file ``path``: ``x_train``, ``y_train`` and so on, by the names that ``npz.inspect`` knows.

    layout: the dimensions of the inputs, "vectors" (N, F) or images: "NHW", "NHWC", "NCHW". task: "classification", by
    labels (N,) of integers, texts or booleans, whose classes are the sorted labels of the training split; or "regression",
    by numbers (N,) or (N, outputs). test, validation: the number of examples taken from the training examples if the file
    has no such split; None takes 10 %.

    Images of integers in 0 .. 255 are kept as bytes, all others as floating-point numbers in their own unit. Mean and
    standard deviation, of the channels of images, of the columns of vectors (normalize) and of real targets
    (normalize_targets), are those of the training examples. title: only names the data. Raises UserError, with the file,
    the array and the row, for data that are not of this form.
    """
    file = own_place(path, data_dir, suffixes=npz.SUFFIXES)
    regression = task == "regression"
    found = npz.inspect(file, layout, regression)
    held_out = HeldOut(test, validation)
    held_out.sizes(found["train"].inputs.shape[0], "test" in found, "validation" in found)
    stored = sum(array.nbytes for pair in found.values() for array in (pair.inputs, pair.targets))
    memory.require(stored, f"dataset.path={path}: its arrays")
    targets, names = (_numbers if regression else _classes)(file, found)
    inputs = {split: _read_finite(file, pair.inputs) for split, pair in found.items()}
    prepared = _vectors(inputs) if layout == "vectors" else _images(inputs, layout)
    splits = {split: Split(prepared[split], targets[split]) for split in found}
    parts = divide(held_out, splits["train"], splits.get("test"), splits.get("validation"))
    mean = std = None
    if layout != "vectors":
        mean, std = channel_statistics(parts[0].inputs)
    elif normalize:
        for part, values in zip(parts, standardized([part.inputs for part in parts]), strict=True):
            part.inputs = values
    if regression and normalize_targets:
        for part, values in zip(parts, standardized([part.targets for part in parts]), strict=True):
            part.targets = values
    training, validating, testing = parts
    outputs = training.targets.shape[1] if regression else len(names)
    spec = DataSpec(
        "table" if layout == "vectors" else "image",
        tuple(training.inputs.shape[1:]),
        outputs,
        "real" if regression else "class",
    )
    return RawData(limit_train(training, train_limit), validating, testing, spec, mean, std, names or None)


def _classes(file: Path, found: Mapping[str, npz.Pair]) -> tuple[dict[str, Tensor], list[str]]:
    labels = {split: npz.read(file, pair.targets).reshape(-1) for split, pair in found.items()}
    targets, names = numbered(labels, lambda split, row: f"{file}: {found[split].targets.key}: row {row}")
    return {split: torch.from_numpy(values) for split, values in targets.items()}, names


def _numbers(file: Path, found: Mapping[str, npz.Pair]) -> tuple[dict[str, Tensor], list[str]]:
    targets = {}
    for split, pair in found.items():
        values = _read_finite(file, pair.targets)
        targets[split] = torch.from_numpy(_floating(values).reshape(len(values), -1))
    return targets, []


def _read_finite(file: Path, stored: npz.Stored) -> Any:
    values = npz.read(file, stored)
    if values.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        if len(wrong):
            example = values[wrong[0]].reshape(-1)
            raise UserError(
                f"{file}: {stored.key}: row {wrong[0]} has {example[~np.isfinite(example)][0]}; accepted: finite numbers"
            )
    return values


def _floating(values: Any) -> Any:
    """``values`` as float32 if that holds them exactly, otherwise as float64; in the byte order of this machine."""
    exact = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    return np.ascontiguousarray(values, np.float32 if exact else np.float64)


def _vectors(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    return {split: torch.from_numpy(_floating(values)) for split, values in inputs.items()}


def _images(inputs: Mapping[str, Any], layout: str) -> dict[str, Tensor]:
    whole = all(values.dtype.kind in "bui" for values in inputs.values())
    in_bytes = whole and all(values.min() >= 0 and values.max() <= 255 for values in inputs.values())
    images = {}
    for split, values in inputs.items():
        pixels = values.astype(np.uint8) if in_bytes else _floating(values)
        pixels = np.expand_dims(pixels, 1) if layout == "NHW" else pixels
        pixels = np.moveaxis(pixels, -1, 1) if layout == "NHWC" else pixels
        images[split] = torch.from_numpy(np.ascontiguousarray(pixels))
    return images
