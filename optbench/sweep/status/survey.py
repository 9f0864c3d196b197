"""The state of every run of a plan, read from the store and the queue."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

from optbench.store import RunDirectory, Status, StoreError
from optbench.store.columns import values
from optbench.store.index import Look
from optbench.store.lock import Held
from optbench.store.lock import look as look_at_lock
from optbench.store.measured import finite
from optbench.store.run_row import STATUS_WHY
from optbench.sweep.plan import Entry, Plan
from optbench.sweep.status.jobs import LivingJobs, Queued, living

Phase = Literal["done", "diverged", "paused", "running", "stuck", "queued", "preempted", "lost", "failed", "missing"]
PHASES: tuple[Phase, ...] = get_args(Phase)
# Nobody waits for more of these.
AT_REST: tuple[Phase, ...] = ("done", "diverged", "paused")
# A process works on these, or will.
IN_HAND: tuple[Phase, ...] = ("running", "stuck", "queued")
# These wait for `retry`, or for the sweep's command again.
UNATTENDED: tuple[Phase, ...] = ("failed", "preempted", "lost", "missing")
_ENDED = ("done", "diverged", "failed")


@dataclass(frozen=True)
class RunState:
    """The state of one run.

    state: done, diverged or failed, as the run has ended;
        paused: a search has stopped it at an evaluation, and has not asked for more of it;
        running: a living process has it;
        stuck: a living process has it, but it has made no step for long;
        queued: it waits, and a living job or command of the sweep will take it;
        preempted: it was stopped at a checkpoint, and no job or command will continue it;
        lost: its process died without recording an end, and no job or command will continue it;
        missing: it has not started, and no job or command will take it.
    why: the reason in one line, or empty.
    step, steps, rate, loss: of a running or stuck run: steps made, steps in all, steps for each second, training loss.
    host, pid: the process that has it, or that was lost.
    idle: of a running or stuck run, the seconds since its last step.
    """

    run_id: str
    cell: dict[str, str]
    state: Phase
    why: str = ""
    step: int | None = None
    steps: int | None = None
    rate: float | None = None
    loss: float | None = None
    host: str | None = None
    pid: int | None = None
    idle: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """The seconds that a running run still needs at its present rate; None if unknown."""
        if self.step is None or self.steps is None or not self.rate:
            return None
        return max(0, self.steps - self.step) / self.rate


@dataclass(frozen=True)
class Known:
    """The entries of the index of results for a run that has ended: ``code`` of its summary, and its tags."""

    state: Phase
    why: str
    code: object
    tags: str


@dataclass(frozen=True)
class Survey:
    """All runs of a sweep in the order of its plan, and the living jobs and commands.

    known: what the index of the results says of the runs that have ended, by run id; of any other it says nothing.
    """

    name: str
    runs: list[RunState]
    jobs: LivingJobs
    known: Mapping[str, Known] = field(default_factory=dict)

    @property
    def counts(self) -> dict[Phase, int]:
        """The number of runs in each state, also where it is 0."""
        seen = Counter(run.state for run in self.runs)
        return {state: seen[state] for state in PHASES}

    @property
    def is_over(self) -> bool:
        """True if no process works on any of its runs, or will. The workers of a search may choose paused runs again."""
        return not (self.in_states(*IN_HAND) or (self.in_states("paused") and self.jobs.take_runs))

    def in_states(self, *states: Phase) -> list[RunState]:
        """The runs in any of ``states``."""
        return [run for run in self.runs if run.state in states]


def survey(plan: Plan, queued: Queued, stuck_after: float = 600.0, look: Look | None = None) -> Survey:
    """Read the state of every run of ``plan``; never raises for a damaged run, which counts as one that has not started.

    ``queued(ids)``: the states of those Slurm jobs ``ids`` that squeue still knows; None if it does not answer.
    ``stuck_after``: a run without a step for this many seconds is stuck.
    ``look``: at the results folder, for a command that asks for more than this.

    A lock's heartbeat and a file's time of modification are compared with this host's clock.
    """
    entries = plan.entries()
    known = _known(look or Look(plan.results_dir), [entry.run_id for entry in entries])
    seen = [
        RunState(entry.run_id, entry.cell, ended.state, ended.why)
        if (ended := known.get(entry.run_id)) is not None
        else _observe(plan.directory(entry.run_id), entry, stuck_after)
        for entry in entries
    ]
    open_runs = {"running", "stuck", "queued", "preempted", "lost", "paused"}
    if not any(run.state in open_runs for run in seen):
        return Survey(plan.name, seen, LivingJobs(), known)
    busy_hosts = {run.host for run in seen if run.state in ("running", "stuck") and run.host}
    jobs = living(plan.name, plan.jobs(), queued, busy_hosts)
    return Survey(plan.name, [_settle(run, jobs) for run in seen], jobs, known)


def _known(look: Look, run_ids: Sequence[str]) -> dict[str, Known]:
    """The runs that have ended and that the index knows; a diverged one has its reason in its summary."""
    names = ("status", "why", STATUS_WHY, "code", "tags")
    rows, _ = look.find(run_ids, names)
    if rows is None:
        return {}
    read = (values(rows, name) for name in ("run_id", *names))
    return {
        run_id: Known(state, str((why if state == "diverged" else own) or ""), code, tags)
        for run_id, state, why, own, code, tags in zip(*read, strict=True)
        if state in _ENDED
    }


def _observe(directory: RunDirectory, entry: Entry, stuck_after: float) -> RunState:
    """The state of the run by its own directory; a run that has not started is called queued here."""
    status, held = _status_and_holder(directory)
    if status.state == "running" and held is None:
        # The run may have ended between the two reads: its last status is written before its lock is released.
        status, held = _status_and_holder(directory)
    why = str(status.why or "")  # in a damaged file it may be anything
    if status.state in ("done", "diverged", "failed"):
        return RunState(entry.run_id, entry.cell, status.state, why or _summary_why(directory, status))
    if held is not None:
        return _in_hand(directory, entry, status, held, stuck_after)
    if status.state == "running":
        who = f" (it was process {status.pid} on {status.host})" if status.pid else ""
        why = why or f"its process ended without a word{who}"
        host = str(status.host) if status.host else None
        return RunState(entry.run_id, entry.cell, "lost", why, host=host, pid=_as_int(status.pid))
    resting = status.state if status.state in ("preempted", "paused") else "queued"
    return RunState(entry.run_id, entry.cell, resting, why)


def _status_and_holder(directory: RunDirectory) -> tuple[Status, Held | None]:
    """The run's status, and the living holder of its lock, if any."""
    status = directory.status()
    if status.state in _ENDED:
        return status, None
    try:
        held = look_at_lock(directory.lock)
    except StoreError:
        return status, None
    return status, None if held is None or held.abandoned else held


def _summary_why(directory: RunDirectory, status: Status) -> str:
    if status.state != "diverged":
        return ""
    return str((directory.summary() or {}).get("why") or "")


def _in_hand(directory: RunDirectory, entry: Entry, status: Status, held: Held, stuck_after: float) -> RunState:
    # The idle time begins at the earliest when this attempt became "running", which is after the data were loaded.
    progress: dict[str, Any] = directory.progress() or {}
    moved = [seconds for seconds in (finite(progress.get("idle")), _since(status)) if seconds is not None]
    idle = min(moved) if moved and status.state == "running" else None
    stuck = idle is not None and idle > stuck_after
    steps = {name: finite(progress.get(name)) for name in ("step", "steps", "rate", "loss")}
    return RunState(
        entry.run_id,
        entry.cell,
        "stuck" if stuck else "running",
        f"no step for {idle:.0f} s, though process {held.pid} on {held.host} lives" if stuck else str(status.why or ""),
        step=_as_int(steps["step"]),
        steps=_as_int(steps["steps"]),
        rate=steps["rate"],
        loss=steps["loss"],
        host=str(held.host),
        pid=held.pid,
        idle=idle,
    )


def _as_int(value: object) -> int | None:
    number = finite(value)
    return None if number is None else int(number)


def _since(status: Status) -> float | None:
    try:
        return max(0.0, time.time() - datetime.fromisoformat(status.since).timestamp())
    except (TypeError, ValueError):
        return None


def _settle(run: RunState, jobs: LivingJobs) -> RunState:
    """Distinguish runs that a job or command will take from those that none will."""
    if run.state not in ("queued", "preempted", "lost"):
        return run
    if jobs.take_runs:
        only_unanswered = not jobs.slurm and not jobs.local
        why = "; ".join(filter(None, [run.why, "squeue does not answer here" if only_unanswered else ""]))
        return replace(run, state="queued", why=why)
    if run.state == "queued":
        return replace(run, state="missing")
    return run


def in_words(counts: dict[Phase, int]) -> str:
    """A summary such as "48 runs: 46 done, 2 failed"."""
    total = sum(counts.values())
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{total} run{'' if total == 1 else 's'}" + (f": {shown}" if shown else "")
