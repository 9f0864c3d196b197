"""The index of a results folder: the rows of its runs in a few files, for reading a hundred thousand of them in seconds.

    RESULTS/.index/  tail-*.jsonl           a line for each run that has ended: its row, appended with one write
                     part-DIGEST.parquet    the rows of earlier lines; the name holds the digest of the content

The index is never the only copy, and never trusted: a row counts only while the run's files are those from which it was read,
by their sizes, inodes and times (`keys_of`), and while the code that made it is that of now. Any other run is read from its
folder, so that one that was restarted, removed, merged, renamed or edited by hand is seen as it is, and so that a missing,
damaged or foreign index costs time only. Nothing here fails if the folder is read-only or the disk is full: then the index is
not written.

Who finishes a run appends its line (`add`). When the lines have grown to `_LONGEST_TAIL` bytes, whoever appended the last of them
moves them into a part, and joins small parts, under the lock; readers and other writers do not wait for it. A reader that had
to read many folders writes what it has read (`read_rows`).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.store import columns
from optbench.store.columns import Layout, Rows
from optbench.store.files import StoreError, read_bytes, refuse_link, remove_orphans, write_atomically
from optbench.store.lock import RunLock, RunLocked
from optbench.store.run_directory import RunDirectory
from optbench.store.run_row import Row, read_row

if TYPE_CHECKING:
    import numpy as np

#: The files of a run that its row is made of, in groups: whoever needs the columns from one group compares its files only.
GROUPS = {
    "results": ("status.json", "summary.json"),
    "settings": ("config.yaml", "notes.json"),
    "environment": ("environment.json",),
}
OF_FRAMES = ("results", "settings")
#: A reader that had to read this many folders writes their rows; fewer are read again in less than half a second.
MANY = 256
_LONGEST_TAIL = 1 << 20
_LAYOUTS = b"optbench.layouts"
_AT_ONCE = 4096  # rows as Python objects
# Errors that writing the index may meet: a folder that is read-only, gone or a link, a full disk, a process that is writing it.
_REFUSED = (OSError, StoreError, RunLocked)
_PACKAGE = Path(__file__).parents[1]
_MAKES_ROWS = ("columns", "files", "index", "notes", "run_directory", "run_row")


@cache
def _code() -> str:
    """A digest of the code that makes rows: the same files may give other columns in another version."""
    found = hashlib.blake2b(digest_size=8)
    own = [_PACKAGE / "moved.py", *(_PACKAGE / "store" / f"{name}.py" for name in _MAKES_ROWS)]
    for path in sorted([*own, *(_PACKAGE / "config").rglob("*.py")]):
        found.update(str(path.relative_to(_PACKAGE)).encode() + path.read_bytes())
    return found.hexdigest()


def _place(results_dir: str | Path) -> Path:
    return Path(results_dir) / ".index"


# ---- what a row depends on -------------------------------------------------------------------------------------------------


def keys_of(results_dir: str | Path, run_ids: Sequence[str], files: Sequence[str]) -> "np.ndarray":
    """For each run a number that changes with the size, the inode or a time of any of its ``files``; 0 if they cannot be seen.

    An absent file counts as a file of its own kind. Symbolic links are not followed.
    """
    import numpy as np

    seen: list[int] = []
    try:
        folder = os.open(Path(results_dir) / "runs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return np.zeros(len(run_ids), np.uint64)
    try:
        for run_id in run_ids:
            for file in files:
                try:
                    found = os.stat(f"{run_id}/{file}", dir_fd=folder, follow_symlinks=False)
                    seen += (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
                except FileNotFoundError:
                    seen += (-1, -1, -1, -1)
                except OSError:
                    seen += (-2, -2, -2, -2)
    finally:
        os.close(folder)
    values = np.array(seen, np.int64).reshape(len(run_ids), 4 * len(files))
    keys = np.zeros(len(run_ids), np.uint64)
    for column in values.T.view(np.uint64):  # the finalizer of splitmix64 mixes each value into the key
        keys ^= column + np.uint64(0x9E3779B97F4A7C15)
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys ^= keys >> np.uint64(31)
    keys[(values[:, ::4] == -2).any(axis=1)] = 0
    return keys


# ---- reading ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Some rows of the index. keys: for each of `GROUPS`, the key of the row's files when it was read."""

    rows: Rows
    keys: "Mapping[str, np.ndarray]"

    @property
    def run_ids(self) -> Any:
        """The run of each row, as an Arrow array."""
        import pyarrow as pa

        return self.rows.table.column("s:run_id").cast(pa.string())

    def at(self, places: "np.ndarray") -> "_Part":
        """The rows at ``places`` only."""
        return _Part(columns.take(self.rows, places), {group: keys[places] for group, keys in self.keys.items()})


def _joined(parts: Sequence[_Part]) -> _Part:
    import numpy as np

    keys = {group: np.concatenate([part.keys[group] for part in parts]) for group in GROUPS}
    return _Part(columns.join([part.rows for part in parts]), keys)


class Look:
    """One look at a results folder: the files of each run are compared with the index once, for all that is then asked."""

    def __init__(self, results_dir: str | Path) -> None:
        self.results_dir = Path(results_dir)
        self._keys: dict[str, dict[str, int]] = {group: {} for group in GROUPS}

    def find(
        self, run_ids: Sequence[str], names: Iterable[str] | None = None, groups: Sequence[str] = OF_FRAMES
    ) -> tuple[Rows | None, "np.ndarray"]:
        """The rows of those of ``run_ids`` that the index knows as they are now, and for each run its row, -1 if it has none.

        names: only these columns. groups: those of `GROUPS` that they come from; only these files are compared. The rows are
        None if there are none.
        """
        import numpy as np

        places = np.full(len(run_ids), -1, np.int64)
        wanted = None if names is None else frozenset(names)
        parts = _read_all(_place(self.results_dir), wanted) if len(run_ids) else []
        if not parts:
            return None, places
        whole = _joined(parts)
        runs, rows = self.current(run_ids, whole, groups)
        places[runs] = rows  # of several rows of a run that are alike, the last one
        there = np.flatnonzero(places >= 0)
        if not len(there):
            return None, places
        kept = columns.take(whole.rows, places[there])
        places[there] = np.arange(len(there))
        return kept, places

    def current(self, run_ids: Sequence[str], part: _Part, groups: Sequence[str]) -> "tuple[np.ndarray, np.ndarray]":
        """The rows of ``part`` that are as the files of their runs: the places of these in ``run_ids``, and the rows."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        number = pc.index_in(part.run_ids, value_set=pa.array(run_ids, pa.string()))
        rows = np.flatnonzero(number.is_valid().to_numpy())
        runs = number.drop_null().to_numpy().astype(np.int64)
        known = np.unique(runs)
        some = [run_ids[place] for place in known.tolist()]
        good = np.ones(len(rows), bool)
        for group in groups:
            keys = np.zeros(len(run_ids), np.uint64)
            keys[known] = self._of(some, group)
            good &= (part.keys[group][rows] == keys[runs]) & (keys[runs] != 0)
        return runs[good], rows[good]

    def _of(self, run_ids: Sequence[str], group: str) -> "np.ndarray":
        import numpy as np

        kept = self._keys[group]
        new = [run_id for run_id in run_ids if run_id not in kept]
        kept.update(zip(new, keys_of(self.results_dir, new, GROUPS[group]).tolist(), strict=True))
        return np.array([kept[run_id] for run_id in run_ids], np.uint64)


def _read_all(folder: Path, names: frozenset[str] | None) -> list[_Part]:
    """All parts and tails that can be read."""
    found: list[_Part] = []
    for _ in range(3):  # a file that is gone may have been joined to others after the names were read
        files = _files(folder)
        read = [_read_part(path, names) if path.suffix == ".parquet" else _read_tail(path) for path in files]
        found = [part for part in read if part is not None and len(part.rows)]
        if len(found) == len(files) or all(map(os.path.lexists, files)):
            break
    return found


def _files(folder: Path) -> list[Path]:
    """The parts and the tails of the index; none if the folder is absent or a link."""
    if folder.is_symlink():
        return []
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return []
    return [folder / name for name in names if name.startswith(("part-", "tail"))]


def _read_part(path: Path, names: frozenset[str] | None) -> _Part | None:
    """The rows of a part; None if it is gone, damaged, or of other code."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = ("layout", "s:run_id", *GROUPS)
    try:
        content = read_bytes(path)
        if path.name != _name_of(content):
            return None
        file = pq.ParquetFile(pa.BufferReader(content))
        schema = file.schema_arrow
        wanted = [name for name in schema.names if names is None or name in own or name[2:] in names]
        table = file.read(columns=wanted).replace_schema_metadata(None)
        layouts = [Layout(*map(tuple, pair)) for pair in json.loads(schema.metadata[_LAYOUTS])]
        keys = {group: table.column(group).to_numpy().astype(np.uint64) for group in GROUPS}
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError):
        return None
    return _Part(Rows(table.drop_columns(list(GROUPS)), layouts), keys)


def _name_of(content: bytes) -> str:
    # With the code, so that rows that another version has made count as damaged.
    return f"part-{hashlib.blake2b(content + _code().encode(), digest_size=16).hexdigest()}.parquet"


def _read_tail(path: Path) -> _Part | None:
    """The rows of a tail, the last one of each run; lines that are cut, damaged or of other code are left out."""
    import numpy as np

    try:
        content = read_bytes(path)
    except OSError:
        return None
    lines: dict[str, tuple[Row, dict[str, int]]] = {}
    for line in content.split(b"\n"):
        digest, _, text = line.partition(b" ")
        if _digest(text) == digest:
            said = json.loads(text)
            if said["code"] == _code():
                row = Row(said["base"], said["summary"], said["config"])
                lines[row.base["run_id"]] = (row, said["keys"])
    if not lines:
        return None
    rows, keys = zip(*lines.values(), strict=True)
    return _Part(columns.encode(rows), {group: np.array([each[group] for each in keys], np.uint64) for group in GROUPS})


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


# ---- writing ---------------------------------------------------------------------------------------------------------------


def read_rows(results_dir: str | Path, run_ids: Sequence[str]) -> Rows:
    """The rows of ``run_ids``, read from their folders. Of `MANY` or more, the index gets those that it can hold."""
    found = []
    for start in range(0, len(run_ids), _AT_ONCE):
        some = run_ids[start : start + _AT_ONCE]
        before = {group: keys_of(results_dir, some, files) for group, files in GROUPS.items()}
        found.append(_Part(columns.encode([read_row(RunDirectory.at(results_dir, run_id)) for run_id in some]), before))
    if not found:
        return columns.encode([])
    whole = _joined(found)
    if len(run_ids) >= MANY:
        with suppress(*_REFUSED):
            _compact(results_dir, [whole.at(_possible(whole.rows))])
    return whole.rows


def add(run: RunDirectory) -> None:
    """Append the row of a run that has ended to the index; nothing happens if that is not possible."""
    if run.path.parent.name != "runs":
        return
    with suppress(*_REFUSED):
        keys = {group: int(keys_of(run.results_dir, [run.run_id], files)[0]) for group, files in GROUPS.items()}
        row = read_row(run)
        if not len(_possible(columns.encode([row]))):
            return
        said = {"code": _code(), "keys": keys}
        text = json.dumps(said | {"base": row.base, "summary": row.summary, "config": row.config}).encode()
        folder = _made(run.results_dir)
        descriptor = os.open(folder / "tail.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            # The first line end closes a line that a crash, or a full disk, has cut.
            os.write(descriptor, b"\n" + _digest(text) + b" " + text + b"\n")
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size >= _LONGEST_TAIL:
            _compact(run.results_dir)


def _possible(rows: Rows) -> "np.ndarray":
    """The rows that the index can hold: without a problem, which names files, and of types that Arrow has."""
    import numpy as np
    import pyarrow.compute as pc

    good = pc.fill_null(pc.equal(rows.table.column("s:problem"), ""), False).to_numpy().copy()
    for values in rows.odd.values():
        good[list(values)] = False
    return np.flatnonzero(good)


def _made(results_dir: str | Path) -> Path:
    folder = _place(results_dir)
    refuse_link(folder)
    folder.mkdir(exist_ok=True)
    return folder


def _compact(results_dir: str | Path, new: Sequence[_Part] = ()) -> None:
    """Move the tails and the rows ``new`` into a part, and join small parts to it; nothing if another process does that.

    Lines that are appended meanwhile go into a new tail. After a kill at any point all rows are there, some of them twice.
    """
    folder = _made(results_dir)
    with RunLock(folder / "lock"):
        remove_orphans(folder)
        with suppress(FileNotFoundError):
            (folder / "tail.jsonl").rename(folder / f"tail-{os.urandom(4).hex()}.jsonl")
        files = [path for path in _files(folder) if path.name != "tail.jsonl"]
        read = {path: _read_part(path, None) if path.suffix == ".parquet" else _read_tail(path) for path in files}
        gone = [path for path, part in read.items() if part is None or path.suffix != ".parquet"]
        joined = [*new, *(part for path in gone if (part := read[path]) is not None)]
        parts = sorted((path for path in files if path not in gone), key=lambda path: len(read[path].rows))  # type: ignore[union-attr]
        for path in parts:
            part = read[path]
            # Each join makes a part at least half as large again, so that a row is written a few times only.
            if part is None or len(part.rows) > 2 * sum(len(each.rows) for each in joined):
                break
            joined.append(part)
            gone.append(path)
        written = _write_part(results_dir, folder, joined) if joined else None
        for path in gone:
            if path != written:
                path.unlink(missing_ok=True)


def _write_part(results_dir: str | Path, folder: Path, parts: Sequence[_Part]) -> Path | None:
    """Write those rows of ``parts`` that are as their runs are now; None if there are none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = _joined(parts)
    run_ids = sorted(set(whole.run_ids.to_pylist()))
    runs, rows = Look(results_dir).current(run_ids, whole, tuple(GROUPS))
    last = np.full(len(run_ids), -1, np.int64)
    last[runs] = rows
    kept = whole.at(last[last >= 0])
    if not len(kept.rows):
        return None
    table = kept.rows.table
    for group, keys in kept.keys.items():
        table = table.append_column(group, pa.array(keys, pa.uint64()))
    layouts = json.dumps([[layout.summary, layout.config] for layout in kept.rows.layouts])
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_LAYOUTS: layouts.encode()}), sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    path = folder / _name_of(content)
    write_atomically(path, content)
    return path
