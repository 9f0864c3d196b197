"""What killed processes left in the directory of a run that nobody has to continue."""

from optbench.store.files import StoreError
from optbench.store.lock import RunLock, RunLocked
from optbench.store.run_directory import RunDirectory


def tidy(run: RunDirectory) -> None:
    """Remove locks of dead processes and half-written files from ``run``; quick where there are none, and never raises.

    A process that dies after it has recorded the end of its run leaves its lock, which the next one to continue the run
    would remove; but a run that has ended is not continued.
    """
    if not run.has_leftovers():
        return
    try:
        with RunLock(run.lock):
            run.remove_leftovers()
    except (RunLocked, StoreError):
        pass  # somebody is at work, or the results are another's, to be looked at only
