"""Atomic writing of files (a reader sees the old content or the new, never a part), and strict JSON."""

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from optbench.errors import UserError
from optbench.store.processes import is_gone, machine_tag

# A temporary file names its writer: .NAME.MACHINE-PROCESS-RANDOM.tmp
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")
# The errors of file systems without hard links: SMB, FAT, some FUSE and network ones.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class StoreError(Exception):
    """Raised if a file of the store cannot be read or written; the message names the file and the reason."""


@contextmanager
def reporting(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block (disk full, read-only, ...) into a `StoreError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {action} {path}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """The reason why a file could not be read or written, in words."""
    # With O_NOFOLLOW the system reports "too many links" for the first link.
    return "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)


@contextmanager
def temporary_file(path: Path, *content: bytes | memoryview, sync: bool = True) -> Iterator[Path]:
    """A new file with ``content`` in the folder of ``path``, removed when the block ends unless it was renamed."""
    temporary = path.with_name(f".{path.name}.{machine_tag()}-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            for part in content:
                file.write(part)
            if sync:
                # Otherwise, after a loss of power, a renamed file may lack its content.
                file.flush()
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def remove_orphans(folder: Path, of: str = "") -> None:
    """Remove temporary files in ``folder`` whose writers on this machine are gone, for files whose names begin with ``of``."""
    with reporting("clean", folder):
        for path in folder.glob(f".{of}*.tmp"):
            match = _TEMPORARY.fullmatch(path.name)
            if match is not None and match[1] == machine_tag() and is_gone(int(match[2])):
                path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Return once the content of ``path`` (of a folder: the names in it) is on the disk; at once if it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not support this for folders, and do not need it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace ``path`` by ``content``: a reader sees the old file or the new one, also after a crash.

    Raises `StoreError` if the file system refuses; the old file is then unchanged.
    """
    with reporting("write", path), temporary_file(path, content, sync=sync) as temporary:
        temporary.replace(path)


def sync_file_system(folder: Path) -> None:
    """Return once all that was written to the file system of ``folder`` is on the disk.

    For thousands of new files, each of which would wait for the disk on its own.
    """
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None:
        os.sync()  # not on Linux
        return
    with reporting("write", folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if call(descriptor):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)


def write_if_absent(path: Path, content: bytes, *, sync: bool = True) -> bool:
    """Write ``path`` atomically unless it exists; True if this call wrote it. Of several callers, one writes."""
    with reporting("write", path), temporary_file(path, content, sync=sync) as temporary:
        return link(temporary, path)


def link(source: Path, target: Path) -> bool:
    """Give ``source`` the second name ``target`` unless that exists; True if it was given.

    Creating a hard link is atomic on local file systems and on NFS, where exclusive creation was not in old versions.
    Without hard links, ``target`` is created exclusively as a copy of the small file ``source``: for a moment it is empty.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then reports its own link as existing.
        try:
            return source.samefile(target)
        except FileNotFoundError:
            return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _copy_exclusively(source, target)
    return True


def _copy_exclusively(source: Path, target: Path) -> bool:
    content = source.read_bytes()
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: non-finite floats become None, paths text, NumPy scalars and arrays numbers.

    Raises TypeError for a value that JSON cannot represent.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, PurePath):
        return str(value)
    # NumPy scalars and arrays, and tensors, without importing either library.
    if hasattr(value, "tolist") and not isinstance(converted := value.tolist(), type(value)):
        return plain(converted)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def to_json(value: Any, *, indent: int | None = None) -> bytes:
    """Strict JSON in UTF-8 with the keys in the order given; see `plain` for what is converted."""
    text = json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=indent)
    # File names that are not UTF-8 hold lone surrogates, which are kept as JSON escapes.
    return text.encode("utf-8", errors="backslashreplace")


def component(name: object, what: str) -> str:
    """``name``, if it is one plain component of a path, so that a path made from it stays in its folder.

    what: the noun for the message, such as "run". Raises UserError otherwise.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UserError(f"{what} {name!r}: must be a plain name; accepted: letters, digits, dashes, dots, underscores")
    return name


def refuse_link(path: Path) -> None:
    """Raise `StoreError` if ``path`` is a symbolic link: in a folder from elsewhere it may lead to any file here."""
    if path.is_symlink():
        raise StoreError(
            f"{path} is a symbolic link to {path.readlink()}; in a results folder only the folders runs and sweeps may be "
            "links: put the file or folder itself there"
        )


def refuse_links_in(folder: Path) -> None:
    """Raise `StoreError` if ``folder``, or a file or folder directly in it, is a symbolic link; it need not exist."""
    refuse_link(folder)
    with reporting("read", folder):
        try:
            with os.scandir(folder) as entries:
                links = [entry.name for entry in entries if entry.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):
            return
    for name in links:
        refuse_link(folder / name)


def read_bytes(path: Path) -> bytes:
    """The content of the file ``path``, unless it is a symbolic link (see `refuse_link`). Raises OSError."""
    # O_NONBLOCK: opening a named pipe would wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises FileNotFoundError, or `StoreError` when it is damaged or unreadable."""
    try:
        value = json.loads(read_bytes(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it holds no JSON object")
    return value


_PLAIN = frozenset({str, int, float, bool, type(None), list})


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append ``values`` to a file of JSON lines with one write, so that several processes may append."""
    line = to_json(values) + b"\n"
    with reporting("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without lines that a crash has cut; none if there is no file."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}") from error
    lines = content.splitlines()
    try:
        # One call for all lines takes half the time of one call a line.
        values = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        values = None
    if values is None or len(values) != len(lines):
        values = [_parsed(line) for line in lines]
    return [value for value in values if isinstance(value, dict)]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # cut by a crash


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``. Lists stay whole, empty mappings vanish."""
    flat: dict[str, Any] = {}
    _flatten_into(flat, values, prefix)
    return flat


def _flatten_into(flat: dict[str, Any], values: Mapping[str, Any], prefix: str) -> None:
    # Ten thousand runs have millions of values: one dictionary is filled, and the slow check of Mapping comes last.
    for key, value in values.items():
        kind = type(value)
        if kind is dict or (kind not in _PLAIN and isinstance(value, Mapping)):
            _flatten_into(flat, value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
