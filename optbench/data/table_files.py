"""Tables in CSV and parquet files: their column names, and their content as a data frame. Imports no torch.

Rows are counted from 0, without the header.
"""

import bz2
import csv
import gzip
import lzma
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
PARQUET = ".parquet"
SUFFIXES = (PARQUET, *(f"{kind}{packed}" for kind in _DELIMITERS for packed in ("", *_OPENERS)))


def columns(path: Path, delimiter: str | None = None) -> list[str]:
    """The names of the columns of the table ``path``, in order.

    delimiter: the separator of the values in a text file; None is a comma, or a tab for .tsv. Raises UserError for a file
    that is not a table, and for names that are empty or not distinct.
    """
    try:
        names = _parquet_columns(path) if path.name.lower().endswith(PARQUET) else _header(path, delimiter)
    except Exception as error:  # damaged files raise almost any exception
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error
    if not names:
        raise UserError(f"{path}: is empty; accepted: a header with the names of the columns, and rows")
    if unnamed := [index for index, name in enumerate(names) if not name.strip()]:
        raise UserError(f"{path}: column {unnamed[0]} (counted from 0) has no name; accepted: a name for each column")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path}: {names.count(twice[0])} columns are called {twice[0]}; accepted: distinct names")
    return names


def inputs(
    paths: Sequence[Path],
    target: str | None,
    ignore: Sequence[str] = (),
    categorical: Sequence[str] = (),
    delimiter: str | None = None,
) -> list[str]:
    """The columns of the first of ``paths`` that are inputs: all but ``target`` and ``ignore``.

    Raises UserError if one of the named is not a column, if none is left, and if another table lacks a needed column.
    """
    if not target:
        raise UserError("dataset.target=null: must be the column to predict")
    names = columns(paths[0], delimiter)
    for option, named in (("target", [target]), ("ignore", ignore), ("categorical", categorical)):
        for name in named:
            if name not in names:
                raise UserError(f"dataset.{option}={name}: is no column of {paths[0]}; {nearest(name, names)}")
    left = [name for name in names if name != target and name not in ignore]
    if not left:
        raise UserError(
            f"dataset.ignore=[{','.join(ignore)}]: leaves no column of {paths[0]} beside the target {target}"
        )
    if unused := [name for name in categorical if name not in left]:
        raise UserError(f"dataset.categorical=[{unused[0]}]: is no input; accepted: {', '.join(left)}")
    for path in paths[1:]:
        there = columns(path, delimiter)
        if lacking := [name for name in (target, *left) if name not in there]:
            raise UserError(f"{path}: has no column {lacking[0]}, as {paths[0]} has; its columns: {', '.join(there)}")
    return left


def read(path: Path, delimiter: str | None = None) -> "pd.DataFrame":
    """The table ``path``, its rows numbered from 0. Raises UserError, with the row if it is known, for a damaged file."""
    import pandas as pd

    columns(path, delimiter)
    try:
        if path.name.lower().endswith(PARQUET):
            frame = pd.read_parquet(path, engine="pyarrow")
        else:
            with warnings.catch_warnings():
                # Without this, rows longer than the header would lose their last values.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame = pd.read_csv(
                    path,
                    sep=_delimiter(path, delimiter),
                    index_col=False,
                    low_memory=False,
                    float_precision="round_trip",
                )
    except Exception as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error
    if frame.empty:
        raise UserError(f"{path}: has no rows; needs one or more")
    return frame.reset_index(drop=True)


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [str(name) for name in pq.read_schema(path).names]


def _header(path: Path, delimiter: str | None) -> list[str]:
    opener = _OPENERS.get(path.suffix.lower(), open)
    with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
        # Empty lines are skipped, as by pandas.
        rows = csv.reader(stream, delimiter=_delimiter(path, delimiter))
        return next((row for row in rows if row), [])


def _delimiter(path: Path, given: str | None) -> str:
    return given or next(mark for suffix, mark in _DELIMITERS.items() if suffix in [s.lower() for s in path.suffixes])


def _reason(error: Exception) -> str:
    return f"{' '.join(str(error).split())[:200]} ({type(error).__name__})"
