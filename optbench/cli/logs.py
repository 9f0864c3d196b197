"""`logs`: print the log of a run."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from optbench.cli.parser import Parser
from optbench.store import RunDirectory, find
from optbench.store.files import reporting

_FOLLOW_SECONDS = 0.5
_BLOCK = 1 << 16


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def last_lines(path: Path, count: int) -> list[str]:
    """The last ``count`` lines of a text file, read from its end; none if there is no file.

    A line that was overwritten by carriage returns, as by progress bars, is given in its last state. Raises
    `optbench.store.StoreError` if the file cannot be read.
    """
    if count <= 0:
        return []
    with reporting("read", path):
        try:
            file = _open(path)
        except FileNotFoundError:
            return []
        with file:
            start, content = file.seek(0, os.SEEK_END), b""
            # One more line break than lines, because the last line need not end in one.
            while start > 0 and content.count(b"\n") <= count:
                size = min(_BLOCK, start)
                start = file.seek(start - size)
                content = file.read(size) + content
    lines = content.decode(errors="replace").rstrip("\n").split("\n")[-count:] if content else []
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]


def logs(words: Sequence[str]) -> int:
    """`logs RUN`: print the log of a run."""
    parser = Parser(prog="optbench logs", description="Print the log of a run.")
    parser.add_argument("run", metavar="RUN", help="a run id, or a unique beginning or end of one")
    parser.add_argument("-n", "--lines", type=int, metavar="LINES", help="only this many lines from the end")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="print new lines until the run ends, is paused, or Ctrl-C"
    )
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    if given.lines is not None and given.lines < 0:
        parser.error(f"--lines {given.lines}: accepted is an int >= 0")
    run = find(given.results_dir, given.run)
    size = run.log.stat().st_size if run.log.is_file() else 0
    if size == 0:
        print(f"{run.run_id}: {run.status().state}, has printed nothing ({run.log})", flush=True)
    elif given.lines is None:
        size = _print_from(run.log, 0)
    else:
        for line in last_lines(run.log, given.lines):
            print(line)
    if given.follow:
        with suppress(KeyboardInterrupt):  # Ctrl-C ends --follow
            _follow(run, size)
    return 0


def _print_from(path: Path, start: int) -> int:
    """Print ``path`` from byte ``start`` on, or from its beginning if it is shorter; returns its size."""
    with reporting("read", path):
        try:
            file = _open(path)
        except FileNotFoundError:
            return 0
        with file:
            if file.seek(0, os.SEEK_END) < start:
                start = 0
            file.seek(start)
            while block := file.read(_BLOCK):
                start += len(block)
                sys.stdout.write(block.decode(errors="replace"))
    sys.stdout.flush()
    return start


def _follow(run: RunDirectory, size: int) -> None:
    while True:
        # The state is read before the log, so that all that the run printed before it ended is shown.
        over = run.status().state in ("done", "diverged", "failed", "paused")
        size = _print_from(run.log, size)
        if over:
            return
        time.sleep(_FOLLOW_SECONDS)
