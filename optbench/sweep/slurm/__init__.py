"""launcher=slurm: the workers of a sweep in arrays of Slurm jobs, submitted and then left to themselves."""

from optbench.sweep.slurm.commands import cancel, max_array_size, queued
from optbench.sweep.slurm.submission import Submission, check, submit, write_scripts

__all__ = ["Submission", "cancel", "check", "max_array_size", "queued", "submit", "write_scripts"]
