"""Remove runs and folders atomically from a results folder, and put a run in place the same way.

A directory that is removed is first renamed, in one step, to a hidden name that readers ignore; a crash after that leaves
only rubbish, which the next removal deletes. A new directory is written under a hidden name and renamed when it is complete.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optbench.store.files import StoreError, refuse_link, reporting, sync_file
from optbench.store.lock import RunLock
from optbench.store.processes import is_gone, machine_tag
from optbench.store.run_directory import FINISHED, RunDirectory

# Such as .RUN_ID.1a2b3c4d-4711-89abcdef.removed: its former name, its writer, and its purpose.
_HIDDEN = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(removed|incoming)")
# The characters of the name in a hidden name, so that the hidden name is not too long for the file system.
_LONGEST = 40


def hidden(path: Path, purpose: str) -> Path:
    """A name beside ``path`` that readers ignore; ``purpose`` is "removed" or "incoming"."""
    writer = f"{machine_tag()}-{os.getpid()}-{os.urandom(4).hex()}"
    return path.with_name(f".{path.name[:_LONGEST]}.{writer}.{purpose}")


def remove_run(run: RunDirectory) -> None:
    """Remove a run's directory and its content, in one step for every reader.

    Raises `RunLocked` if a process works on it, and StoreError if a file in it is a link or the file system refuses.
    """
    with RunLock(run.lock):
        gone = _take_away(run.path)
    _delete(gone)


def remove_folder(path: Path) -> None:
    """Remove a folder, such as that of a sweep, in one step for every reader; the caller must know that nobody writes there."""
    refuse_link(path)
    _delete(_take_away(path))


def replace_run(run: RunDirectory, incoming: Path) -> None:
    """Replace the existing directory ``run``, on which nobody works, by the complete directory ``incoming``, a `hidden` one.

    Between the two renames the run does not exist, and neither after a crash there. Raises as `remove_run` does.
    """
    with RunLock(run.lock):
        gone = _take_away(run.path)
        put_in_place(incoming, run.path)
    _delete(gone)


def put_in_place(incoming: Path, path: Path) -> None:
    """Rename the complete directory ``incoming`` to ``path``; raises StoreError if that exists by now."""
    with reporting("create", path):
        incoming.rename(path)  # replaces an empty directory only
        sync_file(path.parent)


@contextmanager
def incoming(path: Path) -> Iterator[Path]:
    """A new, empty, hidden directory beside ``path``; removed after the block, unless it was put in place."""
    folder = hidden(path, "incoming")
    with reporting("create", folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prune_run(run: RunDirectory) -> int:
    """Remove the checkpoints of a run if it has finished, and return the number of bytes freed.

    Its results stay. Raises as `remove_run` does.
    """
    folder = run.checkpoint.parent
    with RunLock(run.lock):
        if run.status().state not in FINISHED or not folder.is_dir():
            return 0
        freed = size_of(folder)
        gone = _take_away(folder)
    _delete(gone)
    return freed


def remove_rubbish(*folders: Path) -> None:
    """Remove the hidden directories that killed processes have left in ``folders``; those of living processes stay."""
    for folder in folders:
        for path in rubbish_in(folder):
            match = _HIDDEN.fullmatch(path.name)
            if match is not None and match[1] == machine_tag() and is_gone(int(match[2])):
                _delete(path)


def rubbish_in(folder: Path) -> list[Path]:
    """The hidden directories in ``folder`` that removals and merges work with."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _HIDDEN.fullmatch(path.name) and not path.is_symlink()]


def files_of(folder: Path) -> Iterator[tuple[Path, int]]:
    """All files below ``folder`` with their sizes in bytes; links are counted themselves, and not followed.

    Files that another process removes meanwhile are left out.
    """
    pending = [folder]
    while pending:
        place = pending.pop()
        with reporting("read", place):
            try:
                with os.scandir(place) as entries:
                    found = list(entries)
            except FileNotFoundError:
                continue
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                    continue
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
                yield Path(entry.path), size


def size_of(folder: Path) -> int:
    """The bytes of all files below ``folder``; 0 if the folder does not exist."""
    return sum(size for _, size in files_of(folder))


def _take_away(path: Path) -> Path:
    gone = hidden(path, "removed")
    with reporting("remove", path):
        path.rename(gone)
        sync_file(path.parent)
    return gone


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror or error}") from error
