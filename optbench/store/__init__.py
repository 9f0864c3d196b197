"""Run directories: the files of every run, the lock of their writer, and reading many runs as data frames.

    results/runs/<run id>/  config.yaml      the frozen configuration (config.json: the same, for quick reading)
                            status.json      pending | running | done | diverged | failed | preempted | paused, why, since when
                            progress.json    the step that a running run has reached
                            history.jsonl    one line is one event at one step, appended and flushed row by row
                            history.parquet  the same rows, written once when the run ends
                            summary.json     written once, atomically, when the run ends
                            environment.json versions, git commit, hardware, code
                            lock             the process that writes to the directory now
                            checkpoints/     last.ckpt, and while the run is not done previous.ckpt
                            probes/          the measurements of probes: NAME-STEP.npz, figures, and index.jsonl
                            log.txt
                            notes.json       the user's tags and note
    results/.index/         the rows of finished runs in a few files, for quick reading; may be removed at any time

Nothing here imports torch; pandas and pyarrow are imported by the functions that need them.
"""

from optbench.store.files import StoreError
from optbench.store.lock import RunLock, RunLocked
from optbench.store.measurements import Measurements
from optbench.store.reading import find, load, load_history, read_results, run_directories
from optbench.store.run_directory import RunDirectory, Status, check_writable
from optbench.store.tidying import tidy

__all__ = [
    "Measurements",
    "RunDirectory",
    "RunLock",
    "RunLocked",
    "Status",
    "StoreError",
    "check_writable",
    "find",
    "load",
    "load_history",
    "read_results",
    "run_directories",
    "tidy",
]
