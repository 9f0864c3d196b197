"""Remove the files that killed processes have left in the directory of a finished run."""

from optbench.store.files import StoreError
from optbench.store.lock import RunLock, RunLocked
from optbench.store.run_directory import RunDirectory


def tidy(run: RunDirectory) -> None:
    """Remove locks of dead processes and incomplete files from ``run``; quick if there are none, and never raises.

    A process that dies after it has recorded the end of its run leaves its lock. The next process to continue the run
    would remove it, but a run that has ended is not continued.
    """
    if not run.has_leftovers():
        return
    try:
        with RunLock(run.lock):
            run.remove_leftovers()
    except (RunLocked, StoreError):
        pass  # a process works on it, or the folder is read-only
