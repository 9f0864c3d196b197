"""Find the checkpoint from which a run resumes: the newest that is intact, belongs to it, and matches its history."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optbench.store import history
from optbench.store.checkpoints import CheckpointRefused, Seal, check_shards, read
from optbench.store.files import StoreError, reporting
from optbench.store.run_directory import RunDirectory

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Start:
    """The start of a run: a checkpoint, or its first step.

    path, state: the checkpoint and its content; None to begin at the first step.
    seal: of that checkpoint; also None for a checkpoint of an earlier version.
    said: a line for every refused checkpoint, and one if the chosen checkpoint has no seal.
    """

    path: Path | None = None
    state: dict[str, Any] | None = None
    seal: Seal | None = None
    said: list[str] = field(default_factory=list)


class HistoryDigest:
    """The digest of a history that only grows; each byte is read once."""

    def __init__(self, path: Path) -> None:
        self._path, self._digest, self._bytes = path, hashlib.sha256(), 0

    def take(self) -> tuple[int, str]:
        """The size and the digest of the history so far.

        Raises `StoreError` if the file is shorter than before: another process has removed or cut it.
        """
        with reporting("read", self._path):
            try:
                descriptor = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                size = 0
            else:
                try:
                    size = os.fstat(descriptor).st_size
                    os.lseek(descriptor, self._bytes, os.SEEK_SET)
                    while block := os.read(descriptor, _BLOCK):
                        self._digest.update(block)
                        self._bytes += len(block)
                finally:
                    os.close(descriptor)
        if size < self._bytes:
            raise StoreError(
                f"{self._path} was cut or removed while the run was training: it holds {size} bytes of {self._bytes}; "
                "the same command starts where the history and a checkpoint agree"
            )
        return self._bytes, self._digest.hexdigest()


def choose(run: RunDirectory, parse: Callable[[Path, bytes], dict[str, Any]]) -> Start:
    """Find the start of ``run``; for the holder of its lock, because refused checkpoints are set aside.

    ``parse(path, archive)`` reads an archive; it raises `CheckpointRefused` if that holds no state of a run. Raises
    `StoreError` if a checkpoint cannot be read at the moment; it is then not refused.
    """
    refused: list[CheckpointRefused] = []
    start = Start()
    for path in (run.checkpoints.last, run.checkpoints.previous):
        try:
            archive, seal = read(path, run.run_id)
            state = parse(path, archive)
            check_shards(path, seal)
            if seal is not None:
                _check_stands(run, path, seal)
        except FileNotFoundError:
            continue
        except CheckpointRefused as error:
            refused.append(error)
            run.checkpoints.set_aside(path)
            continue
        start = Start(path, state, seal)
        break
    if start.path is None:
        then = "the run starts from its first step"
    else:
        step = "" if start.seal is None else f", step {start.seal.step}"
        then = f"the run goes on from {start.path.name}{step}"
    said = [f"{error}; it is kept as {error.path.name}.refused, and {then}" for error in refused]
    if start.path is not None and start.seal is None:
        said.append(f"{start.path} is of an earlier version: whose checkpoint it is cannot be verified")
    return Start(start.path, start.state, start.seal, said)


def _check_stands(run: RunDirectory, path: Path, seal: Seal) -> None:
    """Raise `CheckpointRefused` unless the history and the measurements that existed with the checkpoint still exist."""
    file = run.history
    found, size = hashlib.sha256(), 0
    with reporting("read", file), contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        while block := opened.read(min(_BLOCK, seal.history_bytes - size)):
            found.update(block)
            size += len(block)
    if size < seal.history_bytes:
        held = f"{size} bytes of the {seal.history_bytes} that were written"
        raise CheckpointRefused(path, f"stands on more than {file.name} holds, {held}")
    if found.hexdigest() != seal.history_digest:
        raise CheckpointRefused(path, f"stands on a {file.name} other than this one, which has been changed")
    rows = (row for rows in history.rows_in_blocks(file, seal.history_bytes) for row in rows)
    missing = run.measurements.missing(rows)
    if missing:
        raise CheckpointRefused(path, f"stands on a measurement that is not there, {missing}")


def begin(run: RunDirectory, start: Start, step: int) -> None:
    """Remove the rows of the history and the measurements that the run, beginning at ``step``, will write again."""
    if start.path is None:
        run.cut_history(0, -1)
    elif start.seal is None:
        run.truncate_history(step)
    else:
        run.cut_history(start.seal.history_bytes, step)
