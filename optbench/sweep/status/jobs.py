"""Find the jobs and commands of a sweep that are still alive."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

# For ids of Slurm jobs, the states of those that squeue still knows; None if squeue does not answer.
Queued = Callable[[list[str]], dict[str, str] | None]

# For this time a command on another host counts as starting, although it has no run yet.
START_UP_SECONDS = 120.0


@dataclass(frozen=True)
class LocalCommand:
    """Workers that launcher=local started: the host and the process that supervises them."""

    host: str
    pid: int

    @property
    def is_here(self) -> bool:
        """True if it is on this host, so that it can be sent signals."""
        return self.host == os.uname().nodename


@dataclass(frozen=True)
class LivingJobs:
    """The jobs and commands of a sweep that are still alive.

    slurm: the state of each job that squeue knows.
    unanswered: the ids of all its Slurm jobs, if squeue could not be asked.
    local: the commands of launcher=local.
    """

    slurm: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    local: list[LocalCommand] = field(default_factory=list)

    @property
    def take_runs(self) -> bool:
        """True if any of them may take a waiting run; a job that squeue could not be asked about counts."""
        return bool(self.slurm or self.unanswered or self.local)


def living(
    name: str, jobs: Iterable[Mapping[str, Any]], queued: Queued, busy_hosts: Collection[str] = ()
) -> LivingJobs:
    """The living ones among ``jobs``, the lines of `Plan.jobs` of the sweep ``name``.

    A local command on this host is alive while its process is. Processes on other hosts cannot be asked. But a command with
    work left always has a run, so that it counts as alive if its host is in ``busy_hosts``, the hosts that work on a run of
    the sweep now, or if it was started less than `START_UP_SECONDS` ago.
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
    """True if the process ``pid`` of this host is alive and one of the workers of the sweep ``name``.

    The command line is checked as well, because process ids are reused.
    """
    try:
        # The command line of a zombie, which has ended, is empty.
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
