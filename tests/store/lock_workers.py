"""Processes that fight for a lock: `python lock_workers.py hold|compete|take_over ...`, started by test_run_lock.py."""

import os
import random
import sys
import time
from pathlib import Path

from optbench.store import RunLock, RunLocked


def witness(log: str, text: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def hold(path: str, heartbeat: str, stale_after: str) -> None:
    """Hold the lock until killed; say when it is held and when it is lost."""
    with RunLock(path, float(heartbeat), float(stale_after)) as lock:
        print("held", flush=True)
        lock.lost.wait()
        print("lost", flush=True)


def compete(path: str, log: str, turns: str) -> None:
    """Take the lock ``turns`` times, each time as soon as it is free."""
    won = 0
    while won < int(turns):
        try:
            with RunLock(path):
                witness(log, f"enter {os.getpid()}")
                time.sleep(random.random() * 1e-3)
                witness(log, f"leave {os.getpid()}")
                won += 1
        except RunLocked:
            time.sleep(random.random() * 1e-3)


def take_over(folder: str, number: str, rounds: str) -> None:
    """In every round, try for an abandoned lock at the same moment as the others; the winner keeps it."""

    def slowly(call):
        def wrapped(*arguments, **options):
            time.sleep(random.random() * 1e-3)
            result = call(*arguments, **options)
            time.sleep(random.random() * 1e-3)
            return result

        return wrapped

    # Every moment that matters is stretched, so that the processes meet in it.
    os.link, os.utime, Path.rename, Path.unlink = map(slowly, (os.link, os.utime, Path.rename, Path.unlink))
    meeting = Path(folder) / "meeting"
    kept = []
    for turn in range(int(rounds)):
        witness(str(meeting), "x")
        while meeting.stat().st_size < 2 * int(number) * (turn + 1):
            time.sleep(1e-4)
        lock = RunLock(Path(folder) / f"lock{turn}")
        try:
            lock.acquire()
        except RunLocked:
            continue
        kept.append(lock)
        witness(str(Path(folder) / "winners"), f"{turn}")
    # Nobody leaves, and so becomes a dead holder, before all have tried.
    witness(str(meeting), "x")
    while meeting.stat().st_size < 2 * int(number) * (int(rounds) + 1):
        time.sleep(1e-3)


if __name__ == "__main__":
    {"hold": hold, "compete": compete, "take_over": take_over}[sys.argv[1]](*sys.argv[2:])
