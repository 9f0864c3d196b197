"""launcher=slurm: submit the workers of a sweep as arrays of Slurm jobs, without waiting for them."""

from optbench.sweep.launchers.slurm.commands import cancel, job_name, max_array_size, queued
from optbench.sweep.launchers.slurm.submission import (
    NothingQueued,
    Submission,
    check,
    check_cluster,
    check_search,
    submit,
    submit_search,
    write_scripts,
    write_search_scripts,
)

__all__ = [
    "NothingQueued",
    "Submission",
    "cancel",
    "check",
    "check_cluster",
    "check_search",
    "job_name",
    "max_array_size",
    "queued",
    "submit",
    "submit_search",
    "write_scripts",
    "write_search_scripts",
]
