"""Hand runs that are frozen in their directories to the launcher that a configuration chooses."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from optbench.config import Config, works_as
from optbench.sweep.launchers import local, slurm
from optbench.sweep.plan import Plan
from optbench.system import terminal


def check(launcher: Mapping[str, Any], configs: Sequence[Config]) -> None:
    """Raise UserError for runs that the launcher cannot start, before anything is written."""
    if works_as(launcher) == "local":
        local.check(configs)
    else:
        slurm.check(launcher, configs)


def check_search(launcher: Mapping[str, Any], samples: Sequence[Config]) -> None:
    """Raise UserError for a search that the launcher cannot start; ``samples``: configurations of some cells."""
    check(launcher, samples)
    if works_as(launcher) != "local":
        slurm.check_search(launcher, samples)


def check_place(launcher: Mapping[str, Any]) -> None:
    """Raise UserError if the launcher cannot start anything from here: Slurm's without a cluster that answers."""
    if works_as(launcher) != "local":
        slurm.check_cluster(launcher)


def dispatch_search(
    plan: Plan, samples: Sequence[Config], launcher: Mapping[str, Any], most: int, console: Console | None = None
) -> int:
    """Start workers that choose the runs of ``plan`` themselves; returns the exit status for the command.

    samples: configurations of some cells, which show what the runs need. most: the number of runs that the search has under
    way at a time. Raises as `dispatch` does.
    """
    console = console or terminal.console()
    if works_as(launcher) == "local":
        return local.launch_search(plan, samples, launcher, most, console)
    if works_as(launcher) == "slurm_debug":
        for path in slurm.write_search_scripts(plan, samples, launcher, most):
            console.print(f"{path}: written, not submitted", soft_wrap=True)
        return 0
    for submission in slurm.submit_search(plan, samples, launcher, most):
        console.print(str(submission), soft_wrap=True)
    console.print(plan.command("status"), soft_wrap=True)
    return 0


def dispatch(
    plan: Plan,
    run_ids: Sequence[str],
    launcher: Mapping[str, Any],
    console: Console | None = None,
    configs: Sequence[Config] | None = None,
) -> int:
    """Start ``run_ids`` of ``plan``; returns the exit status for the command.

    configs: their frozen configurations, for a caller that has just written them; otherwise they are read. Raises
    `optbench.errors.WorkersFailed` if local workers ended before their runs.
    """
    console = console or terminal.console()
    if configs is None:
        configs = [plan.directory(run_id).config() for run_id in run_ids]
    if works_as(launcher) == "local":
        return local.launch(plan, run_ids, configs, launcher, console)
    runs = list(zip(run_ids, configs, strict=True))
    if works_as(launcher) == "slurm_debug":
        for path in slurm.write_scripts(plan, runs, launcher):
            console.print(f"{path}: written, not submitted", soft_wrap=True)
        return 0
    for submission in slurm.submit(plan, runs, launcher):
        console.print(str(submission), soft_wrap=True)
    console.print(plan.command("status"), soft_wrap=True)
    return 0
