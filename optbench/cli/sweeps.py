"""`retry` and `cancel`: start unfinished runs of a sweep again, and stop all that works on a sweep."""

import os
import re
import signal
from collections.abc import Iterable, Sequence

from optbench.cli.parser import Parser
from optbench.config import Config, compose, settle, thaw
from optbench.errors import UserError
from optbench.provenance import Vintages
from optbench.store import find
from optbench.store.run_directory import STATES
from optbench.sweep.plan import Plan
from optbench.sweep.reset import reset
from optbench.sweep.search.record import release
from optbench.sweep.status.jobs import is_worker, living
from optbench.sweep.status.survey import IN_HAND, UNATTENDED, RunState, Survey, survey

# Settings that a results folder, which may be somebody else's, does not decide alone.
_SETTINGS = ("launcher", "tracker", "data_dir")

_RETRY = """\
Start runs of a sweep again, with the launcher of the sweep. By default these are all unfinished runs on which no process
works: failed, preempted, lost and missing ones. They continue from their last checkpoint; diverged runs start over. Runs
on which a process works are left alone. Runs that a search has paused are continued, to their end, only with --paused. With
--stale: the runs that other code than the current one has finished (done or diverged) or started; they start over.
"""


def retry(words: Sequence[str]) -> int:
    """`retry NAME`: start the unfinished runs of a sweep again, or those that the options select."""
    parser = Parser(prog="optbench retry", description=_RETRY)
    parser.add_argument("name", metavar="NAME", help="of the sweep")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help=f"of the machine: {', '.join(_SETTINGS)} and their options"
    )
    parser.add_argument("--failed", action="store_true", help="only those that failed")
    parser.add_argument("--diverged", action="store_true", help="only those that diverged (with --failed: both)")
    parser.add_argument("--paused", action="store_true", help="those that a search has paused, to their end")
    parser.add_argument("--stale", action="store_true", help="only those that other code than that of now has computed")
    parser.add_argument("--run", action="append", metavar="ID", help="only this one (may be given several times)")
    parser.add_argument("--restart", action="store_true", help="failed ones, and any named with --run, start over")
    parser.add_results_dir()
    given = parser.parse_intermixed_args(list(words))
    for word in given.settings:
        if "=" not in word or re.split(r"[.=]", word)[0] not in _SETTINGS:
            raise UserError(
                f"{word}: not a setting of the command retry; accepted: {', '.join(_SETTINGS)}, as KEY=VALUE"
            )
    plan = Plan.find(given.results_dir, given.name)
    launcher = plan.information().get("launcher")
    if not isinstance(launcher, dict):
        raise UserError(
            f"retry {plan.name}: {plan.path / 'sweep.json'} names no launcher; run the sweep's command again"
        )
    launcher = settle("launcher", launcher, given.settings, f"retry {plan.name}")
    from optbench.sweep import imports
    from optbench.sweep.launchers import slurm
    from optbench.sweep.launchers.dispatch import check_place, dispatch

    seen = survey(plan, slurm.queued)
    if given.stale:
        chosen = _stale(plan, seen, given.run)
    elif given.run:
        chosen = _named(plan, seen, given.run)
    else:
        states = [state for state in ("failed", "diverged", "paused") if getattr(given, state)] or UNATTENDED
        chosen = seen.in_states(*states)
    frozen = [run for run in chosen if (plan.directory(run.run_id).path / "config.yaml").is_file()]
    if len(frozen) < len(chosen):
        gone = _count(len(chosen) - len(frozen), "run")
        print(f"{plan.name}: the directories of {gone} are gone; the command of the sweep plans them again")
    configs = _here(plan, frozen, given.settings)
    if frozen:
        check_place(launcher)
        imports.check(configs.values())
    if given.stale:
        run_ids = reset([plan.directory(run.run_id) for run in frozen], STATES, restart=True)
    else:
        if paused := [run.run_id for run in frozen if run.state == "paused"]:
            release(plan, paused)
        run_ids = _put_back(plan, frozen, given.restart, bool(given.run))
    for run_id in run_ids:
        plan.directory(run_id).create(configs[run_id], replace=True)
    if not run_ids:
        counts = ", ".join(f"{count} {state}" for state, count in seen.counts.items() if count)
        print(f"{plan.name}: nothing to retry ({counts or 'it has no runs'})")
        return 0
    print(f"{plan.name}: {_count(len(run_ids), 'run')} again", flush=True)
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


def _here(plan: Plan, chosen: Sequence[RunState], words: Sequence[str]) -> dict[str, Config]:
    """The frozen configurations of the runs, with this user's settings of the machine; changes nothing.

    Raises UserError for the first configuration that is not valid here, or whose data are not in this user's data folder.
    """
    data_dir = compose([word for word in words if word.startswith("data_dir=")])["data_dir"]
    configs = {}
    looked_for = set()
    for run in chosen:
        directory = plan.directory(run.run_id)
        frozen = thaw(directory)
        tracker = settle("tracker", frozen["tracker"], words, f"retry {plan.name}")
        configs[run.run_id] = {**frozen, "data_dir": data_dir, "tracker": tracker}
        dataset, planned_with = frozen["dataset"], frozen["data_dir"]
        if planned_with != data_dir and dataset["name"] not in looked_for:
            from optbench.data import fetch

            looked_for.add(dataset["name"])
            try:
                fetch.require(dataset["name"], data_dir, dataset.get("check_hash", True))
            except UserError as error:
                raise UserError(
                    f"{error}; its runs were planned with data_dir={planned_with}: data_dir=... after the command says "
                    "where the data lie here"
                ) from error
    return configs


def _stale(plan: Plan, seen: Survey, names: Sequence[str] | None) -> list[RunState]:
    """The runs (only ``names`` if any are given) that other code than the current one has finished or started."""
    named = {find(plan.results_dir, name).run_id for name in names or ()}
    vintages = Vintages(plan.results_dir)
    chosen = []
    for run in seen.runs:
        directory = plan.directory(run.run_id)
        if (
            run.state in IN_HAND
            or (names and run.run_id not in named)
            or not (directory.path / "config.yaml").is_file()
        ):
            continue
        if directory.is_finished:
            standing = vintages.of_finished(directory)
        else:
            standing = vintages.of_begun(directory, directory.config())
        if standing != "current":
            chosen.append(run)
    return chosen


def _put_back(plan: Plan, frozen: Sequence[RunState], restart: bool, named: bool) -> list[str]:
    """Reset the runs so that workers take them again; returns the ids of those that were reset."""
    ended = [plan.directory(run.run_id) for run in frozen if run.state in ("failed", "diverged")]
    waiting = [plan.directory(run.run_id) for run in frozen if run.state not in ("failed", "diverged")]
    taken = {*reset(ended, ("failed", "diverged"), restart)} | {directory.run_id for directory in waiting}
    # A worker that takes a run marked as running counts a crash; runs that were asked for start with none.
    start_over = restart and named
    reset(waiting, ("running", "paused", *(("pending", "preempted") if start_over else ())), start_over)
    return [run.run_id for run in frozen if run.run_id in taken]


_CANCEL = """\
Stop all that works on a sweep: its Slurm jobs, and the commands that train it on this machine. Runs first write a
checkpoint and are then preempted; `retry`, or the same command again, continues them.
"""


def cancel(words: Sequence[str]) -> int:
    """`cancel NAME`: stop everything that works on a sweep."""
    parser = Parser(prog="optbench cancel", description=_CANCEL)
    parser.add_argument("name", metavar="NAME", help="of the sweep")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    plan = Plan.find(given.results_dir, given.name)
    from optbench.sweep.launchers import slurm

    at_work = survey(plan, lambda ids: {}).in_states("running", "stuck")
    alive = living(plan.name, plan.jobs(), slurm.queued, {run.host for run in at_work if run.host})
    did, problems = [], []
    if alive.slurm:
        slurm.cancel(list(alive.slurm), slurm.job_name(plan.name))
        did.append(f"cancelled {_count(len(alive.slurm), 'Slurm job')} ({_arrays(alive.slurm)})")
    if alive.unanswered:
        problems.append(f"squeue does not answer here; its Slurm jobs may be alive ({_arrays(alive.unanswered)})")
    for command in alive.local:
        if not command.is_here:
            problems.append(f"process {command.pid} on {command.host} can only be stopped there")
        elif _terminate(command.pid):
            did.append(f"asked process {command.pid} to stop; its runs write a checkpoint first")
    for run in at_work if not alive.take_runs else ():
        # Workers whose command was killed finish the run that they have.
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
    """Ask a process to stop; False if it has already ended."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def _arrays(job_ids: Iterable[str]) -> str:
    """The ids of the jobs, without their indices in an array."""
    return ", ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
