"""Detect other commands or jobs working on the same sweep, and report the runs left to them."""

from collections.abc import Iterable, Sequence

from optbench.store import StoreError
from optbench.store.lock import look
from optbench.sweep.plan import Plan
from optbench.sweep.status.jobs import Queued
from optbench.sweep.status.survey import survey

_MOST_NAMED = 4


def at_work(plan: Plan, queued: Queued) -> str:
    """The commands and jobs, or else the processes, at work on ``plan``, such as "process 42 on node7"; empty if none is."""
    if not plan.exists:
        return ""
    seen = survey(plan, queued)
    who = [f"process {command.pid} on {command.host}" for command in seen.jobs.local]
    who += [f"Slurm job {job_id}" for job_id in seen.jobs.slurm]
    if not who:
        who = [f"process {run.pid} on {run.host}" for run in seen.in_states("running", "stuck")]
    return _listed(who)


def left_to_others(plan: Plan, run_ids: Sequence[str]) -> list[str]:
    """Lines about those of ``run_ids``, which this command has not trained, that others train now or have finished."""
    holders: list[str] = []
    held = over = 0
    for run_id in run_ids:
        directory = plan.directory(run_id)
        if directory.status().state in ("done", "diverged", "failed"):
            over += 1
            continue
        try:
            holder = look(directory.lock)
        except StoreError:
            continue
        if holder is not None and not holder.abandoned:
            held += 1
            holders.append(f"process {holder.pid} on {holder.host}")
    lines = []
    if held:
        who = _listed(holders)
        lines.append(f"{_runs(held)} left to {who}, at work on {'it' if held == 1 else 'them'}")
    if over:
        lines.append(f"{_runs(over)} finished by another command meanwhile")
    return [f"{plan.name}: {line}; {plan.command('status')} shows their state" for line in lines]


def _listed(who: Iterable[str]) -> str:
    names = list(dict.fromkeys(who))
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
