"""Files that are either the old ones or the new ones, never half of each, and strict JSON."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any


class StoreError(Exception):
    """A file of the store cannot be read or written; the one message names the file and the reason."""


@contextmanager
def reporting(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block (disk full, read-only, ...) into a `StoreError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {action} {path}: {error.strerror or error}") from error


@contextmanager
def _temporary_file(path: Path, content: bytes, sync: bool) -> Iterator[Path]:
    """A new file holding ``content`` in the folder of ``path``, gone (or renamed) when the block ends."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            if sync:
                # Without it a machine that loses power may have renamed a file whose content never reached the disk.
                file.flush()
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace ``path`` by ``content``: a reader, and whoever comes after a crash, sees the old file or the new one.

    Raises `StoreError` when the file system refuses; the old file is then untouched.
    """
    with reporting("write", path), _temporary_file(path, content, sync) as temporary:
        temporary.replace(path)


def write_if_absent(path: Path, content: bytes) -> bool:
    """Write ``path`` whole unless it exists, and tell whether this call wrote it. Of several callers one writes."""
    with reporting("write", path), _temporary_file(path, content, sync=True) as temporary:
        return link(temporary, path)


def link(source: Path, target: Path) -> bool:
    """Give ``source`` the second name ``target`` unless that name is taken; tell whether it was given.

    Creating a hard link is atomic on local file systems and on NFS, where exclusive creation once was not.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then reports the link that it made itself.
        try:
            return source.samefile(target)
        except FileNotFoundError:
            return False
    return True


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: non-finite floats become None, paths text, NumPy scalars and arrays numbers.

    Raises TypeError for anything that JSON has no word for.
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
    # A file name that is not UTF-8 holds lone surrogates; as JSON escapes they survive.
    return text.encode("utf-8", errors="backslashreplace")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises FileNotFoundError, or `StoreError` when it is damaged or unreadable."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: it holds no JSON object")
    return value


_PLAIN = frozenset({str, int, float, bool, type(None), list})


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``. Lists stay whole, empty mappings vanish."""
    flat: dict[str, Any] = {}
    _flatten_into(flat, values, prefix)
    return flat


def _flatten_into(flat: dict[str, Any], values: Mapping[str, Any], prefix: str) -> None:
    # Ten thousand runs have millions of values: one dictionary is filled, and the abstract class is asked last.
    for key, value in values.items():
        kind = type(value)
        if kind is dict or (kind not in _PLAIN and isinstance(value, Mapping)):
            _flatten_into(flat, value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = value
