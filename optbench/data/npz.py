"""Find the inputs and targets of each split in an .npz file, from the headers of its arrays. Imports no torch.

Nothing is unpickled: an array of Python objects is refused.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optbench.errors import UserError

SUFFIXES = (".npz",)
# The dimensions of the inputs in each layout: N examples, C channels, height and width.
LAYOUTS = {"vectors": "(N, F)", "NHW": "(N, H, W)", "NHWC": "(N, H, W, C)", "NCHW": "(N, C, H, W)"}
_INPUTS = ("x", "input", "inputs", "image", "images", "data", "features")
_TARGETS = ("y", "target", "targets", "label", "labels")
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_ACCEPTED = "accepted: names such as x_train, y_train, x_test and y_test, or x and y, or train_images and train_labels"


@dataclass(frozen=True)
class Stored:
    """One array of a file, not read yet."""

    key: str
    shape: tuple[int, ...]
    dtype: Any

    @property
    def nbytes(self) -> int:
        """The size of the array in memory, in bytes."""
        return int(np.prod([float(side) for side in self.shape])) * int(self.dtype.itemsize)


@dataclass(frozen=True)
class Pair:
    """The inputs and the targets of one split."""

    inputs: Stored
    targets: Stored


def inspect(path: Path, layout: str, regression: bool) -> dict[str, Pair]:
    """The arrays of the splits of the file ``path``: "train", and "test" and "validation" if it has them.

    Without a test split, the validation split is the test split. Raises UserError, with the file and the array, if names,
    shapes or types do not fit a training set in this ``layout``, one of ``LAYOUTS``.
    """
    pairs = _pairs(path, _stored(path))
    for pair in pairs.values():
        _check_inputs(path, pair.inputs, layout)
        _check_targets(path, pair.targets, regression)
        if pair.inputs.shape[0] != pair.targets.shape[0]:
            raise UserError(
                f"{path}: {pair.inputs.key} has {pair.inputs.shape[0]} examples and {pair.targets.key} has "
                f"{pair.targets.shape[0]}; must be as many"
            )
        if pair.inputs.shape[0] == 0:
            raise UserError(f"{path}: {pair.inputs.key} is empty; needs one example or more")
        for part, first in ((pair.inputs, pairs["train"].inputs), (pair.targets, pairs["train"].targets)):
            if _example(part) != _example(first):
                raise UserError(
                    f"{path}: {part.key} has the shape {part.shape}, and {first.key} has {first.shape}; accepted: examples of "
                    "one shape"
                )
    return pairs


def read(path: Path, stored: Stored) -> Any:
    """The array ``stored`` of the file ``path``; raises UserError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[stored.key]
    except Exception as error:  # damaged archives raise almost anything: BadZipFile, zlib.error, ValueError, EOFError
        raise UserError(f"{path}: {stored.key} cannot be read: {_reason(error)}") from error


def _stored(path: Path) -> dict[str, Stored]:
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as stream:
                        version = np.lib.format.read_magic(stream)
                        reader = np.lib.format.read_array_header_2_0
                        if version == (1, 0):
                            reader = np.lib.format.read_array_header_1_0
                        shape, _, dtype = reader(stream)
                    key = name.removesuffix(".npy")
                    found[key] = Stored(key, tuple(shape), dtype)
    except Exception as error:  # as above
        raise UserError(f"{path}: is no .npz file that can be read: {_reason(error)}") from error
    return found


def _reason(error: Exception) -> str:
    return f"{' '.join(str(error).split())[:200]} ({type(error).__name__})"


def _pairs(path: Path, stored: dict[str, Stored]) -> dict[str, Pair]:
    roles: dict[tuple[str, str], Stored] = {}
    for key, array in stored.items():
        role = _role(key)
        if role is None:
            continue  # such as the names of the classes
        if role in roles:
            raise UserError(
                f"{path}: {roles[role].key} and {key} are both the {role[0]} of the {role[1]} split; {_ACCEPTED}, each once"
            )
        roles[role] = array
    splits = [split for split in ("train", "validation", "test") if any(found[1] == split for found in roles)]
    for split in splits or ["train"]:
        for what in ("inputs", "targets"):
            if (what, split) not in roles:
                shown = ", ".join(stored) or "none"
                raise UserError(f"{path}: has no {what} of the {split} split; its arrays: {shown}; {_ACCEPTED}")
    if "train" not in splits:
        raise UserError(f"{path}: has no training split; its arrays: {', '.join(stored)}; {_ACCEPTED}")
    pairs = {split: Pair(roles["inputs", split], roles["targets", split]) for split in splits}
    if "test" not in pairs and "validation" in pairs:
        pairs["test"] = pairs.pop("validation")
    return pairs


def _role(key: str) -> tuple[str, str] | None:
    words = re.split(r"[_.\- ]+", key.lower())
    what = [("inputs" if word in _INPUTS else "targets") for word in words if word in (*_INPUTS, *_TARGETS)]
    splits = [_SPLITS[word] for word in words if word in _SPLITS]
    if len(what) != 1 or len(splits) > 1 or len(words) != 1 + len(splits):
        return None
    return what[0], splits[0] if splits else "train"


def _example(array: Stored) -> tuple[int, ...]:
    """The shape of one example; a single number has the same shape with and without a dimension of its own."""
    shape = array.shape[1:]
    return () if shape == (1,) else shape


def _check_inputs(path: Path, array: Stored, layout: str) -> None:
    if array.dtype.kind not in "buif":
        raise UserError(
            f"{path}: {array.key} holds {_described(array)}; accepted: integers, floating-point numbers and booleans"
        )
    if len(array.shape) != LAYOUTS[layout].count(",") + 1:
        fitting = [name for name, shape in LAYOUTS.items() if shape.count(",") + 1 == len(array.shape)]
        accepted = " or ".join(f"dataset.layout={name} for {LAYOUTS[name]}" for name in fitting)
        raise UserError(
            f"{path}: {array.key} has the shape {array.shape}, and dataset.layout={layout} is for {LAYOUTS[layout]}; accepted: "
            f"{accepted or 'arrays of two to four dimensions'}"
        )
    if 0 in array.shape[1:]:
        raise UserError(
            f"{path}: {array.key} has the shape {array.shape}; accepted: one number or more for each example"
        )


def _check_targets(path: Path, array: Stored, regression: bool) -> None:
    kinds, accepted = ("buif", "numbers") if regression else ("buifUS", "integers, texts and booleans")
    if array.dtype.kind not in kinds:
        raise UserError(f"{path}: {array.key} holds {_described(array)}; accepted: {accepted}")
    columns = array.shape[1] if len(array.shape) == 2 else 1
    if len(array.shape) not in (1, 2) or columns == 0 or (columns > 1 and not regression):
        also = " or (N, outputs)" if regression else "; of one-hot vectors the argmax"
        raise UserError(f"{path}: {array.key} has the shape {array.shape}; accepted: (N,) or (N, 1){also}")


def _described(array: Stored) -> str:
    return "Python objects, which are never loaded" if array.dtype.hasobject else f"the type {array.dtype}"
