"""Trackers: mirrors of a run directory in wandb, TensorBoard or CSV files.

The store is authoritative and a tracker is a copy of it, so that a tracker never stops or slows a run: a separate process
follows the run directory and mirrors its content. If that process fails or hangs, the run loses nothing, and can be mirrored
again from the store at any time.

    trackers.check(tracker)                          # before the run: checks the package and the login
    mirror = trackers.start(run_directory, tracker)  # returns at once
    ...                                              # the run writes its directory
    problem = mirror.finish() if mirror else None    # after summary.json is written
    trackers.sync(run_directory, tracker)            # mirrors a whole run again

``tracker`` is a choice of the configuration group `tracker`: ``_target_`` names a subclass of ``Tracker``, and the other keys
are its options. A new tracker needs such a subclass and a YAML file.
"""

from optbench.trackers.base import Tracker, check
from optbench.trackers.process import Mirror, start, sync

__all__ = ["Mirror", "Tracker", "check", "start", "sync"]
