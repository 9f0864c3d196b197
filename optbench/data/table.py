"""dataset=table: the rows of a user's CSV or parquet file."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from optbench.data import table_files
from optbench.data.classes import numbered
from optbench.data.folders import own_place
from optbench.data.held_out import HeldOut
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import divide, limit_train, standardized
from optbench.data.table_columns import Tables, encoded
from optbench.errors import UserError


def load(
    data_dir: str,
    path: str | None = None,
    target: str | None = None,
    test_path: str | None = None,
    title: str | None = None,
    task: str | None = None,
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    missing: str = "refuse",
    delimiter: str | None = None,
    test: int | None = None,
    validation: int | None = None,
    train_limit: int | None = None,
    normalize: bool = True,
    normalize_targets: bool = True,
) -> RawData:
    """Read the table ``path``, whose column ``target`` is predicted from all others except those in ``ignore``.

    Inputs (N, F): first the columns of numbers, then the columns of texts and booleans and those in ``categorical``, one-hot
    over the values in the training examples, sorted as texts; any other value becomes all zeros. missing: "refuse" refuses
    missing values of inputs; "mean" takes the mean of the training examples for a number, and all zeros for a category.
    task: "classification", by labels of any type, whose classes are the sorted labels of the training table; or "regression".
    test_path: a table of test examples. test, validation: the number of rows taken from the training table for missing
    splits; None takes 10 %. normalize, normalize_targets: standardize columns of numbers, and the target of a regression, to
    mean 0 and standard deviation 1 over the training examples. title: only names the data.

    Raises UserError, with the file, the column and the row, for data that are not of this form: values that are missing or
    not finite, types that cannot be inputs, and columns that are constant over the training examples.
    """
    paths = [
        own_place(place, data_dir, option, table_files.SUFFIXES)
        for option, place in (("path", path), ("test_path", test_path))
        if place or option == "path"
    ]
    columns = table_files.inputs(paths, target, ignore, categorical, delimiter)
    tables = Tables(paths, [table_files.read(place, delimiter) for place in paths])
    regression = task == "regression"
    targets, names = _numbers(tables, str(target)) if regression else _classes(tables, str(target))
    # The rows are divided first, because the encoding of a column depends on the training rows.
    official = [Split(rows, targets[rows]) for rows in (torch.tensor(part) for part in tables.ranges())]
    parts = divide(HeldOut(test, validation), official[0], official[1] if test_path else None)
    numbers, one_hot = map(torch.from_numpy, encoded(tables, columns, categorical, missing, parts[0].inputs.numpy()))
    numeric = [numbers[part.inputs] for part in parts]
    for part, values in zip(parts, standardized(numeric) if normalize else numeric, strict=True):
        part.inputs = torch.cat([values, one_hot[part.inputs]], 1)
    if regression and normalize_targets:
        for part, values in zip(parts, standardized([part.targets for part in parts]), strict=True):
            part.targets = values
    training, validating, testing = parts
    width = training.inputs.shape[1]
    spec = DataSpec("table", (width,), 1, "real") if regression else DataSpec("table", (width,), len(names))
    return RawData(limit_train(training, train_limit), validating, testing, spec, class_names=names or None)


def _classes(tables: Tables, target: str) -> tuple[Tensor, list[str]]:
    labels = dict(zip(("train", "test"), tables.labels(target), strict=False))
    starts = {split: rows.start for split, rows in zip(labels, tables.ranges(), strict=True)}
    found, names = numbered(labels, lambda split, row: tables.where(target, starts[split] + row))
    return torch.from_numpy(np.concatenate(list(found.values()))), names


def _numbers(tables: Tables, target: str) -> tuple[Tensor, list[str]]:
    if not tables.is_numeric(target):
        raise UserError(
            f"{tables.paths[0]}: column {target}: holds {tables.kind(target)}, and dataset.task=regression predicts numbers; "
            "accepted: a column of numbers, or dataset.task=classification"
        )
    tables.refuse_missing(target, "a target is never filled in")
    values = tables.numbers(target)
    if values.min() == values.max():
        raise UserError(
            f"{tables.paths[0]}: column {target}: is {values[0]} in all rows; accepted: a target that varies"
        )
    return torch.from_numpy(values).unsqueeze(1), []
