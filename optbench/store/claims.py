"""Claim the next run of a plan for a worker: any that waits and that no other process has, by the store's locks."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optbench.store import RunDirectory, RunLock, RunLocked, Status

# Runs in these states are trained; one that failed or diverged must first be asked for again. See also `waits`.
WAITING = ("pending", "preempted", "running")
# The longest time for which a worker holds a lock only to record a crash.
_NOTING_SECONDS = 1.0
_WITHOUT_A_WORD = "its process ended without a word"


@dataclass(frozen=True)
class Claim:
    """A run claimed by this process.

    crashes: the number of times its process has died without recording an end. until: the step after which it is to be
    paused; None: it is trained to its end.
    """

    directory: RunDirectory
    lock: RunLock
    crashes: int
    until: int | None = None


def waits(status: Status, until: int | None = None) -> bool:
    """True if a run with this status is to be trained until step ``until`` (None: its end).

    A paused run stands at an evaluation, and ``until`` counts as the next evaluation at or after it.
    """
    if status.state == "paused":
        # A damaged file may hold anything; a run that is taken for nothing is paused again at once.
        return until is None or type(status.step) is not int or until > status.step
    return status.state in WAITING


def claim(directory: RunDirectory, max_retries: int, until: int | None = None) -> Claim | None:
    """Take the run to train it until step ``until`` (None: its end); None if there is nothing to do, or another process has it.

    A run that is marked as running but whose lock is free has lost its process: it was killed, ran out of memory, or its
    machine is gone. The run resumes from its last checkpoint, unless that has happened more than ``max_retries`` times;
    then it is marked as failed.
    """
    if not waits(directory.status(), until):
        return None
    lock = RunLock(directory.lock)
    try:
        lock.acquire()
    except RunLocked:
        return None
    with lock.given_back() as kept:
        # Read again, because now no other process can change it.
        status = directory.status()
        if status.state == "running":
            who = f" (it was process {status.pid} on {status.host})" if status.pid else ""
            status = _count_crash(directory, status, f"{_WITHOUT_A_WORD}{who}", max_retries)
        if waits(status, until):
            directory.remove_leftovers()
            # Recorded now, not when training starts: a crash while the data are loaded also counts.
            directory.set_status("running", crashes=status.crashes)
            kept.pop_all()
            return Claim(directory, lock, status.crashes, until)
    return None


def record_crash(directory: RunDirectory, why: str, max_retries: int) -> Status:
    """Record that the process of this run has died: the run is pending again, or failed after too many crashes.

    The run is left as it is if another process has taken it, or if the process had recorded its end. If another worker has
    recorded the death first, without the reason, the reason is added.
    """
    until = time.monotonic() + _NOTING_SECONDS
    while True:
        try:
            with RunLock(directory.lock):
                status = directory.status()
                if status.state == "running":
                    return _count_crash(directory, status, why, max_retries)
                if status.state == "failed" and status.why.startswith(_WITHOUT_A_WORD):
                    directory.set_status("failed", _in_a_row(why, status.crashes), status.crashes)
                return directory.status()
        except RunLocked:
            # Another worker is recording the death at this moment, or has taken the run.
            if time.monotonic() > until:
                return directory.status()
            time.sleep(0.02)


def record_lost_rank(directory: RunDirectory, why: str, seconds: float) -> None:
    """Mark a run as failed because one of its ranks was killed, once its lock is free; waits ``seconds`` for that.

    The run is also marked if rank 0 has only noticed that the rank is gone; it is left as it is if it has ended otherwise.
    Rank 0 may hold the lock all that time, waiting for the killed rank: Slurm kills it once this job has failed, and the
    reason would be lost. Then only the status is written, without the lock.
    """
    if directory.status().state != "running":
        return
    until = time.monotonic() + seconds
    while True:
        try:
            with RunLock(directory.lock):
                if directory.status().state in ("running", "failed"):
                    directory.set_status("failed", why)
                return
        except RunLocked:
            if time.monotonic() > until:
                break
            time.sleep(0.1)
    if directory.status().state == "running":
        directory.set_status("failed", why)


def _count_crash(directory: RunDirectory, status: Status, why: str, max_retries: int) -> Status:
    crashes = status.crashes + 1
    if crashes > max_retries:
        directory.set_status("failed", _in_a_row(why, crashes), crashes)
    else:
        directory.set_status("pending", f"{why}; to be continued", crashes)
    return directory.status()


def _in_a_row(why: str, crashes: int) -> str:
    return why if crashes == 1 else f"{why}, {crashes} times in a row"


def take(
    directories: Sequence[RunDirectory],
    first: int = 0,
    max_retries: int = 1,
    until: Mapping[str, int | None] | None = None,
) -> Iterator[Claim]:
    """Claim one run after another, cyclically from number ``first`` on, until none is left to take.

    The caller trains each run, and releases its lock before it asks for the next. Runs that other workers give back
    meanwhile are found in the next round. ``until``: the step after which a run is to be paused, by its id.
    """
    asked = until or {}
    order = [*directories[first:], *directories[:first]]
    while order:
        claimed = False
        left = []
        for directory in order:
            taken = claim(directory, max_retries, asked.get(directory.run_id))
            if taken is not None:
                claimed = True
                yield taken
            if waits(directory.status(), asked.get(directory.run_id)):
                left.append(directory)
        order = left
        if not claimed:
            return
