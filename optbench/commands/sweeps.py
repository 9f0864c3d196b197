"""`retry` and `cancel`: start again what did not work, and stop what is at work."""

import os
import signal
from collections.abc import Iterable, Sequence

from optbench.commands.parser import Parser
from optbench.errors import UserError
from optbench.store import find
from optbench.sweep.jobs import is_worker, living
from optbench.sweep.plan import Plan
from optbench.sweep.reset import reset
from optbench.sweep.survey import UNATTENDED, RunState, Survey, survey

_RETRY = """\
Put runs of a sweep back that did not end well, and start them with the launcher that the sweep was started with. By
default all that are not finished and that nobody works on: failed, preempted, lost and missing ones. They go on from
their last checkpoint; those that diverged start over. What somebody is working on is left alone.
"""


def retry(words: Sequence[str]) -> int:
    """`retry NAME`: start those runs of a sweep again that did not end well."""
    parser = Parser(prog="optbench retry", description=_RETRY)
    parser.add_argument("name", metavar="NAME", help="of the sweep")
    parser.add_argument("--failed", action="store_true", help="only those that failed")
    parser.add_argument("--diverged", action="store_true", help="only those that diverged (with --failed: both)")
    parser.add_argument("--run", action="append", metavar="ID", help="only this one (may be given several times)")
    parser.add_argument("--restart", action="store_true", help="failed ones, and any named with --run, start over")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    plan = Plan.find(given.results_dir, given.name)
    launcher = plan.information().get("launcher")
    if not isinstance(launcher, dict):
        raise UserError(
            f"retry {plan.name}: {plan.path / 'sweep.json'} names no launcher; run the sweep's command again"
        )
    from optbench.sweep import slurm

    seen = survey(plan, slurm.queued)
    if given.run:
        chosen = _named(plan, seen, given.run)
    else:
        states = [state for state in ("failed", "diverged") if getattr(given, state)] or UNATTENDED
        chosen = seen.in_states(*states)
    run_ids = _put_back(plan, chosen, given.restart, bool(given.run))
    if not run_ids:
        counts = ", ".join(f"{count} {state}" for state, count in seen.counts.items() if count)
        print(f"{plan.name}: nothing to retry ({counts or 'it has no runs'})")
        return 0
    print(f"{plan.name}: {_count(len(run_ids), 'run')} again", flush=True)
    from optbench.sweep.dispatch import dispatch

    return dispatch(plan, run_ids, launcher)


def _named(plan: Plan, seen: Survey, names: Sequence[str]) -> list[RunState]:
    """The runs called ``names``. Raises UserError for one that cannot be retried."""
    runs = {run.run_id: run for run in seen.runs}
    chosen = {}
    for name in names:
        run_id = find(plan.results_dir, name).run_id
        if run_id not in runs:
            raise UserError(f"--run {name}: {run_id} is not a run of the sweep {plan.name}")
        run = chosen[run_id] = runs[run_id]
        if run.state in ("running", "stuck"):
            raise UserError(
                f"--run {name}: it is being worked on, on {run.host}; cancel {plan.name} first, or wait for it"
            )
        if run.state == "done":
            raise UserError(f"--run {name}: it is done; accepted are runs that are not (force=true runs it again)")
    return list(chosen.values())


def _put_back(plan: Plan, chosen: Sequence[RunState], restart: bool, named: bool) -> list[str]:
    """Make workers take the ``chosen`` runs again; returns the ids of those that they may take."""
    frozen = [run for run in chosen if (plan.directory(run.run_id).path / "config.yaml").is_file()]
    if len(frozen) < len(chosen):
        gone = _count(len(chosen) - len(frozen), "run")
        print(f"{plan.name}: the directories of {gone} are gone; the command of the sweep plans them again")
    ended = [plan.directory(run.run_id) for run in frozen if run.state in ("failed", "diverged")]
    waiting = [plan.directory(run.run_id) for run in frozen if run.state not in ("failed", "diverged")]
    taken = {*reset(ended, ("failed", "diverged"), restart)} | {directory.run_id for directory in waiting}
    # Whoever takes a run that is marked as running counts a death; one that was asked for starts with none.
    start_over = restart and named
    reset(waiting, ("running", *(("pending", "preempted") if start_over else ())), start_over)
    return [run.run_id for run in frozen if run.run_id in taken]


_CANCEL = """\
Stop all that works on a sweep: its Slurm jobs, and the commands that train it on this machine. Runs write a checkpoint
first and are then preempted; `retry`, or the same command once more, continues them.
"""


def cancel(words: Sequence[str]) -> int:
    """`cancel NAME`: stop everything that works on a sweep."""
    parser = Parser(prog="optbench cancel", description=_CANCEL)
    parser.add_argument("name", metavar="NAME", help="of the sweep")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    plan = Plan.find(given.results_dir, given.name)
    from optbench.sweep import slurm

    at_work = survey(plan, lambda ids: {}).in_states("running", "stuck")
    alive = living(plan.name, plan.jobs(), slurm.queued, {run.host for run in at_work if run.host})
    did, problems = [], []
    if alive.slurm:
        slurm.cancel(list(alive.slurm))
        did.append(f"cancelled {_count(len(alive.slurm), 'Slurm job')} ({_arrays(alive.slurm)})")
    if alive.unanswered:
        problems.append(f"squeue does not answer here; its Slurm jobs may be alive ({_arrays(alive.unanswered)})")
    for command in alive.local:
        if not command.is_here:
            problems.append(f"process {command.pid} on {command.host} can only be stopped there")
        elif _terminate(command.pid):
            did.append(f"asked process {command.pid} to stop; its runs write a checkpoint first")
    for run in at_work if not alive.take_runs else ():
        # Workers whose command was killed go on with the run that they have.
        if run.pid and run.host == os.uname().nodename and is_worker(run.pid, plan.name):
            if _terminate(run.pid):
                did.append(
                    f"asked process {run.pid}, whose command is gone, to stop; its run writes a checkpoint first"
                )
        else:
            problems.append(f"{run.run_id} is worked on by process {run.pid} on {run.host}, which is left alone")
    for line in [*did, *problems] or ["nothing is at work on it"]:
        print(f"{plan.name}: {line}")
    return 1 if problems else 0


def _terminate(pid: int) -> bool:
    """Ask a process to stop; False when it has ended by itself."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def _arrays(job_ids: Iterable[str]) -> str:
    """The jobs without their indices in an array."""
    return ", ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
