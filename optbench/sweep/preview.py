"""Print the plan of a sweep for dry_run=true."""

from rich.console import Console
from rich.table import Table

from optbench.sweep.estimate import estimate
from optbench.sweep.grid.expand import Expansion
from optbench.sweep.plan import Plan
from optbench.sweep.planned_runs import PlannedRuns

_SHOWN_VALUES = 8


def print_plan(console: Console, plan: Plan, expansion: Expansion, runs: PlannedRuns) -> None:
    """Print the runs of a sweep, its axes, and an estimate of its cost."""
    excluded = f", {expansion.excluded} cells excluded" if expansion.excluded else ""
    console.print(f"{plan.name}: {runs.in_words()}{excluded}; dry_run=true starts nothing", soft_wrap=True)
    if expansion.axes:
        table = Table("axis", "values", box=None, pad_edge=False)
        for key, values in expansion.axes.items():
            shown = ", ".join(values[:_SHOWN_VALUES]) + (
                f", ... ({len(values)})" if len(values) > _SHOWN_VALUES else ""
            )
            table.add_row(key, shown)
        console.print(table)
    costs = estimate(plan.results_dir, [runs.configs[run_id] for run_id in runs.to_do])
    console.print(costs.in_words(), soft_wrap=True)
