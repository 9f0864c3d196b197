"""The history of a run: JSON lines while it trains, and one parquet file when it has ended."""

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.store.files import StoreError, plain, read_bytes, reason, reporting, to_json, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

# The size of the history.jsonl from which a parquet file was made. Unlike a time of modification it survives copying.
_BYTES_KEY = b"optbench.history_bytes"


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
    end = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, end)
    return end


def _is_row(value: Any) -> bool:
    # Not isinstance: a bool is an int as well.
    return isinstance(value, dict) and type(value.get("step")) is int


def _read_bytes(path: Path) -> bytes:
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error
    # The text after the last line end was cut by a crash, or is being written at this moment.
    return content[: content.rfind(b"\n") + 1]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if _is_row(row) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows in ``path``, none if it is absent; ignores a cut last line, and warns of any other damaged line."""
    return rows_of(_read_bytes(path), path)


def rows_of(content: bytes, path: Path) -> list[dict[str, Any]]:
    """The rows in ``content``, whole lines of ``path``; warns of damaged lines."""
    lines = content.split(b"\n")[:-1]
    try:
        # One call for all lines takes half the time of one call a line.
        parsed: Sequence[Any] = json.loads(b"[" + b",".join(lines) + b"]")
        if len(parsed) == len(lines) and all(map(_is_row, parsed)):
            return list(parsed)
    except ValueError:
        pass
    parsed = [_parse(line) for line in lines]
    damaged = [number for number, row in enumerate(parsed, start=1) if row is None]
    warnings.warn(f"{path}: {len(damaged)} damaged lines are left out, the first is line {damaged[0]}", stacklevel=3)
    return [row for row in parsed if row is not None]


def truncate(path: Path, after_step: int) -> None:
    """Atomically rewrite ``path`` without the rows of the steps after ``after_step`` and without damaged lines."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error
    kept = bytearray()
    for line in content.split(b"\n")[:-1]:
        row = _parse(line)
        if row is not None and row["step"] <= after_step:
            kept += line + b"\n"
    if kept != content:
        write_atomically(path, bytes(kept))


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
        if not _holds_mappings(array.type):
            return array
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    # ASCII escapes, because the values may hold text that no Arrow column can (lone surrogates).
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _holds_mappings(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    while pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_struct(kind))


def write_parquet(history: Path, target: Path) -> None:
    """Write the rows of the JSON lines ``history`` to the parquet file ``target``, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _read_bytes(history)
    table = to_table(rows_of(content, history))
    table = table.replace_schema_metadata({_BYTES_KEY: str(len(content)).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomically(target, sink.getvalue().to_pybytes())


def read_table(history: Path, parquet: Path, columns: Iterable[str] | None = None) -> "pa.Table":
    """All rows of a run as an Arrow table: from ``parquet`` if it holds all of ``history``, otherwise from ``history``.

    ``columns``: only these, as far as the run has them. Raises `StoreError` if neither file can be read.
    """
    table = _read_parquet(history, parquet, columns)
    if table is None:
        table = to_table(read_rows(history))
    if columns is not None:
        table = table.select([name for name in columns if name in table.column_names])
    return table.replace_schema_metadata(None)


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
