"""Removing what lies in a results folder so that nothing half is ever seen, and putting a run in place the same way.

What is to go is first renamed to a hidden name, which no reader looks at, in one step; a crash after that leaves only rubbish,
which the next removal takes away. What is to come is written under a hidden name and renamed when it is whole.
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

# Such as .RUN_ID.1a2b3c4d-4711-89abcdef.removed: its last name, its writer, and what it is.
_HIDDEN = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(removed|incoming)")
# Of the name in a hidden one, so that this fits wherever the name did.
_LONGEST = 40


def hidden(path: Path, purpose: str) -> Path:
    """A name beside ``path`` that no reader looks at; ``purpose`` is "removed" or "incoming"."""
    writer = f"{machine_tag()}-{os.getpid()}-{os.urandom(4).hex()}"
    return path.with_name(f".{path.name[:_LONGEST]}.{writer}.{purpose}")


def remove_run(run: RunDirectory) -> None:
    """Remove a run's directory with all that is in it: at once for every reader.

    Raises `RunLocked` where somebody is at work on it, and StoreError where a file in it is a link or the file system refuses.
    """
    with RunLock(run.lock):
        gone = _take_away(run.path)
    _delete(gone)


def remove_folder(path: Path) -> None:
    """Remove a folder, such as that of a sweep, at once for every reader; for a caller who knows that nobody writes there."""
    refuse_link(path)
    _delete(_take_away(path))


def replace_run(run: RunDirectory, incoming: Path) -> None:
    """Put the whole directory ``incoming``, a `hidden` one, in the place of ``run``, which is there and at which nobody works.

    Between the two renames there is no such run; a crash there leaves none. Raises as `remove_run` does.
    """
    with RunLock(run.lock):
        gone = _take_away(run.path)
        put_in_place(incoming, run.path)
    _delete(gone)


def put_in_place(incoming: Path, path: Path) -> None:
    """Rename the whole directory ``incoming`` to ``path``; raises StoreError where there is one by now."""
    with reporting("create", path):
        incoming.rename(path)  # which replaces an empty directory only
        sync_file(path.parent)


@contextmanager
def incoming(path: Path) -> Iterator[Path]:
    """A new, empty, hidden directory beside ``path``; gone after the block, unless it was put in place."""
    folder = hidden(path, "incoming")
    with reporting("create", folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prune_run(run: RunDirectory) -> int:
    """Remove the checkpoints of a finished run, and say how many bytes they had; of one that has not finished, none.

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
    """Remove what removals that were killed have left in ``folders``; what processes at work have there stays."""
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
    """All files below ``folder`` with their sizes in bytes; links are counted as what they are, and not followed.

    What somebody at work removes meanwhile is left out.
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
    """The bytes of all files below ``folder``; none where there is no such folder."""
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
