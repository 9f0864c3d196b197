"""The outcome of a run, and what is said of one that fails."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from optbench import trackers
from optbench.config.run_config import RunConfig
from optbench.errors import UserError
from optbench.objective.execution import is_out_of_memory
from optbench.store import RunDirectory, StoreError
from optbench.store.run_directory import State
from optbench.training import micro_batch
from optbench.training.meeting import Meeting
from optbench.training.recorder import LockLost
from optbench.training.task import Task


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: "done", "diverged", "preempted", "paused" or "failed", with the reason; and its summary, if any.

    "lost": another process has taken over the run. signal: the signal that stopped it. refused: the file system refused a
    file. mirror: still at work until its `finish` is called.
    """

    state: str
    why: str
    summary: dict[str, Any] | None
    directory: RunDirectory
    mirror: trackers.Mirror | None = None
    tracker_problem: str | None = None
    signal: int | None = None
    refused: bool = False


class MemoryShortage(UserError):
    """Memory ran out while a run was trained; the cause is the allocator's error."""


def reason(error: BaseException, rank: int = 0) -> str:
    """The reason of a failure in one line, with the rank if it is not 0."""
    expected = isinstance(error, StoreError | UserError)
    why = str(error) if expected else f"{type(error).__name__}: {error}".splitlines()[0]
    return why if rank == 0 or why.startswith("rank ") else f"rank {rank}: {why}"


def details(error: BaseException) -> str:
    """The text of ``error`` for the log: a traceback, or only the message of a StoreError or UserError.

    Where memory ran out it is both: the place tells which tensor was too large.
    """
    if isinstance(error, MemoryShortage) and error.__cause__ is not None:
        return details(error.__cause__) + f"{error}\n"
    return f"{error}\n" if isinstance(error, StoreError | UserError) else "".join(traceback.format_exception(error))


def failed(
    directory: RunDirectory, error: BaseException, stopped: int | None = None, met: Meeting | None = None
) -> Outcome:
    """Record that a run ended by ``error``. A second request to stop (``stopped``) ends a run at once, as preempted.

    Of several ranks, which have ``met``, the first one to fail gives the reason; the others only lose the connection to it.
    """
    refused = isinstance(error, StoreError)
    why, said = reason(error), details(error)
    if met is not None:
        why, said = met.report_failure(why, said)
    state: State = "failed" if stopped is None else "preempted"
    if isinstance(error, LockLost):
        return Outcome("lost", "another process took it over", None, directory)
    # A file system that refuses the run may refuse this, too; the run then stays marked as running, without a process.
    with suppress(StoreError, OSError):
        with directory.log.open("a", encoding="utf-8") as log:
            log.write(said)
        directory.set_status(state, why)
    return Outcome(state, why, None, directory, signal=stopped, refused=refused)


@contextmanager
def telling_others(met: Meeting | None) -> Iterator[None]:
    """Tell the other ranks why this one fails, so that they do not wait for it."""
    try:
        yield
    except BaseException as error:
        if met is not None:
            met.report_failure(reason(error, met.launch.rank), details(error))
        raise


@contextmanager
def explaining_shortage(
    config: RunConfig, task: Task, choice: micro_batch.MicroBatch | None, sharers: int
) -> Iterator[None]:
    """Raise MemoryShortage for an allocator's error, which names only the bytes of one tensor."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortage(micro_batch.shortage(config, task, error, choice, sharers)) from error
