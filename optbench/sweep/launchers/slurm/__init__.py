"""launcher=slurm: submit the workers of a sweep as arrays of Slurm jobs, without waiting for them."""

from optbench.sweep.launchers.slurm.commands import cancel, job_name, max_array_size, queued
from optbench.sweep.launchers.slurm.submission import (
    NothingQueued,
    Submission,
    check,
    check_cluster,
    submit,
    write_scripts,
)

__all__ = [
    "NothingQueued",
    "Submission",
    "cancel",
    "check",
    "check_cluster",
    "job_name",
    "max_array_size",
    "queued",
    "submit",
    "write_scripts",
]
