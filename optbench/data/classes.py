"""Classes of labels of any type: the sorted distinct labels of the training data, numbered from 0."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from optbench.errors import UserError

_MANY = 100  # more classes than this, with fewer than two examples each, count as the values of a regression
_REGRESSION = "dataset.task=regression (or loss=mse) predicts numbers"


def numbered(labels: Mapping[str, Any], where: Callable[[str, int], str]) -> tuple[dict[str, Any], list[str]]:
    """The class of every label, int64 (N,), by split, and the names of the classes.

    labels: arrays (N,) of integers, texts, booleans or whole floating-point numbers by split, "train" among them.
    where(split, row): the place of a label, for messages. Raises UserError for labels of other types, for a single class,
    and for a label of another split that the training data lack.
    """
    plain = {split: _plain(values, partial(where, split)) for split, values in labels.items()}
    known = np.unique(plain["train"])
    if len(known) < 2:
        raise UserError(f"{where('train', 0)}: all labels are {known[0]!s}; accepted: two classes or more")
    if len(known) > _MANY and 2 * len(known) > len(plain["train"]):
        raise UserError(
            f"{where('train', 0)}: {len(known)} different labels in {len(plain['train'])} examples are no classes; {_REGRESSION}"
        )
    found = {}
    for split, values in plain.items():
        if (values.dtype.kind in "OU") != (known.dtype.kind in "OU"):
            raise UserError(
                f"{where(split, 0)}: {values[0]!r} is not of the type of the training labels, such as {known[0]!r}"
            )
        index = np.minimum(np.searchsorted(known, values), len(known) - 1)
        wrong = np.flatnonzero(known[index] != values)
        if len(wrong):
            row = int(wrong[0])
            shown = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
            raise UserError(
                f"{where(split, row)}: the label {values[row]!s} is not among those of the training data: {shown}"
            )
        found[split] = index.astype(np.int64)
    return found, [str(name) for name in known.tolist()]


def _plain(values: Any, where: Callable[[int], str]) -> Any:
    """``values`` as integers, booleans or texts."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "backslashreplace")
    if values.dtype.kind != "f":
        return values
    wrong = np.flatnonzero(~(np.abs(values) < 2**53) | (values != np.round(values)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{where(row)}: {values[row]} is no class; accepted: whole numbers, texts or booleans; {_REGRESSION}"
        )
    return values.astype(np.int64)
