"""Put runs that have ended, or whose process died, back to pending, so that workers take them again."""

from collections.abc import Collection, Iterable

from optbench.store import RunDirectory, RunLock, RunLocked
from optbench.store.run_directory import FINISHED


def reset(directories: Iterable[RunDirectory], states: Collection[str], restart: bool = False) -> list[str]:
    """Put those of the runs back to pending whose status is in ``states``; returns their ids.

    Runs that ended as done or diverged are cleared and start over. Others continue from their last checkpoint, unless
    ``restart`` clears them, too. The count of crashes starts again from 0. A run whose lock is held by a process is left
    alone; a "running" run without a holder is one whose process died.

    Raises `optbench.store.StoreError` if the file system refuses.
    """
    put_back = []
    for directory in directories:
        if directory.status().state not in states:
            continue
        try:
            with RunLock(directory.lock):
                state = directory.status().state  # read again, because now no other process can change it
                if state not in states:
                    continue
                if restart or state in FINISHED:
                    directory.clear()
                else:
                    directory.set_status("pending", f"was {state}; to be continued")
        except RunLocked:
            continue
        put_back.append(directory.run_id)
    return put_back
