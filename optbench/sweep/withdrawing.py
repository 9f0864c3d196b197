"""Undo what a command has written, if Slurm then queues no job."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from optbench.store import RunDirectory, RunLock, RunLocked, StoreError
from optbench.store.files import read_bytes, write_atomically
from optbench.store.run_directory import FINISHED
from optbench.sweep.plan import STARTED, Entry, Plan


class Traces:
    """The state of a sweep and its runs, recorded before anything is written; `remove` restores it.

    Runs and lines of the plan that existed before stay, with their configurations, and so does a run that another process
    has taken meanwhile. Results that were cleared, as force=true asks, are not restored.
    """

    def __init__(self, plan: Plan, entries: Sequence[Entry]) -> None:
        self._plan = plan
        known = {entry.run_id for entry in plan.entries()}
        self._entries = {entry.run_id for entry in entries} - known
        self._runs = [run for entry in entries if not (run := plan.directory(entry.run_id)).path.exists()]
        there = [run for entry in entries if (run := plan.directory(entry.run_id)).path.exists()]
        self._files = {run.path: _files(run) for run in there}
        written = [plan.path / name for name in STARTED if (plan.path / name).is_file()]
        self._started = {path.name: read_bytes(path) for path in written}
        folders = (plan.path.parent, plan.results_dir / "runs", plan.results_dir, *plan.results_dir.absolute().parents)
        self._folders = [folder for folder in folders if not folder.exists()]

    def remove(self) -> None:
        """Remove what has been made since; raises `optbench.store.StoreError` if the file system refuses."""
        self._plan.withdraw(self._entries, self._started)
        for run in self._runs:
            _remove(run)
        for path, files in self._files.items():
            _restore(RunDirectory(path), files)
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only empty folders


def _remove(run: RunDirectory) -> None:
    if not run.path.exists():
        return
    with contextlib.suppress(RunLocked), RunLock(run.lock):
        if run.status().state == "pending" and not run.history.exists():
            _delete(run.path)


def _files(run: RunDirectory) -> dict[str, bytes]:
    """The files that planning a run again may replace: its configuration, and its status unless the run has finished."""
    names = ["config.yaml", "config.json", *([] if run.status().state in FINISHED else ["status.json"])]
    return {name: read_bytes(run.path / name) for name in names if (run.path / name).is_file()}


def _restore(run: RunDirectory, files: dict[str, bytes]) -> None:
    changed = {name: content for name, content in files.items() if read_bytes(run.path / name) != content}
    if changed:
        with contextlib.suppress(RunLocked), RunLock(run.lock):
            if run.status().state == "pending":
                for name, content in changed.items():
                    write_atomically(run.path / name, content)


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error}") from error
