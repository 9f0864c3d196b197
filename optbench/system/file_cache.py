"""What files and folders held when they were last read, for as long as they are as they were then."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
# What changed just now may change again at the same tick of the file system's clock.
CLOCK_NANOSECONDS = 2_000_000_000


class FileCache(Generic[T]):
    """Remembers what was made of files, by their size, their times and their inode."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path], tuple[tuple[int, int, int, int], T]] = {}

    def get(self, path: Path, read: Callable[[], T], kind: str = "") -> T:
        """What ``read()`` returns, or returned while ``path`` was as it is now; not to be changed by the caller.

        kind: tells apart what different readers make of one file.
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
