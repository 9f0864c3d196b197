"""Which of the jobs and commands that a sweep has started are still alive."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

# Of the Slurm jobs with these ids, the state of those that squeue still knows; None where squeue does not answer.
Queued = Callable[[list[str]], dict[str, str] | None]

# How long a command on another host is believed to be starting up, while it has no run in hand yet.
START_UP_SECONDS = 120.0


@dataclass(frozen=True)
class LocalCommand:
    """Workers that launcher=local started: the host and the process that supervises them."""

    host: str
    pid: int

    @property
    def is_here(self) -> bool:
        """Whether it is on this host, where it can be sent signals."""
        return self.host == os.uname().nodename


@dataclass(frozen=True)
class LivingJobs:
    """What of a sweep is still alive.

    slurm: the state of each job that squeue knows.
    unanswered: the ids of all its Slurm jobs, where squeue could not be asked.
    local: the commands of launcher=local.
    """

    slurm: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    local: list[LocalCommand] = field(default_factory=list)

    @property
    def take_runs(self) -> bool:
        """Whether anything here may take a run that waits; a job that squeue cannot be asked about may."""
        return bool(self.slurm or self.unanswered or self.local)


def living(
    name: str, jobs: Iterable[Mapping[str, Any]], queued: Queued, busy_hosts: Collection[str] = ()
) -> LivingJobs:
    """What of ``jobs``, the lines of `Plan.jobs` of the sweep ``name``, is alive.

    A local command on this host is alive while its process is. Those on other hosts cannot be asked; but a command with
    work left always has a run in hand, so one is taken for alive when its host is in ``busy_hosts``, those that work on
    a run of the sweep now, or when it was started less than `START_UP_SECONDS` ago.
    """
    jobs = list(jobs)
    noted = [job.get("ids") for job in jobs if job.get("kind") == "slurm"]
    ids = [str(job_id) for some in noted if isinstance(some, list) for job_id in some]
    answer = queued(ids) if ids else {}
    local: dict[LocalCommand, None] = {}
    for job in jobs:
        host, pid = job.get("host"), job.get("pid")
        if job.get("kind") != "local" or not isinstance(host, str) or type(pid) is not int or pid <= 0:
            continue
        command = LocalCommand(host, pid)
        if command.is_here:
            alive = is_worker(pid, name)
        else:
            alive = host in busy_hosts or _age(job) < START_UP_SECONDS
        if alive:
            local[command] = None
    return LivingJobs(answer or {}, ids if answer is None else [], list(local))


def is_worker(pid: int, name: str) -> bool:
    """Whether the process ``pid`` of this host is alive and one of the workers of the sweep ``name``.

    Process ids are used again, so it is not enough that there is such a process.
    """
    try:
        # Empty for a zombie, which has ended.
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"optbench.sweep.worker.process" in words and os.fsencode(name) in words
    except FileNotFoundError:
        pass
    except OSError:
        return False
    if Path("/proc/self/cmdline").exists():
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _age(job: Mapping[str, Any]) -> float:
    try:
        return time.time() - datetime.fromisoformat(str(job.get("since"))).timestamp()
    except ValueError:
        return float("inf")
