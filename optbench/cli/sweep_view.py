"""One sweep in detail, for `status NAME`."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from optbench.cli.logs import last_lines
from optbench.moved import current_key
from optbench.provenance import Vintages
from optbench.provenance import in_words as in_words_of_code
from optbench.store import StoreError
from optbench.store.notes import columns_of
from optbench.sweep.plan import Plan
from optbench.sweep.search.record import answers, searched_by
from optbench.sweep.status.display import clock
from optbench.sweep.status.jobs import LivingJobs
from optbench.sweep.status.survey import UNATTENDED, Phase, RunState, Survey, in_words
from optbench.system.terminal import number

MOST_SHOWN = 20
_LOG_LINES = 5
_MOST_VALUES = 8
# The states whose runs are listed one by one, each with the explanation above its list.
_DETAILED: dict[Phase, str] = {
    "failed": "failed",
    "stuck": "stuck: the process lives, but does not move",
    "lost": "lost: the process died without a message",
    "preempted": "preempted: stopped at a checkpoint, and no job or command will continue it",
    "diverged": "diverged",
    "missing": "missing: not started, and no job or command will take it",
}


def as_json(plan: Plan, seen: Survey) -> dict[str, Any]:
    """The document of `status NAME --json`."""
    return {
        "name": plan.name,
        "results_dir": str(plan.results_dir),
        "total": len(seen.runs),
        "over": seen.is_over,
        "counts": seen.counts,
        "axes": _axes(plan),
        "search": _search(plan),
        "jobs": {
            "slurm": seen.jobs.slurm,
            "slurm_unanswered": seen.jobs.unanswered,
            "local": [asdict(command) for command in seen.jobs.local],
        },
        "runs": [asdict(run) | {"seconds_left": run.seconds_left} for run in seen.runs],
    }


def show(plan: Plan, seen: Survey) -> list[RenderableType]:
    """The counts, the axes, the processes at work, the running runs, those that need attention, and the next commands."""
    shown: list[RenderableType] = [Text(f"{plan.name}: {in_words(seen.counts)}", style="bold")]
    shown += [Text(f"  {key}={_some(values)}") for key, values in _axes(plan).items()]
    if search := _search(plan):
        shown.append(Text(f"  search={search['name']}: {search['answer']}"))
        if search["over"]:
            shown.append(Text(f"  the search is over: {search['over']}"))
    if tags := _tags(plan, seen):
        shown.append(Text(f"  tags: {tags}"))
    if stale := _of_other_code(plan, seen):
        shown.append(Text(f"  {stale}: {plan.command('retry')} --stale runs them again"))
    shown += [Text(line) for line in _at_work(seen.jobs)]
    if running := seen.in_states("running"):
        shown += [Text(), _running(running[:MOST_SHOWN]), *_more(running)]
    for state, meaning in _DETAILED.items():
        if runs := seen.in_states(state):
            shown += [Text(), Text(f"{meaning} ({len(runs)})", style="bold")]
            for run in runs[:MOST_SHOWN]:
                shown += _detail(plan, run)
            shown += _more(runs)
    if advice := _advice(plan, seen):
        shown += [Text(), *map(Text, advice)]
    return shown


def _information(plan: Plan) -> Mapping[str, Any]:
    try:
        return plan.information()
    except StoreError:
        return {}


def _axes(plan: Plan) -> dict[str, list[str]]:
    axes = _information(plan).get("axes")
    if not isinstance(axes, dict):
        return {}
    return {
        current_key(key): [str(value) for value in values] for key, values in axes.items() if isinstance(values, list)
    }


def _search(plan: Plan) -> dict[str, Any] | None:
    """The search of the sweep with its latest answer, the cells chosen and the reason for its end; None for a whole grid."""
    choice = searched_by(_information(plan))
    if choice is None:
        return None
    latest = (answers(plan.path) or [{}])[-1]
    return {
        "name": choice["name"],
        "answer": str(latest.get("line", "nothing is chosen yet")),
        "chosen": latest.get("chosen", 0),
        "cells": choice.get("cells"),
        "over": str(latest.get("why", "")),
    }


def _tags(plan: Plan, seen: Survey) -> str:
    """The tags of its runs, each with the number of runs that have it; empty if there are none."""
    known = seen.known
    tags = (
        known[run.run_id].tags if run.run_id in known else columns_of(plan.directory(run.run_id))["tags"]
        for run in seen.runs
    )
    found = Counter(tag for some in tags if some for tag in some.split(","))
    return ", ".join(f"{tag} ({count})" for tag, count in sorted(found.items()))


def _of_other_code(plan: Plan, seen: Survey) -> str:
    """The number of finished runs that were computed by other code than the current one; empty if there are none."""
    vintages = Vintages(plan.results_dir)
    found = []
    for run in seen.in_states("done", "diverged"):
        try:
            if run.run_id in seen.known:
                found.append(vintages.of_code(plan.directory, run.run_id, seen.known[run.run_id].code))
            else:
                found.append(vintages.of_finished(plan.directory(run.run_id)))
        except StoreError:
            continue  # a damaged run has a line of its own
    return in_words_of_code(found)


def _some(values: list[str]) -> str:
    return ",".join(values[:_MOST_VALUES]) + (f",... ({len(values)})" if len(values) > _MOST_VALUES else "")


def _at_work(jobs: LivingJobs) -> list[str]:
    lines = [f"at work: process {command.pid} on {command.host}" for command in jobs.local]
    if jobs.slurm:
        states = sorted({*jobs.slurm.values()})
        counts = [f"{list(jobs.slurm.values()).count(state)} {state.lower()}" for state in states]
        lines.append(f"Slurm jobs: {', '.join(counts)} ({_some([*jobs.slurm])})")
    if jobs.unanswered:
        lines.append(f"Slurm jobs: squeue does not answer here ({_some(jobs.unanswered)})")
    return lines


def _running(runs: list[RunState]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("running", overflow="fold")
    for column in ("step", "rate", "time left", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("on", overflow="fold")
    for run in runs:
        table.add_row(
            run.run_id,
            f"{run.step}/{run.steps}" if run.step is not None else "starting",
            f"{number(run.rate, 3)}/s" if run.rate is not None else "",
            clock(run.seconds_left),
            number(run.loss),
            run.host or "",
        )
    return table


def _more(runs: list[RunState]) -> list[RenderableType]:
    return [Text(f"  and {len(runs) - MOST_SHOWN} more")] if len(runs) > MOST_SHOWN else []


def _detail(plan: Plan, run: RunState) -> list[RenderableType]:
    cell = " ".join(f"{key}={value}" for key, value in run.cell.items())
    lines = [f"  {run.run_id}" + (f"  ({cell})" if cell else "")]
    if run.why:
        lines.append(f"    {run.why}")
    if run.state == "failed":
        try:
            log = last_lines(plan.directory(run.run_id).log, _LOG_LINES)
        except StoreError as error:
            log = [str(error)]
        lines += [f"      | {line}" for line in log]
    return [Text(line) for line in lines]


def _advice(plan: Plan, seen: Survey) -> list[str]:
    counts = seen.counts
    lines = []
    if any(counts[state] for state in UNATTENDED):
        words = ", ".join(f"{counts[state]} {state}" for state in UNATTENDED if counts[state])
        lines.append(f"{plan.command('retry')}    continues {words}")
        command = _information(plan).get("command")
        if isinstance(command, list) and sum(counts[state] for state in UNATTENDED) > counts["failed"]:
            lines.append(f"python -m optbench {shlex.join(map(str, command))}    too, but for those that failed")
    search = _search(plan)
    if search and not search["over"] and not seen.jobs.take_runs:
        command = _information(plan).get("command")
        if isinstance(command, list):
            lines.append(f"python -m optbench {shlex.join(map(str, command))}    goes on with the search")
    if counts["paused"]:
        lines.append(f"{plan.command('retry')} --paused    trains {counts['paused']} paused to their end")
    if counts["stuck"]:
        lines.append(f"{plan.command('cancel')}    stops all of it, also what is stuck")
    if counts["failed"] or counts["stuck"]:
        lines.append(f"python -m optbench logs RUN{plan.place}    shows all that a run has printed")
    return lines
