"""Read the history of a run while the run still writes it."""

import json
import os
from pathlib import Path
from typing import Any


class HistoryFollower:
    """Reads the rows that were added to a history.jsonl since the last call.

    A last line without its newline is still being written, and is left for the next call. A complete line that is not a
    JSON object is damaged, and is reported and skipped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode: int | None = None

    def read(self) -> list[dict[str, Any]]:
        """The new complete rows, none if there is no file yet.

        Raises RuntimeError if the file was replaced or cut since the last call: the rows read before are no longer valid.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        with os.fdopen(descriptor, "rb") as file:
            inode = self._path.stat().st_ino
            if self._inode not in (None, inode) or file.seek(0, 2) < self._offset:
                raise RuntimeError(f"{self._path.name} was rewritten while it was being mirrored")
            self._inode = inode
            file.seek(self._offset)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return [row for line in complete.split(b"\n") if line.strip() and (row := self._row(line)) is not None]

    def _row(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            return row
        print(f"{self._path.name}: skipped a damaged line: {line[:80]!r}", flush=True)
        return None
