"""Image classification sets stored as the parquet shards of the Hugging Face hub: ``SPLIT-00000-of-00001.parquet``.

A row holds an image, as a struct of ``bytes`` (an encoded file) and ``path``, and an integer label; the names of the
classes are in the metadata of the schema.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.data import pixels
from optbench.data.folders import TEST_SPLITS, folder_of_shards, shards, split_for_testing
from optbench.data.held_out import check_held_out
from optbench.data.raw import RawData, Split
from optbench.data.splits import image_classification
from optbench.errors import UserError

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label", "labels")


def load(
    data_dir: str,
    path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    resize: int | None = None,
    validation: int | None = None,
    train_limit: int | None = None,
    test_split: str | None = None,
) -> RawData:
    """Read the shards of a folder: ``train-*`` for training, ``test-*`` (or else ``validation-*``) for testing.

    path: the folder, absolute or in one of the places where data are looked for; shards may also lie one folder below
    it. test_split: the split for testing, such as ``validation``; None takes the first that exists of test, validation,
    valid and val. image_column, label_column: None finds ``img`` or ``image``, and ``label``, ``fine_label`` or
    ``labels``. resize: make every image a square of this side; None demands that all have one size. validation: None
    takes 10 % of the training set. Images are grey if all are, otherwise all become RGB (see ``images``). Mean and
    standard deviation are computed on the training part. Raises UserError if the folder or a column is not found, if
    images or labels are not of this form or cannot be read, and if the classes of the two splits differ.
    """
    folder = folder_of_shards(path, data_dir)
    test_name = split_for_testing(folder, test_split)
    train_table = _read(folder, "train", image_column, label_column)
    test_table = _read(folder, test_name, image_column, label_column)
    class_names = _common_names(train_table, test_table)
    if test_split is None and bool((test_table.labels == -1).all()):
        raise UserError(_unlabelled(folder, test_name))
    classes = len(class_names) or int(max(table.labels.max() for table in (train_table, test_table))) + 1
    for table in (train_table, test_table):
        _check_labels(table, classes)
    examples = len(train_table.encoded)
    held_out = max(examples // 10, 1) if validation is None else validation
    check_held_out(examples, held_out)  # checked before the decoding, which may take hours
    form = pixels.common_form([table.images for table in (train_table, test_table)], resize)
    splits = [Split(pixels.decode(table.images, form), table.labels) for table in (train_table, test_table)]
    names = class_names or [str(index) for index in range(classes)]
    return image_classification(splits[0], splits[1], names, held_out, train_limit)


@dataclass
class _Table:
    """The rows of one split. origins: the shards in order, each with the number of its rows."""

    encoded: list[bytes]
    labels: Tensor
    class_names: list[str]
    origins: list[tuple[Path, int]]

    def shown(self, row: int) -> str:
        """The place of ``row``, for messages: the shard, and the row in it."""
        for path, count in self.origins:
            if row < count:
                return f"{path}: row {row}"
            row -= count
        raise IndexError(row)

    @property
    def images(self) -> pixels.Encoded:
        """The images of all rows."""
        return pixels.Encoded(self.encoded, self.shown)


def _read(folder: Path, split: str, image_column: str | None, label_column: str | None) -> _Table:
    paths = shards(folder, split)
    _check_complete(paths)
    table = _Table([], torch.empty(0, dtype=torch.int64), [], [])
    labels = []
    for path in paths:
        encoded, targets, names = _read_shard(path, image_column, label_column)
        if names and table.class_names and names != table.class_names:
            raise UserError(f"{path}: {_other_names(table.class_names, names)} in {paths[0].name}")
        table.class_names = table.class_names or names
        table.encoded += encoded
        table.origins.append((path, len(encoded)))
        labels.append(targets)
    table.labels = torch.cat(labels)
    if not table.encoded:
        raise UserError(f"{folder}: the {split} split is empty: no rows in {len(paths)} {split}-*-of-*.parquet")
    return table


def _read_shard(
    path: Path, image_column: str | None, label_column: str | None
) -> tuple[list[bytes], Tensor, list[str]]:
    """The encoded images, the labels and the class names of one shard; other columns and the integer types do not matter."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        image = _column(schema.names, image_column, _IMAGE_COLUMNS, "image_column", path)
        label = _column(schema.names, label_column, _LABEL_COLUMNS, "label_column", path)
        table = pq.read_table(path, columns=[image, label])
        values, labels = table.column(image).to_pylist(), table.column(label)
        if labels.null_count or not pa.types.is_integer(labels.type):
            raise UserError(
                f"dataset.label_column={label}: must hold integers without gaps in {path}, but is {labels.type} with "
                f"{labels.null_count} gaps"
            )
        targets = torch.from_numpy(np.array(labels.cast(pa.int64()).to_numpy(), np.int64))
    except UserError:
        raise
    except Exception as error:  # damaged shards raise almost any exception
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from error
    encoded = [_bytes_of(value, f"{path}: row {row}", image) for row, value in enumerate(values)]
    return encoded, targets, _class_names(schema, label)


def _check_complete(paths: Sequence[Path]) -> None:
    announced = paths[0].stem.rpartition("-of-")[2].partition("-")[0]
    if not announced.isdecimal() or len(paths) != int(announced):
        raise UserError(
            f"{paths[0].parent}: {len(paths)} of the {announced.lstrip('0')} shards such as {paths[0].name} are there"
        )


def _check_labels(table: _Table, classes: int) -> None:
    wrong = ((table.labels < 0) | (table.labels >= classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{table.shown(row)}: has the label {int(table.labels[row])}; labels must be in 0 .. {classes - 1}"
        )


def _unlabelled(folder: Path, split: str) -> str:
    others = [name for name in TEST_SPLITS if name != split and shards(folder, name)]
    accepted = " or ".join(f"dataset.test_split={name}" for name in others) or "shards with labels"
    return (
        f"{folder}: every label of {split}-* is -1: this split is unlabelled, and nothing can be tested on it; "
        f"accepted: {accepted}"
    )


def _common_names(train: _Table, test: _Table) -> list[str]:
    if train.class_names and test.class_names and train.class_names != test.class_names:
        raise UserError(
            f"{test.origins[0][0]}: {_other_names(train.class_names, test.class_names)} in the training split; "
            "both must have the same classes in the same order"
        )
    return train.class_names or test.class_names


def _other_names(first: list[str], second: list[str]) -> str:
    if len(first) != len(second):
        return f"names {len(second)} classes, but there are {len(first)}"
    index = next(i for i, (one, other) in enumerate(zip(first, second, strict=True)) if one != other)
    return f"calls class {index} {second[index]!r}, but that is {first[index]!r}"


def _column(names: Sequence[str], chosen: str | None, usual: Sequence[str], option: str, path: Path) -> str:
    found = next((name for name in ([chosen] if chosen else usual) if name in names), None)
    if found is None:
        raise UserError(f"dataset.{option}={chosen or 'null'}: not a column of {path}; accepted: {', '.join(names)}")
    return found


def _bytes_of(value: Any, shown: str, column: str) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise UserError(f"dataset.image_column={column}: must hold the bytes of an image, {shown} does not")
    return content


def _class_names(schema: Any, label: str) -> list[str]:
    """The class names in the metadata that the ``datasets`` library stores in the schema; empty if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
