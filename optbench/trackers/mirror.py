"""The process that mirrors a run directory: ``python -m optbench.trackers.mirror RUN_DIRECTORY [--follow]``.

With --follow it mirrors new rows as they are written. It ends by itself when everything is mirrored and summary.json exists,
or when the process that started it asks for the end or is gone. Without --follow it mirrors the present rows.
"""

import argparse
import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optbench.config import settle
from optbench.store import RunDirectory
from optbench.trackers.base import options_of, tracker_class
from optbench.trackers.follow import HistoryFollower
from optbench.trackers.process import END, OUTCOME

_POLL_SECONDS = 1.0
_LOCK_SECONDS = 20.0


class _RunningRun:
    """Observes the end of a run: by its summary, by its process (``parent``) if known, or by a message from it."""

    def __init__(self, summary: Path, parent: int | None) -> None:
        self._summary = summary
        self._parent = parent
        self._told = False

    def has_ended(self) -> bool:
        gone = self._parent is not None and os.getppid() != self._parent
        return self._told or gone or self._summary.exists()

    def wait(self) -> None:
        """Sleep until the next poll, or until the starting process reports that the run has ended."""
        if self._parent is None:
            time.sleep(_POLL_SECONDS)
        elif select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
            # Returns at the message END, or at the end of the stream because the process is gone.
            os.read(sys.stdin.fileno(), len(END))
            self._told = True


def _end_after_parent(parent: int, grace: float) -> None:
    """Kill this process group ``grace`` seconds after the parent is gone; otherwise a hanging tracker would never end."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    time.sleep(grace)
    os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def _only_mirror(path: Path) -> Iterator[None]:
    """Hold the run's mirror lock, so that a run never has two mirrors; raises RuntimeError if another process keeps it."""
    deadline = time.monotonic() + _LOCK_SECONDS
    with (path / "tracker.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # After a run was killed and started again, its earlier mirror needs a moment to end.
                if time.monotonic() > deadline:
                    raise RuntimeError("another process is mirroring this run") from None
                time.sleep(0.2)
            except OSError:
                break  # a file system without locks
        yield


def mirror(run: RunDirectory, tracker: Mapping[str, Any], follow: bool = False, parent: int | None = None) -> str:
    """Mirror ``run`` to ``tracker`` (a choice of that group), from its first row; returns a summary in one line.

    With ``follow`` it returns when the run has ended, otherwise after the present rows. ``parent``: the process whose end
    is the end of the run, and which may write ``END`` to the standard input.
    """
    found = tracker_class(tracker)
    if found is None:
        return f"{run.run_id}: no tracker"
    running = _RunningRun(run.path / "summary.json", parent)
    history = HistoryFollower(run.path / "history.jsonl")
    with _only_mirror(run.path):
        target = found(run, **options_of(tracker))
        rows = 0
        while True:
            # Checked before reading, so that no row written until the end of the run is missed.
            last_look = not follow or running.has_ended()
            for row in history.read():
                target.log(rows, row)
                rows += 1
            if last_look:
                break
            running.wait()
        summary = run.summary() or {}
        state = str(summary.get("status", run.status().state))
        if follow and state in ("pending", "running"):
            state = "crashed"
        where = target.finish(summary, state)
    return f"{run.run_id}: {rows} rows mirrored to {where}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m optbench.trackers.mirror", description=__doc__)
    parser.add_argument("run_directory", type=Path)
    parser.add_argument("--follow", action="store_true", help="mirror rows as they come, until the run ends")
    parser.add_argument("--tracker", type=json.loads, help="the tracker as JSON; default: the one in config.yaml")
    parser.add_argument("--parent", type=int, help="the process whose end is the end of the run")
    options = parser.parse_args(arguments)
    os.nice(5)
    run = RunDirectory(options.run_directory.resolve())
    try:
        run.check_links()
        tracker = options.tracker
        if tracker is None:
            tracker = settle("tracker", run.config().get("tracker"), [], "mirror")
        if options.parent is not None:
            grace = float(tracker.get("finish_timeout", 60.0))
            threading.Thread(target=_end_after_parent, args=(options.parent, grace), daemon=True).start()
        outcome, status = mirror(run, tracker, options.follow, options.parent), 0
    except Exception as error:
        traceback.print_exc()
        outcome, status = " ".join(f"{type(error).__name__}: {error}".split()), 1
    print(f"{OUTCOME}{outcome}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
