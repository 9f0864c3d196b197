"""A cache of values made from files and folders, valid while these are unchanged."""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
Stamp = tuple[int, int, int, int]
# A file changed more recently than this is not cached: it may change again at the same tick of the file system's clock.
CLOCK_NANOSECONDS = 2_000_000_000


class FileCache(Generic[T]):
    """Remembers values made from files, identified by size, times and inode."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path], tuple[Stamp, T]] = {}
        self._made: dict[Hashable, tuple[list[tuple[Path, Stamp | None]], T]] = {}

    def get(self, path: Path, read: Callable[[], T], kind: str = "") -> T:
        """The result of ``read()``, or its earlier result if ``path`` is unchanged; the caller must not change it.

        kind: distinguishes the results of different readers of one file.
        """
        stamp = _stamp(path)
        if stamp is None:
            return read()
        key = (kind, path.absolute())
        known = self._known.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        found = read()
        if _is_settled(stamp):
            self._known[key] = (stamp, found)
        return found

    def made(self, key: Hashable, make: Callable[[], tuple[T, Iterable[Path]]]) -> T:
        """The value that ``make()`` returns with the absolute paths that it depends on; made again once one of them changes.

        A path may be absent, and stands for a change once it is there. The caller must not change the value.
        """
        known = self._made.get(key)
        if known is not None and all(_stamp(path) == stamp for path, stamp in known[0]):
            return known[1]
        found, paths = make()
        stamps = [(path, _stamp(path)) for path in paths]
        if all(stamp is None or _is_settled(stamp) for _, stamp in stamps):
            self._made[key] = (stamps, found)
        return found


_looked_at: dict[Path, Stamp | None] | None = None


@contextmanager
def looking_once() -> Iterator[None]:
    """Within the block, in this process, each file counts as it was when it was first looked at.

    For one command that composes thousands of configurations from the same files, which would look at each of them as often.
    """
    global _looked_at
    before = _looked_at
    _looked_at = {} if before is None else before
    try:
        yield
    finally:
        _looked_at = before


def _stamp(path: Path) -> Stamp | None:
    if _looked_at is None:
        return _look(path)
    if path not in _looked_at:
        _looked_at[path] = _look(path)
    return _looked_at[path]


def _look(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _is_settled(stamp: Stamp) -> bool:
    return time.time_ns() - max(stamp[1], stamp[2]) > CLOCK_NANOSECONDS
