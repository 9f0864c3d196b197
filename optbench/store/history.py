"""The history of a run: JSON lines while it trains, and one parquet file when it has ended."""

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.moved import current_choice, current_column, with_earlier_columns
from optbench.store.files import (
    StoreError,
    plain,
    read_bytes,
    reason,
    reporting,
    temporary_file,
    to_json,
    write_atomically,
)

if TYPE_CHECKING:
    import pyarrow as pa

# The size of the history.jsonl from which a parquet file was made. Unlike a time of modification it survives copying.
_BYTES_KEY = b"optbench.history_bytes"
# A history is read by blocks of so many bytes, which are some fifty megabytes as rows.
_BLOCK = 4 << 20
_EXACT = 2**53


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append ``row`` to the JSON lines in ``path`` with one write, so that a crash can cut only the last line.

    A line that an earlier crash cut is removed first. Raises ValueError when ``row["step"]`` is not an int, and
    `StoreError`, leaving the file as it was, when the file system refuses.
    """
    row = plain(row)
    if not _is_row(row):
        raise ValueError(f"a row of the history needs an int under 'step', got {row.get('step')!r}")
    line = memoryview(to_json(row) + b"\n")
    # The file is opened anew for each row: on NFS, closing it makes the row visible to other hosts.
    with reporting("write", path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            end = _whole_lines_end(descriptor)
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)


def _whole_lines_end(descriptor: int) -> int:
    """The size of the open file after a cut last line, if there is one, has been removed."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    place, end = size, 0
    while place and not end:
        first = max(0, place - _BLOCK)
        line_end = os.pread(descriptor, place - first, first).rfind(b"\n") + 1
        place, end = first, first + line_end if line_end else 0
    os.ftruncate(descriptor, end)
    return end


def _is_row(value: Any) -> bool:
    # Not isinstance: a bool is an int as well.
    return isinstance(value, dict) and type(value.get("step")) is int


def blocks(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The whole lines of ``path``, or of its first ``size`` bytes, some megabytes at a time; none if it is absent.

    The text after the last line end was cut by a crash, or is being written at this moment, and is left out.
    """
    with reporting("read", path):
        try:
            # As in `read_bytes`: no links, and no waiting for the other end of a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "rb") as file:
            left = math.inf if size is None else size
            rest: list[bytes] = []
            while left > 0 and (read := file.read(int(min(_BLOCK, left)))):
                left -= len(read)
                end = read.rfind(b"\n") + 1
                if end:
                    yield b"".join([*rest, read[:end]])
                    rest = []
                rest.append(read[end:])


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if _is_row(row) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows in ``path``, none if it is absent; ignores a cut last line, and warns of any other damaged line."""
    return [row for rows in rows_in_blocks(path) for row in rows]


def rows_in_blocks(path: Path, size: int | None = None, warn: bool = True) -> Iterator[list[dict[str, Any]]]:
    """The rows of `read_rows`, or those in the first ``size`` bytes of ``path``, some thousands at a time."""
    damaged: list[int] = []
    before = 0
    for block in blocks(path, size):
        lines = block.split(b"\n")[:-1]
        try:
            # One call for all lines takes half the time of one call a line.
            parsed: Sequence[Any] = json.loads(b"[" + b",".join(lines) + b"]")
            whole = len(parsed) == len(lines) and all(map(_is_row, parsed))
        except ValueError:
            whole = False
        if not whole:
            parsed = [_parse(line) for line in lines]
            damaged += [number for number, row in enumerate(parsed, start=before + 1) if row is None]
        before += len(lines)
        yield [row for row in parsed if row is not None]
    if damaged and warn:
        warnings.warn(
            f"{path}: {len(damaged)} damaged lines are left out, the first is line {damaged[0]}", stacklevel=3
        )


def truncate(path: Path, after_step: int) -> None:
    """Atomically rewrite ``path`` without the rows of the steps after ``after_step`` and without damaged lines."""
    try:
        size = path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error
    if sum(map(len, _kept(path, after_step))) == size:
        return  # nothing is removed
    with reporting("write", path), temporary_file(path) as temporary:
        with temporary.open("wb") as file:
            for lines in _kept(path, after_step):
                file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _kept(path: Path, after_step: int) -> Iterator[bytes]:
    """The lines of ``path`` up to ``after_step``, block by block."""
    for block in blocks(path):
        rows = ((line, _parse(line)) for line in block.split(b"\n")[:-1])
        yield b"".join(line + b"\n" for line, row in rows if row is not None and row["step"] <= after_step)


def rewrite(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Atomically replace ``path`` by the JSON lines of ``rows``."""
    write_atomically(path, b"".join(to_json(row) + b"\n" for row in rows))


def to_table(rows: Sequence[dict[str, Any]]) -> "pa.Table":
    """The rows as an Arrow table whose columns are the union of their keys, in the order in which they appear.

    Numbers, booleans, text and lists of these keep their types. A column of mappings, or of values that share no
    type, holds each value as JSON text.
    """
    import pyarrow as pa

    names = dict.fromkeys(key for row in rows for key in row) or {"step": None}
    columns = {name: _to_array([row.get(name) for row in rows]) for name in names}
    if not rows:
        columns["step"] = pa.array([], pa.int64())
    return pa.table(columns)


def _to_array(values: list[Any]) -> "pa.Array":
    import pyarrow as pa

    try:
        array = pa.array(values)
        # Arrow takes a boolean among floats for a number.
        mixed = pa.types.is_floating(array.type) and bool in set(map(type, values))
        if not mixed and not _holds_mappings(array.type):
            return array
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    return _json_text(values)


def _json_text(values: list[Any]) -> "pa.Array":
    import pyarrow as pa

    # ASCII escapes, because the values may hold text that no Arrow column can (lone surrogates).
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _holds_mappings(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    while pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_struct(kind))


class _Columns:
    """The types of the columns of a history, found block by block, so that each block becomes a table of one schema."""

    def __init__(self) -> None:
        self._kinds: dict[str, pa.DataType | None] = {}
        self._large: set[str] = set()  # columns with an integer that float64 does not hold
        self.rows = 0

    def see(self, rows: Sequence[dict[str, Any]]) -> "pa.Table":
        """Take the types of ``rows`` into account; returns their own table."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = to_table(rows)
        for name in table.column_names:
            kind = None if _is_text(table[name], rows, name) else table[name].type
            known = self._kinds.get(name, pa.null())
            self._kinds[name] = None if kind is None or known is None else _joined(known, kind)
            if pa.types.is_integer(table[name].type):
                extremes = pc.min_max(table[name]).as_py()
                if max(abs(extremes["min"] or 0), abs(extremes["max"] or 0)) > _EXACT:
                    self._large.add(name)
        self.rows += len(rows)
        return table

    def kinds(self) -> dict[str, "pa.DataType | None"]:
        """The type of each column; None for one whose values are written as JSON text."""
        import pyarrow as pa

        kinds = {
            name: None if kind is not None and pa.types.is_floating(kind) and name in self._large else kind
            for name, kind in self._kinds.items()
        }
        return kinds or {"step": pa.int64()}

    def table(self, rows: Sequence[dict[str, Any]]) -> "pa.Table":
        """``rows`` as a table of all columns."""
        import pyarrow as pa

        return pa.table({
            name: _json_text([row.get(name) for row in rows]) if kind is None else pa.array([row.get(name) for row in rows], kind)
            for name, kind in self.kinds().items()
        })  # fmt: skip


def _is_text(array: "pa.ChunkedArray", rows: Sequence[dict[str, Any]], name: str) -> bool:
    """True if `_to_array` has written the values of the column as JSON text."""
    import pyarrow as pa

    if not pa.types.is_string(array.type):
        return False
    first = next((value for row in rows if (value := row.get(name)) is not None), None)
    return bool(array.drop_null()[0].as_py() != first)


def _joined(one: "pa.DataType", other: "pa.DataType") -> "pa.DataType | None":
    """The type that Arrow gives to values of both types together; None if they share none."""
    import pyarrow as pa

    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = _joined(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if {str(one), str(other)} == {"int64", "double"}:
        return pa.float64()
    return None


def _tables(history: Path) -> "tuple[pa.Schema, Iterator[pa.Table], int]":
    """The rows of the JSON lines ``history`` as tables of one schema, one after another, and the bytes of all lines.

    A history of one block is read once; a longer one twice, because a column may change its type on the way.
    """
    found, size, table = _Columns(), sum(map(len, blocks(history))), None
    for number, rows in enumerate(rows_in_blocks(history, size)):
        own = found.see(rows)
        table = own if number == 0 else None
    if table is None and found.rows == 0:
        table = to_table([])
    if table is not None:
        return table.schema, iter([table]), size
    again = (found.table(rows) for rows in rows_in_blocks(history, size, warn=False))
    return found.table([]).schema, again, size


def write_parquet(history: Path, target: Path) -> None:
    """Write the rows of the JSON lines ``history`` to the parquet file ``target``, atomically."""
    import pyarrow.parquet as pq

    schema, tables, size = _tables(history)
    with reporting("write", target), temporary_file(target) as temporary:
        with temporary.open("wb") as file:
            with pq.ParquetWriter(file, schema.with_metadata({_BYTES_KEY: str(size).encode()})) as writer:
                for table in tables:
                    writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)


def read_table(history: Path, parquet: Path, columns: Iterable[str] | None = None) -> "pa.Table":
    """All rows of a run as an Arrow table: from ``parquet`` if it holds all of ``history``, otherwise from ``history``.

    ``columns`` keeps only those of the named columns that the run has. What a probe with another name now has written is
    under its name of now. Raises `StoreError` when neither can be read.
    """
    import pyarrow as pa

    columns = None if columns is None else list(columns)
    table = _read_parquet(history, parquet, None if columns is None else with_earlier_columns(columns))
    if table is None:
        schema, tables, _ = _tables(history)
        table = pa.Table.from_batches((batch for each in tables for batch in each.to_batches()), schema)
    table = _with_current_names(table)
    if columns is not None:
        table = table.select([name for name in columns if name in table.column_names])
    return table.replace_schema_metadata(None)


def _with_current_names(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in table.column_names:
        now = current_column(name)
        if now in table.column_names and now != name:  # the run has gone on since the name has changed
            pairs = zip(table[now].to_pylist(), table[name].to_pylist(), strict=True)
            both = _to_array([earlier if value is None else value for value, earlier in pairs])
            table = table.set_column(table.column_names.index(now), now, both).drop_columns(name)
        elif now != name:
            table = table.rename_columns([now if other == name else other for other in table.column_names])
    if "probe" not in table.column_names or not pa.types.is_string(table["probe"].type):
        return table
    probes = {name: current_choice("probe", name) for name in pc.unique(table["probe"]).to_pylist() if name is not None}
    for name, now in probes.items():
        if name != now:
            named = pc.if_else(pc.equal(table["probe"], name), now, table["probe"])
            table = table.set_column(table.column_names.index("probe"), "probe", named)
    return table


def _read_parquet(history: Path, parquet: Path, columns: Iterable[str] | None) -> "pa.Table | None":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Passed as bytes: for files of this size, opening a path with pyarrow takes several times as long.
        file = pq.ParquetFile(pa.BufferReader(read_bytes(parquet)))
        try:
            current = history.stat().st_size
        except FileNotFoundError:
            current = None  # only the parquet file was kept
        if current is not None and (file.metadata.metadata or {}).get(_BYTES_KEY) != str(current).encode():
            return None
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (OSError, pa.ArrowException):
        return None
