"""The columns of one table, or of a training and a test table stacked, as numbers and as texts. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optbench.errors import UserError
from optbench.system.saying import say_once

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 1000  # different values of one column, each of which becomes an input
_NUMBERS, _TEXTS = "numbers", "texts or booleans"


@dataclass(frozen=True)
class Tables:
    """Stacked data frames, each with its file; rows are numbered through all of them."""

    paths: Sequence[Path]
    frames: "Sequence[pd.DataFrame]"

    def where(self, column: str, row: int) -> str:
        """The place of a value, for messages: the file, the column, and the row in that file."""
        for path, frame in zip(self.paths, self.frames, strict=True):
            if row < len(frame):
                return f"{path}: column {column}: row {row}"
            row -= len(frame)
        raise IndexError(row)

    def ranges(self) -> list[range]:
        """The rows of each table."""
        ends = np.cumsum([len(frame) for frame in self.frames]).tolist()
        return [range(end - len(frame), end) for frame, end in zip(self.frames, ends, strict=True)]

    def kind(self, column: str) -> str:
        """The kind of a column, equal in all tables: numbers, or texts or booleans. Raises UserError for any other."""
        kinds = [
            _kind(frame[column], f"{path}: column {column}")
            for path, frame in zip(self.paths, self.frames, strict=True)
        ]
        if len(set(kinds)) > 1:
            raise UserError(
                f"{self.paths[-1]}: column {column}: holds {kinds[-1]}, and {kinds[0]} in {self.paths[0]}; must be of one type"
            )
        return kinds[0]

    def is_numeric(self, column: str) -> bool:
        """True if a column holds numbers. Raises UserError as ``kind`` does."""
        return self.kind(column) == _NUMBERS

    def numbers(self, column: str) -> Any:
        """A column of numbers as float64 (N,), NaN for missing ones. Raises UserError for an infinite number."""
        values = np.concatenate([frame[column].to_numpy(np.float64, na_value=np.nan) for frame in self.frames])
        infinite = np.flatnonzero(np.isinf(values))
        if len(infinite):
            raise UserError(
                f"{self.where(column, int(infinite[0]))}: is {values[infinite[0]]}; accepted: finite numbers"
            )
        return values

    def texts(self, column: str) -> Any:
        """The values of a column as texts, an array of objects (N,), None for missing ones."""
        values = [value for frame in self.frames for value in _plain(frame[column])]
        return np.array([None if value is None else str(value) for value in values], object)

    def labels(self, column: str) -> list[Any]:
        """The values of a column, numbers or texts, an array for each table. Raises UserError for a missing one."""
        self.refuse_missing(column, "a target is never filled in")
        if self.is_numeric(column):
            return [np.array(_plain(frame[column])) for frame in self.frames]
        values = self.texts(column)
        return [values[rows.start : rows.stop] for rows in self.ranges()]

    def refuse_missing(self, column: str, accepted: str) -> None:
        """Raise UserError if a value of ``column`` is missing; ``accepted`` ends the message."""
        gaps = np.flatnonzero(np.concatenate([frame[column].isna().to_numpy() for frame in self.frames]))
        if len(gaps):
            more = f" (and in {len(gaps) - 1} more rows)" if len(gaps) > 1 else ""
            raise UserError(f"{self.where(column, int(gaps[0]))}: is missing{more}; {accepted}")


def encoded(
    tables: Tables, columns: Sequence[str], categorical: Sequence[str], missing: str, training: Any
) -> tuple[Any, Any]:
    """The inputs of all rows, encoded by the ``training`` rows: numbers, float64 (N, n), and categories one-hot, float64 (N, k).

    Arguments as those of ``table.load``. Raises UserError as that does.
    """
    # Checked also for numbers that name categories.
    if missing == "refuse":
        for column in columns:
            tables.refuse_missing(
                column, f"accepted: dataset.missing=mean, dataset.ignore=[{column}], or a file without gaps"
            )
    numeric = [column for column in columns if tables.is_numeric(column) and column not in categorical]
    numbers = [_numbers(tables, column, training) for column in numeric]
    categories = [_one_hot(tables, column, training) for column in columns if column not in numeric]
    rows = sum(len(frame) for frame in tables.frames)
    return (
        np.stack(numbers, 1) if numbers else np.empty((rows, 0)),
        np.concatenate(categories, 1) if categories else np.empty((rows, 0)),
    )


def _numbers(tables: Tables, column: str, training: Any) -> Any:
    values = tables.numbers(column)
    known = values[training]
    known = known[~np.isnan(known)]
    if len(known) == 0 or known.min() == known.max():
        raise _constant(tables, column, "missing" if len(known) == 0 else str(known[0]))
    return np.where(np.isnan(values), known.mean(), values)


def _one_hot(tables: Tables, column: str, training: Any) -> Any:
    values = tables.texts(column)
    known = sorted({value for value in values[training] if value is not None})
    if len(known) < 2:
        raise _constant(tables, column, known[0] if known else "missing")
    if len(known) > MOST_CATEGORIES:
        raise UserError(
            f"{tables.paths[0]}: column {column}: has {len(known)} different values, each of which would be an input; "
            f"accepted: at most {MOST_CATEGORIES}, or dataset.ignore=[{column}]"
        )
    places = {value: place for place, value in enumerate(known)}
    matrix = np.zeros((len(values), len(known)))
    unknown = []
    for row, value in enumerate(values):
        if value in places:
            matrix[row, places[value]] = 1
        elif value is not None:
            unknown.append(row)
    if unknown:
        say_once(
            f"{tables.where(column, unknown[0])}: {values[unknown[0]]!r} is not among the values of the training examples, "
            f"and becomes all zeros; so in {len(unknown)} rows of validation and test"
        )
    return matrix


def _constant(tables: Tables, column: str, value: str) -> UserError:
    return UserError(
        f"{tables.paths[0]}: column {column}: is {value} in all training examples, so that nothing can be learned from it; "
        f"accepted: dataset.ignore=[{column}]"
    )


def _kind(series: "pd.Series[Any]", where: str) -> str:
    import pandas as pd

    dtype = series.cat.categories.dtype if isinstance(series.dtype, pd.CategoricalDtype) else series.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return _TEXTS
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        # The codes of categories are not numbers to calculate with.
        return _TEXTS if isinstance(series.dtype, pd.CategoricalDtype) else _NUMBERS
    inferred = pd.api.types.infer_dtype(series.dropna().astype(object), skipna=True)
    if inferred not in ("string", "boolean", "empty"):
        raise UserError(
            f"{where}: holds {inferred} values ({dtype}); accepted: numbers, texts and booleans, or dataset.ignore of it"
        )
    return _TEXTS


def _plain(series: "pd.Series[Any]") -> list[Any]:
    """The values as Python's own types, None for missing ones; whole numbers, which gaps turn into floats, become integers."""
    values: list[Any] = [None if gap else value for value, gap in zip(series.tolist(), series.isna(), strict=True)]
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
