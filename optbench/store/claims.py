"""Which run a worker does next: any of the plan that nobody else has, taken through the store's locks."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optbench.store import RunDirectory, RunLock, RunLocked, Status

# A run in one of these is to be done; one that failed or diverged first has to be asked for again.
WAITING = ("pending", "preempted", "running")
# How long a lock may be in the hands of a worker that only notes a death.
_NOTING_SECONDS = 1.0
_WITHOUT_A_WORD = "its process ended without a word"


@dataclass(frozen=True)
class Claim:
    """A run that is this process's to do. ``deaths``: how often its process has ended without a word."""

    directory: RunDirectory
    lock: RunLock
    deaths: int


def claim(directory: RunDirectory, max_retries: int) -> Claim | None:
    """Take the run, or None if it is done, failed, or in other hands.

    A run that is marked as running but whose lock is nobody's has lost its process: killed, out of memory, or its
    machine gone. It goes on from its last checkpoint, unless that has happened more than ``max_retries`` times; then it
    is marked as failed.
    """
    if directory.status().state not in WAITING:
        return None
    lock = RunLock(directory.lock)
    try:
        lock.acquire()
    except RunLocked:
        return None
    with lock.given_back() as kept:
        # Once more, now that nobody else can change it.
        status = directory.status()
        if status.state == "running":
            who = f" (it was process {status.pid} on {status.host})" if status.pid else ""
            status = _count_death(directory, status, f"{_WITHOUT_A_WORD}{who}", max_retries)
        if status.state in WAITING:
            directory.remove_leftovers()
            # Now, not once it trains: a process that dies while it loads the data has had the run as well.
            directory.set_status("running", deaths=status.deaths)
            kept.pop_all()
            return Claim(directory, lock, status.deaths)
    return None


def record_death(directory: RunDirectory, why: str, max_retries: int) -> Status:
    """Note that the process that had this run has died: the run is pending again, or failed after too many deaths.

    Leaves the run as it is where somebody else has taken it up, or where the process had recorded its end; but gives the
    reason where another worker was quicker to note the death, and did not know it.
    """
    until = time.monotonic() + _NOTING_SECONDS
    while True:
        try:
            with RunLock(directory.lock):
                status = directory.status()
                if status.state == "running":
                    return _count_death(directory, status, why, max_retries)
                if status.state == "failed" and status.why.startswith(_WITHOUT_A_WORD):
                    directory.set_status("failed", _in_a_row(why, status.deaths), status.deaths)
                return directory.status()
        except RunLocked:
            # Another worker is noting the death at this moment, or has taken the run up.
            if time.monotonic() > until:
                return directory.status()
            time.sleep(0.02)


def record_lost_rank(directory: RunDirectory, why: str, seconds: float) -> None:
    """Mark a run as failed because one of its ranks was killed, once its lock is free; waits ``seconds`` for that.

    Does so also where rank 0 has only noticed that the rank is gone, and leaves the run as it is where it has ended otherwise.
    Rank 0 may wait for the killed one all that time, with the lock in its hands: Slurm kills it once this job has failed, and
    nobody would be left to say why. The status, and nothing else, is then written without the lock.
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


def _count_death(directory: RunDirectory, status: Status, why: str, max_retries: int) -> Status:
    deaths = status.deaths + 1
    if deaths > max_retries:
        directory.set_status("failed", _in_a_row(why, deaths), deaths)
    else:
        directory.set_status("pending", f"{why}; to be continued", deaths)
    return directory.status()


def _in_a_row(why: str, deaths: int) -> str:
    return why if deaths == 1 else f"{why}, {deaths} times in a row"


def take(directories: Sequence[RunDirectory], first: int = 0, max_retries: int = 1) -> Iterator[Claim]:
    """Claim one run after another, from number ``first`` on and around, until none is left to take.

    The caller does each run, and releases its lock before it asks for the next. What another worker gives back
    meanwhile is seen in the next round.
    """
    order = [*directories[first:], *directories[:first]]
    while order:
        claimed = False
        left = []
        for directory in order:
            taken = claim(directory, max_retries)
            if taken is not None:
                claimed = True
                yield taken
            if directory.status().state in WAITING:
                left.append(directory)
        order = left
        if not claimed:
            return
