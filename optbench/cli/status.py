"""`status`: show the states of the runs of a results folder, or of one sweep."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from optbench.cli import overview, sweep_view
from optbench.cli.parser import Parser
from optbench.errors import UserError
from optbench.store.files import to_json
from optbench.store.index import Look
from optbench.sweep.plan import Plan, plans
from optbench.sweep.status.survey import Survey, survey
from optbench.system.terminal import console

_WATCH_SECONDS = 2.0

_STATES_AND_JSON = """\
A run is done, diverged or failed; paused (a search has stopped it before its end); running; stuck (its process lives, but
has not moved for --stuck-after seconds); queued (a job or command that is alive will take it). Only `retry` continues a run
that is preempted (stopped at a checkpoint), lost (its process died without a message) or missing (not started).

--json prints one document; what is unknown is null. With NAME:
  {"name", "results_dir", "total", "over", "counts": {STATE: number}, "axes": {KEY: [value]},
   "search": {"name", "answer", "chosen", "cells", "over"} or null,
   "jobs": {"slurm": {ID: state}, "slurm_unanswered": [ID], "local": [{"host", "pid"}]},
   "runs": [{"run_id", "cell": {KEY: value}, "state", "why", "step", "steps", "rate", "loss", "host", "pid",
             "idle", "seconds_left"}]}
Without:
  {"results_dir", "sweeps": [{"name", "total", "over", "counts"}],
   "runs": [{"run_id", "status", "why", "problem", "tags", "optimizer", "model", "dataset", "batch", "seed", "learning_rate",
             "steps", "train_loss", "test_loss", "test_accuracy", "gap_accuracy", "seconds_training"}]}
"""


def status(words: Sequence[str]) -> int:
    """`status [NAME]`: all sweeps and runs of a results folder, or one sweep in detail."""
    parser = Parser(prog="optbench status", description="Show what sweeps and runs are doing.", epilog=_STATES_AND_JSON)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a sweep; without it: all sweeps and all runs")
    parser.add_argument("--json", action="store_true", help="for programs; see below")
    parser.add_argument("--watch", action="store_true", help="refresh every 2 s, until all runs have ended or Ctrl-C")
    parser.add_argument("--stuck-after", type=float, default=600.0, metavar="SECONDS", help="default: 600")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    if not given.stuck_after > 0:
        parser.error(f"--stuck-after {given.stuck_after:g}: accepted is a number of seconds > 0")
    if given.watch and (given.json or not sys.stdout.isatty()):
        raise UserError("status --watch: needs a terminal; a program calls status --json as often as it likes")
    plan = None if given.name is None else Plan.find(given.results_dir, given.name)
    if given.json:
        look = Look(given.results_dir)
        seen = _surveys(look, plan, given.stuck_after)
        print(to_json(_document(given.results_dir, look, plan, seen), indent=2).decode())
    elif given.watch:
        _watch(given.results_dir, plan, given.stuck_after)
    else:
        look = Look(given.results_dir)
        _print(_view(given.results_dir, look, plan, _surveys(look, plan, given.stuck_after)))
    return 0


def _surveys(look: Look, plan: Plan | None, stuck_after: float) -> list[Survey]:
    queued = _Squeue()
    asked = plans(look.results_dir) if plan is None else [plan]
    return [survey(each, queued, stuck_after, look) for each in asked]


class _Squeue:
    """`optbench.sweep.launchers.slurm.queued`, not called again after it has failed once: each failure takes seconds."""

    def __init__(self) -> None:
        self._answers = True

    def __call__(self, job_ids: list[str]) -> dict[str, str] | None:
        from optbench.sweep.launchers import slurm

        answer = slurm.queued(job_ids) if self._answers else None
        self._answers = answer is not None
        return answer


def _document(results_dir: str, look: Look, plan: Plan | None, seen: Sequence[Survey]) -> dict[str, Any]:
    if plan is not None:
        return sweep_view.as_json(plan, seen[0])
    return overview.as_json(results_dir, seen, overview.read_runs(look))


def _view(results_dir: str, look: Look, plan: Plan | None, seen: Sequence[Survey]) -> list[RenderableType]:
    if plan is not None:
        return sweep_view.show(plan, seen[0])
    return overview.show(results_dir, seen, overview.read_runs(look), console().width)


def _print(view: Sequence[RenderableType]) -> None:
    screen = console()
    for part in view:
        screen.print(part, soft_wrap=isinstance(part, Text))


def _watch(results_dir: str, plan: Plan | None, stuck_after: float) -> None:
    """Refresh the view until all runs have ended, or until Ctrl-C; the last one stays on the screen."""
    view: list[RenderableType] = []
    try:
        with Live(console=console(), screen=True, auto_refresh=False) as live:
            while True:
                look = Look(results_dir)
                seen = _surveys(look, plan, stuck_after)
                view = _view(results_dir, look, plan, seen)
                if all(each.is_over for each in seen):
                    break
                live.update(Group(*view), refresh=True)
                time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        pass  # Ctrl-C ends --watch
    _print(view)
