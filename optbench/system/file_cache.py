"""A cache of values made from files and folders, valid while these are unchanged."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
# A file changed more recently than this is not cached: it may change again at the same tick of the file system's clock.
CLOCK_NANOSECONDS = 2_000_000_000


class FileCache(Generic[T]):
    """Remembers values made from files, identified by size, times and inode."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path], tuple[tuple[int, int, int, int], T]] = {}

    def get(self, path: Path, read: Callable[[], T], kind: str = "") -> T:
        """The result of ``read()``, or its earlier result if ``path`` is unchanged; the caller must not change it.

        kind: distinguishes the results of different readers of one file.
        """
        try:
            status = path.stat()
        except OSError:
            return read()
        key = (kind, path.absolute())
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        known = self._known.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        found = read()
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > CLOCK_NANOSECONDS:
            self._known[key] = (stamp, found)
        return found
