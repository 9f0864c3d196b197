"""Print the plan of a sweep for dry_run=true."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from optbench import config as configuration
from optbench.config import Config
from optbench.sweep.estimate import estimate
from optbench.sweep.grid.expand import Expansion
from optbench.sweep.launchers.slurm.submission import packing
from optbench.sweep.plan import Plan
from optbench.sweep.planned_runs import PlannedRuns
from optbench.sweep.search.reading import Search

_SHOWN_VALUES = 8


def print_plan(console: Console, plan: Plan, expansion: Expansion, runs: PlannedRuns) -> None:
    """Print the runs of a sweep, its axes, and an estimate of its cost."""
    excluded = f", {expansion.excluded} cells excluded" if expansion.excluded else ""
    console.print(f"{plan.name}: {runs.in_words()}{excluded}; dry_run=true starts nothing", soft_wrap=True)
    if expansion.axes:
        console.print(_axes(expansion.axes))
    to_do = [(run_id, runs.configs[run_id]) for run_id in runs.to_do]
    launcher = expansion.cells[0].config["launcher"]
    if configuration.works_as(launcher) != "local":
        for line in _jobs(to_do, launcher):
            console.print(line, soft_wrap=True)
    costs = estimate(plan.results_dir, [config for _, config in to_do])
    console.print(costs.in_words(), soft_wrap=True)


def print_search(console: Console, search: Search, runs: PlannedRuns) -> None:
    """Print the grids of a search, the cells that it would train first, and their share of the cost."""
    problem = search.problem
    record = search.record()
    size, steps = problem.size, problem.total_steps
    begun = f"; {runs.in_words()}" if record.chosen else ""
    console.print(
        f"{search.plan.name}: search={search.name} among {size:,} cells of {steps:,} steps in all{begun}; dry_run=true starts "
        "nothing",
        soft_wrap=True,
    )
    console.print(_axes(problem.lattice.axes))
    choice = search.method.choose(problem, search.seen(record), search.options)
    cost = sum(problem.steps(pick) if pick.until is None else pick.until for pick in choice.picks)
    for pick in choice.picks:
        words = " ".join(f"{key}={text}" for key, text in pick.cell.items())
        until = f", to step {pick.until}" if pick.until is not None else ""
        console.print(f"  {pick.grid + ': ' if pick.grid else ''}{words}{until}", soft_wrap=True)
    then = (
        f"the next round: {search.share(choice.picks, cost)}"
        if choice.picks
        else choice.why or "the next round waits for results"
    )
    limit = search.options.values.get("budget")
    console.print(then + (f"; search.budget={limit}" if limit is not None else ""), soft_wrap=True)


def _axes(axes: Mapping[str, Sequence[str]]) -> Table:
    table = Table("axis", "values", box=None, pad_edge=False)
    for key, values in axes.items():
        shown = ", ".join(values[:_SHOWN_VALUES]) + (f", ... ({len(values)})" if len(values) > _SHOWN_VALUES else "")
        table.add_row(key, shown)
    return table


def _jobs(to_do: list[tuple[str, Config]], launcher: dict[str, Any]) -> list[str]:
    """A line for each kind of jobs that would be queued: their number, their runs and workers, and their resources."""
    lines = []
    for resources, jobs, runs in packing(to_do, launcher):
        most = f", at most {resources.array_parallelism} at a time" if resources.array_parallelism else ""
        workers = min(resources.workers, -(-runs // jobs))
        lines.append(
            f"{runs:,} runs in {jobs:,} job{'s' * (jobs > 1)} of {workers} worker{'s' * (workers > 1)}{most} ({resources})"
        )
    return lines
