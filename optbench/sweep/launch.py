"""A sweep from its cells to its launcher: what is new, what is done, what is frozen, what is started."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from optbench import config as configuration
from optbench import terminal
from optbench.config import Config
from optbench.errors import UserError
from optbench.store import RunDirectory, check_writable
from optbench.store.lock import look
from optbench.sweep import code, slurm
from optbench.sweep.company import at_work
from optbench.sweep.dispatch import check, dispatch
from optbench.sweep.estimate import estimate
from optbench.sweep.expand import Cell, Expansion
from optbench.sweep.plan import Entry, Plan
from optbench.sweep.reset import reset

# Keys that say how a sweep is run, not what it is: they have to be the same in all cells.
_OF_THE_SWEEP = ("results_dir", "launcher", "sweep", "retry", "force", "dry_run")
# What `retry` asks for, as states to start again.
_RETRIED = {"none": (), "failed": ("failed",), "diverged": ("diverged",), "all": ("failed", "diverged")}
_SHOWN_VALUES = 8
# By whether it would have been done by this command.
_NOTHING = {True: "nothing to do", False: "nothing to do, and nothing is submitted"}


def sweep(expansion: Expansion, arguments: Sequence[str], experiment: str | None = None) -> int:
    """Plan and start a sweep, or continue it; returns the exit status of the command."""
    configs = [cell.config for cell in expansion.cells]
    common = _common(expansion)
    launcher = common["launcher"]
    check(launcher, configs)
    plan = Plan(
        common["results_dir"], common["sweep"] or _of_experiment(experiment, expansion) or _name(expansion, arguments)
    )
    runs = _Runs(plan, expansion.cells, common["force"], _RETRIED[common["retry"]])
    console = terminal.console()
    if common["dry_run"]:
        _print_plan(console, plan, expansion, runs)
        return 0
    check_writable(common["results_dir"])
    information = {"experiment": experiment, **_information(plan, expansion, arguments, launcher)}
    if not runs.to_do:
        plan.extend(runs.entries, information)
        print(f"{plan.name}: {runs.in_words()}; {_NOTHING[launcher['name'] == 'local']}" + _hint(runs))
        if runs.states["running"]:
            print(f"{plan.name}: {at_work(plan, slurm.queued)} is at work; {plan.command('status')} shows the state")
        return 0
    runs.freeze()
    others = at_work(plan, slurm.queued)
    plan.extend(runs.entries, information)
    console.print(f"{plan.name}: {runs.in_words()}; starting {len(runs.to_do)}", soft_wrap=True)
    if others:
        console.print(
            f"{plan.name}: {others} is at work on it too, and each run is done by whoever takes it first; "
            f"{plan.command('status')} shows the state",
            soft_wrap=True,
        )
    return dispatch(plan, runs.to_do, launcher)


def submit_one(config: Config, arguments: Sequence[str]) -> int:
    """Hand one run, not part of any sweep, to a launcher that is not this process; returns the exit status."""
    cell = Cell((), config)
    run_id = configuration.run_id(config)
    name = config["sweep"] or run_id
    return sweep(Expansion([cell], {}, 0), [*arguments, f"sweep={name}"], name)


def _common(expansion: Expansion) -> dict[str, Any]:
    """The keys of the sweep itself, which no axis may change."""
    for key, values in expansion.axes.items():
        group = key.partition(".")[0]
        if group in configuration.LIST_GROUPS:
            # It is not in the run id: all cells but one would be taken for repetitions.
            raise UserError(
                f"{key}={','.join(values)}: cannot be an axis, as it changes no result; accepted: one list for all, "
                f"'{group}=[A,B]'"
            )
        if group in _OF_THE_SWEEP:
            raise UserError(f"{key}={','.join(values)}: cannot be an axis of a sweep; accepted: one value")
    return {key: expansion.cells[0].config[key] for key in _OF_THE_SWEEP}


def _of_experiment(experiment: str | None, expansion: Expansion) -> str | None:
    return experiment and "-".join(filter(None, [experiment, expansion.scale]))


def _name(expansion: Expansion, arguments: Sequence[str]) -> str:
    """The axes, and a hash of what is fixed beside them: the same for a wider grid over the same axes."""
    machine = {*configuration.MACHINE_KEYS, "launcher", "tracker"}
    fixed = []
    for word in arguments:
        key = word.partition("=")[0].lstrip("+~")
        if key not in expansion.axes and key.partition(".")[0] not in machine:
            fixed.append(word)
    axes = "_".join(key.rpartition(".")[2] for key in expansion.axes) or "sweep"
    digest = hashlib.sha256("\n".join([*sorted(expansion.axes), *sorted(fixed)]).encode()).hexdigest()[:6]
    return f"{axes[:80]}-{digest}"


def _information(
    plan: Plan, expansion: Expansion, arguments: Sequence[str], launcher: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "command": ["--multirun", *arguments] if expansion.axes else list(arguments),
        "scale": expansion.scale,
        "axes": expansion.axes,
        "excluded": expansion.excluded,
        "launcher": dict(launcher),
        "code": code.record(plan.path),
    }


def _hint(runs: "_Runs") -> str:
    words = []
    if runs.states["done"] == len(runs.state):
        return "; force=true runs it again" if len(runs.state) == 1 else ""
    if runs.states["failed"]:
        words.append("retry=failed continues those that failed")
    if runs.states["diverged"]:
        words.append("retry=diverged repeats those that diverged")
    return f" ({'; '.join(words)})" if words else ""


class _Runs:
    """The cells of a sweep as runs of the store, and which of them are to be done."""

    def __init__(self, plan: Plan, cells: Sequence[Cell], force: bool, retried: Sequence[str]) -> None:
        self.plan, self._force = plan, force
        self.configs: dict[str, Config] = {}
        self.entries: list[Entry] = []
        self.state: dict[str, str] = {}
        for cell in cells:
            run_id = configuration.run_id(cell.config)
            self.configs[run_id] = cell.config
            self.entries.append(Entry(run_id, dict(word.split("=", 1) for word in cell.overrides if "=" in word)))
            self.state[run_id] = _state(plan.directory(run_id))
        self.states = Counter(self.state.values())
        left_alone = {"running", *(() if force else ("done", *({"failed", "diverged"} - {*retried})))}
        self.to_do = [run_id for run_id, state in self.state.items() if state not in left_alone]

    def in_words(self) -> str:
        """Such as "48 runs: 12 done, 36 new"."""
        runs = "1 run" if len(self.state) == 1 else f"{len(self.state)} runs"
        return f"{runs}: " + ", ".join(f"{count} {state}" for state, count in self.states.items())

    def freeze(self) -> None:
        """Write the configuration of every run that is to be done into its directory, and mark it as pending."""
        for run_id in self.to_do:
            config = self.configs[run_id]
            if config["tracker"].get("group", "") is None:
                config = {**config, "tracker": {**config["tracker"], "group": self.plan.name}}
            self.plan.directory(run_id).create(configuration.to_yaml(config), replace=True)
        # What has ended and is planned all the same is asked for again, or has lost its summary.
        ended = [self.plan.directory(run_id) for run_id in self.to_do]
        reset(ended, ("done", "diverged", "failed"), restart=self._force)


def _state(directory: RunDirectory) -> str:
    if not (directory.path / "status.json").is_file():
        return "new"
    state = directory.status().state
    if state in ("done", "diverged"):
        return state if directory.summary() is not None else "pending"
    if state == "running":
        held = look(directory.lock)
        return "lost" if held is None or held.abandoned else "running"
    return state


# ---- dry_run=true -----------------------------------------------------------------------------------------------------------


def _print_plan(console: Console, plan: Plan, expansion: Expansion, runs: _Runs) -> None:
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
