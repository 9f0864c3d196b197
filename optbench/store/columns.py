"""Rows of runs as an Arrow table, from which the frame of `optbench.store.load` is made column by column.

A hundred thousand rows as dictionaries need minutes and gigabytes in pandas. Here each column is an array for each type of its
values (a number may be an integer in one run and a float in another, and a frame must show what JSON showed), so that rows that
were read at different times can be joined, and joined rows give the frame that reading all of them at once gives.

    KIND:NAME   the values of the column NAME that are of one type: i, f, b, s (int64, float64, boolean, text), n (None)
    layout      the number of the row's `Layout`
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optbench.store.run_row import BASE, NOTED, Row

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

_KINDS = {int: "i", float: "f", bool: "b", str: "s", type(None): "n"}
_LARGEST = 2**63
_OWN = frozenset((*BASE, *NOTED))
# A column of this kind and no other is one array, whether or not values are missing (None counts as missing).
_OF_ONE_ARRAY = ({"i"}, {"f"}, {"s"}, {"i", "f"}, {"i", "n"}, {"f", "n"}, {"s", "n"}, {"i", "f", "n"})


class _Absent:
    """Stands where a row has no value."""


@dataclass(frozen=True)
class Layout:
    """The columns of a row, in the order of its files: those from its summary, and those from its configuration."""

    summary: tuple[str, ...]
    config: tuple[str, ...]


@dataclass
class Rows:
    """Rows as a table. odd: values of other types, such as dates in a configuration, by column and row."""

    table: "pa.Table"
    layouts: list[Layout]
    odd: dict[str, dict[int, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> "dict[str, pa.ChunkedArray]":
        """The arrays of the column ``name`` that hold any value, by their kind."""
        found = {}
        for kind in _KINDS.values():
            place = self.table.schema.get_field_index(f"{kind}:{name}")
            if place >= 0 and self.table.column(place).null_count < len(self):
                found[kind] = self.table.column(place)
        return found


def encode(rows: Sequence[Row]) -> Rows:
    """``rows`` as a table."""
    import pyarrow as pa

    values: dict[str, list[Any]] = {}
    layouts: dict[Layout, int] = {}
    numbers = []
    for place, row in enumerate(rows):
        summary = {_escaped(name): value for name, value in row.summary.items() if name not in _OWN}
        config = {_escaped(name): value for name, value in row.config.items()}
        layout = Layout(tuple(summary), tuple(config))
        numbers.append(layouts.setdefault(layout, len(layouts)))
        for name, value in (config | summary | row.base).items():
            column = values.get(name)
            if column is None:
                column = values[name] = [_Absent] * len(rows)
            column[place] = value
    arrays: dict[str, Any] = {"layout": pa.array(numbers, pa.int32())}
    odd: dict[str, dict[int, Any]] = {}
    for name, column in values.items():
        own = _encode_column(name, column, arrays)
        if own:
            odd[name] = own
    return Rows(pa.table(arrays), list(layouts), odd)


def _encode_column(name: str, column: list[Any], arrays: dict[str, Any]) -> dict[int, Any]:
    """Add the arrays of one column to ``arrays``; returns the values that no array can hold, by their row."""
    import pyarrow as pa

    odd: dict[int, Any] = {}
    if str in map(type, column):
        column = [_escaped(value) if type(value) is str else value for value in column]
    types = set(map(type, column))
    if not types <= {*_KINDS, type} or int in types:
        odd = {place: value for place, value in enumerate(column) if value is not _Absent and not _fits(value)}
        if odd:
            column = [_Absent if place in odd else value for place, value in enumerate(column)]
    for of_type in (int, float, bool, str):
        if of_type in types:
            values = [value if type(value) is of_type else None for value in column]
            array = pa.array(values, pa.string() if of_type is str else None)
            arrays[f"{_KINDS[of_type]}:{name}"] = array.dictionary_encode() if of_type is str else array
    if type(None) in types:
        arrays[f"n:{name}"] = pa.array([True if value is None else None for value in column], pa.bool_())
    return odd


def _fits(value: Any) -> bool:
    return type(value) in _KINDS and (type(value) is not int or -_LARGEST <= value < _LARGEST)


def _escaped(text: str) -> str:
    """``text``; lone surrogates, of file names that are not UTF-8, as escapes: no column of text can hold them."""
    return text if text.isascii() else text.encode("utf-8", errors="backslashreplace").decode()


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of all ``parts``, one part after another."""
    import pyarrow as pa

    if len(parts) == 1:
        return parts[0]
    layouts: dict[Layout, int] = {}
    tables = []
    odd: dict[str, dict[int, Any]] = {}
    before = 0
    for part in parts:
        numbers = pa.array([layouts.setdefault(layout, len(layouts)) for layout in part.layouts], pa.int32())
        place = part.table.schema.get_field_index("layout")
        tables.append(part.table.set_column(place, "layout", numbers.take(part.table["layout"].combine_chunks())))
        for name, values in part.odd.items():
            odd.setdefault(name, {}).update({before + row: value for row, value in values.items()})
        before += len(part)
    return Rows(pa.concat_tables(tables, promote_options="default").unify_dictionaries(), list(layouts), odd)


def take(rows: Rows, places: "np.ndarray") -> Rows:
    """The rows at ``places``, in that order; each place once."""
    import numpy as np
    import pyarrow as pa

    if len(places) == len(rows) and (places == np.arange(len(rows))).all():
        return rows
    now = {int(place): row for row, place in enumerate(places)} if rows.odd else {}
    odd = {
        name: kept
        for name, values in rows.odd.items()
        if (kept := {now[row]: value for row, value in values.items() if row in now})
    }
    return Rows(rows.table.take(pa.array(places, pa.int64())), rows.layouts, odd)


def frame(rows: Rows, search_spaces: bool) -> "pd.DataFrame":
    """The frame of `optbench.store.load` before `integers`: the columns in the order in which the rows have them."""
    import numpy as np
    import pandas as pd

    numbers, first = np.unique(rows.table["layout"].to_numpy(), return_index=True)
    used = [rows.layouts[number] for number in numbers[np.argsort(first)]]
    summary_keys = dict.fromkeys(name for layout in used for name in layout.summary)
    config_keys = dict.fromkeys(name for layout in used for name in layout.config)
    if not search_spaces:
        config_keys.pop("search_space", None)
    named = [name for name in config_keys if not name.startswith("config.") and name not in summary_keys]
    settings = [name for name in config_keys if name.startswith("config.")]
    noted = [name for name in NOTED if _has_text(rows, name)]
    columns = [*BASE, *noted, *summary_keys, *named, *settings]
    if not len(rows):
        return pd.DataFrame([], columns=columns)
    return _frame(rows, columns)


def _has_text(rows: Rows, name: str) -> bool:
    import pyarrow.compute as pc

    texts = rows.column(name).get("s")
    return texts is not None and bool(pc.any(pc.not_equal(texts, "")).as_py())


def _frame(rows: Rows, columns: Iterable[str]) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow as pa

    columns = list(columns)
    arrays: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name in dict.fromkeys(columns):
        array = None if name in rows.odd else _one_array(rows.column(name), len(rows))
        if array is None:
            others[name] = _objects(rows, name)
        else:
            arrays[name] = array
    found = pa.table(arrays).to_pandas(split_blocks=True, self_destruct=True)
    del arrays
    series = {
        name: found[name] if name in found else pd.Series(others[name], found.index, others[name].dtype, copy=False)
        for name in columns
    }
    del found
    whole = pd.DataFrame(series, copy=False)
    return whole if len(series) == len(columns) else whole[columns]


def _one_array(kinds: "dict[str, pa.ChunkedArray]", rows: int) -> "pa.ChunkedArray | None":
    """The column as the one array that pandas makes of such values; None if they stay objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if set(kinds) == {"b"} and not kinds["b"].null_count:
        return kinds["b"]
    if set(kinds) not in _OF_ONE_ARRAY:
        return None
    if "s" in kinds:
        return kinds["s"].cast(pa.string())
    if "i" in kinds and "f" in kinds:
        return pc.coalesce(kinds["f"], pc.cast(kinds["i"], pa.float64(), safe=False))
    return kinds["i"] if "i" in kinds else kinds["f"]


def values(rows: Rows, name: str, default: Any = None) -> list[Any]:
    """The values of the column ``name`` as Python objects, one for each row; ``default`` where a row has none."""
    return list(_filled(rows, name, default)[0])


def _filled(rows: Rows, name: str, default: Any) -> "tuple[np.ndarray, list[Any]]":
    """The values of a column as an array of objects, and one value of each kind in it."""
    import numpy as np

    found = np.full(len(rows), default, dtype=object)
    samples: list[Any] = []
    present = 0
    for kind, array in rows.column(name).items():
        there = array.is_valid().to_numpy()
        own = np.full(there.sum(), None) if kind == "n" else _as_objects(array.drop_null())
        present += len(own)
        samples.append(own[0])
        found[there] = own
    odd = rows.odd.get(name, {})
    for place, value in odd.items():
        found[place] = value
    if present + len(odd) < len(rows):
        samples.append(default)
    return found, samples


def _as_objects(array: "pa.ChunkedArray") -> "np.ndarray":
    """The values as Python objects; equal texts are one object."""
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_dictionary(array.type):
        plain: np.ndarray = array.to_numpy().astype(object)
        return plain
    parts = [np.array(chunk.dictionary.to_pylist(), object)[chunk.indices.to_numpy()] for chunk in array.chunks]
    return np.concatenate(parts)


def _objects(rows: Rows, name: str) -> Any:
    """The values of a column as an array of objects, or as what pandas makes of such objects; NaN where a row has none."""
    import pandas as pd

    found, samples = _filled(rows, name, math.nan)
    # The type that pandas gives to objects depends on their types alone, unless these are unusual.
    if name not in rows.odd and pd.DataFrame([(value,) for value in samples])[0].dtype == object:
        return found
    return pd.DataFrame([(value,) for value in found])[0].array
