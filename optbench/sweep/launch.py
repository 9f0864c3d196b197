"""Launch a sweep: compare its cells with the store, freeze the runs that are not finished, and start them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from optbench import config as configuration
from optbench.config import Config
from optbench.errors import UserError
from optbench.provenance import checkout
from optbench.store import check_writable
from optbench.sweep import imports
from optbench.sweep.cell_cache import CellCache, EndedSweep
from optbench.sweep.grid.expand import Cell, Expansion
from optbench.sweep.grid.lattice import Lattice
from optbench.sweep.launchers import slurm
from optbench.sweep.launchers.dispatch import check, check_place, check_search, dispatch, dispatch_search
from optbench.sweep.naming import automatic_name
from optbench.sweep.plan import Plan
from optbench.sweep.planned_runs import PlannedRuns, States
from optbench.sweep.preview import print_plan, print_search
from optbench.sweep.search.asking import Asker
from optbench.sweep.search.reading import Search
from optbench.sweep.status.activity import at_work
from optbench.sweep.withdrawing import Traces
from optbench.system import terminal

# Keys that state the way in which a sweep is run, not its science: they must be equal in all cells.
_OF_THE_SWEEP = ("results_dir", "launcher", "search", "sweep", "retry", "force", "dry_run")
# By whether this command trains the runs itself.
_NOTHING = {True: "nothing to do", False: "nothing to do, and nothing is submitted"}


@dataclass(frozen=True)
class Launched:
    """A sweep that was planned and started. ``status``: the exit status of the command. A dry run has written nothing."""

    plan: Plan
    status: int


def sweep(
    expansion: Expansion | Lattice | EndedSweep,
    arguments: Sequence[str],
    experiment: str | None = None,
    console: Console | None = None,
    cache: CellCache | None = None,
) -> Launched:
    """Plan and start a sweep, or continue it; local workers have ended when it returns.

    cache: keeps what was composed for the same words. Raises `optbench.errors.WorkersFailed` if local workers ended before
    their runs.
    """
    console = console or terminal.console()
    if isinstance(expansion, Lattice):
        return search(expansion, arguments, experiment, console)
    if isinstance(expansion, EndedSweep):
        return _again(expansion, console)
    configs = [cell.config for cell in expansion.cells]
    common = _common(expansion.axes, expansion.cells[0].config)
    launcher = common["launcher"]
    check(launcher, configs)
    plan = Plan(
        common["results_dir"],
        common["sweep"]
        or _of_experiment(experiment, expansion.scale)
        or automatic_name(expansion.cells, expansion.axes, arguments),
    )
    runs = PlannedRuns(plan, expansion.cells, common["force"], common["retry"])
    if common["dry_run"]:
        print_plan(console, plan, expansion, runs)
        return Launched(plan, 0)
    check_place(launcher)
    imports.check(runs.configs[run_id] for run_id in runs.to_do)
    check_writable(common["results_dir"])
    runs.tidy()
    is_local = configuration.works_as(launcher) == "local"
    traces = Traces(plan, runs.entries) if runs.to_do and not is_local else None
    information = {
        "experiment": experiment,
        **_information(plan, expansion, arguments, launcher),
        "excluded": expansion.excluded,
    }

    def extend() -> None:
        plan.extend(runs.entries, information)
        if cache is not None and common["retry"] == "none" and not common["force"]:
            cache.keep(plan, expansion, launcher, information)

    if not runs.to_do:
        extend()
        _say_nothing_to_do(console, plan, runs, is_local)
        if runs.states["running"]:
            console.print(
                f"{plan.name}: {at_work(plan, slurm.queued)} is at work; {plan.command('status')} shows the state",
                soft_wrap=True,
            )
        return Launched(plan, 0)
    runs.freeze()
    others = at_work(plan, slurm.queued)
    extend()
    console.print(f"{plan.name}: {runs.in_words()}; starting {len(runs.to_do)}", soft_wrap=True)
    if others:
        console.print(
            f"{plan.name}: {others} is at work on it too, and each run is done by whoever takes it first; "
            f"{plan.command('status')} shows the state",
            soft_wrap=True,
        )
    try:
        return Launched(
            plan, dispatch(plan, runs.to_do, launcher, console, [runs.configs[run_id] for run_id in runs.to_do])
        )
    except slurm.NothingQueued:
        if traces is not None:
            traces.remove()
        raise


def _again(ended: EndedSweep, console: Console) -> Launched:
    """The command of a sweep once more, of which every run has ended."""
    plan = ended.plan
    check_place(ended.launcher)
    check_writable(plan.results_dir)
    ended.runs.tidy()
    plan.extend((), {**ended.information, "code": checkout.record(plan.path)})
    _say_nothing_to_do(console, plan, ended.runs, configuration.works_as(ended.launcher) == "local")
    return Launched(plan, 0)


def _say_nothing_to_do(console: Console, plan: Plan, runs: States, is_local: bool) -> None:
    console.print(f"{plan.name}: {runs.in_words()}; {_NOTHING[is_local]}{_hint(runs)}", soft_wrap=True)


def search(lattice: Lattice, arguments: Sequence[str], experiment: str | None, console: Console) -> Launched:
    """Start a search, or continue it; local workers have ended when it returns.

    Workers choose the cells themselves. Raises `optbench.errors.WorkersFailed` if local workers ended before their runs.
    """
    samples = [cell.config for cell in lattice.samples]
    common = _common(lattice.axes, samples[0])
    launcher, choice = common["launcher"], common["search"]
    if common["force"]:
        raise UserError("force=true: a search continues what it has begun; accepted: another name, sweep=NAME")
    check_search(launcher, samples)
    name = _of_experiment(experiment, lattice.scale) or automatic_name(lattice.samples, lattice.axes, arguments)
    plan = Plan(common["results_dir"], common["sweep"] or f"{name}-{choice['name']}")
    found = Search.planned(plan, lattice, choice)
    begun = {each.run_id: each.pick for each in found.record().chosen if each.run_id}
    cells = [cell for pick in begun.values() if (cell := lattice.cell(pick)) is not None]
    runs = PlannedRuns(plan, cells, False, common["retry"], paused=False)
    if common["dry_run"]:
        print_search(console, found, runs)
        return Launched(plan, 0)
    check_place(launcher)
    imports.check(samples)
    check_writable(common["results_dir"])
    runs.tidy()
    is_local = configuration.works_as(launcher) == "local"
    traces = None if is_local else Traces(plan, runs.entries)
    information = {
        "experiment": experiment,
        **_information(plan, lattice, arguments, launcher),
        "search": found.information(),
    }
    runs.freeze()
    plan.extend(runs.entries, information)
    left = len(runs.to_do)
    if not left and begun:
        asked = Asker(found).ask()
        if asked.outcome == "over":
            console.print(f"{plan.name}: the search is over: {asked.why}; {_NOTHING[is_local]}", soft_wrap=True)
            console.print(asked.line, soft_wrap=True)
            return Launched(plan, 0)
        left = asked.picked
    words = (
        f"{len(begun):,} of {found.problem.size:,} cells chosen before, {left} of them open"
        if begun
        else "a new search"
    )
    console.print(f"{plan.name}: search={choice['name']}, {words}", soft_wrap=True)
    try:
        status = dispatch_search(plan, samples, launcher, 2 * found.options.round_size, console)
    except slurm.NothingQueued:
        if traces is not None:
            traces.remove()
        raise
    return Launched(plan, status)


def submit_one(config: Config, arguments: Sequence[str], console: Console | None = None) -> Launched:
    """Give a single run to a launcher that trains in another process."""
    cell = Cell((), config, config)
    run_id = configuration.run_id(config)
    name = config["sweep"] or run_id
    return sweep(Expansion([cell], {}, 0), [*arguments, f"sweep={name}"], name, console)


def _common(axes: Mapping[str, Sequence[str]], first: Config) -> dict[str, Any]:
    """The keys of the sweep itself, which no axis may change."""
    for key, values in axes.items():
        group = key.partition(".")[0]
        if group in configuration.MEASURING_GROUPS:
            # The key is not in the run id: all cells but one would count as repetitions.
            raise UserError(
                f"{key}={','.join(values)}: cannot be an axis, as it changes no result; accepted: one list for all, "
                f"'{group}=[A,B]'"
            )
        if group in _OF_THE_SWEEP:
            raise UserError(f"{key}={','.join(values)}: cannot be an axis of a sweep; accepted: one value")
    return {key: first[key] for key in _OF_THE_SWEEP}


def _of_experiment(experiment: str | None, scale: str | None) -> str | None:
    return experiment and "-".join(filter(None, [experiment, scale]))


def _information(
    plan: Plan, expansion: Expansion | Lattice, arguments: Sequence[str], launcher: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "command": ["--multirun", *arguments] if expansion.axes else list(arguments),
        "scale": expansion.scale,
        "axes": expansion.axes,
        "launcher": dict(launcher),
        "code": checkout.record(plan.path),
    }


def _hint(runs: States) -> str:
    words = []
    if runs.states["done"] == len(runs.state):
        return "; force=true runs it again" if len(runs.state) == 1 else ""
    if runs.states["failed"]:
        words.append("retry=failed continues those that failed")
    if runs.states["diverged"]:
        words.append("retry=diverged repeats those that diverged")
    return f" ({'; '.join(words)})" if words else ""
