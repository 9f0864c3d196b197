"""Runs and sweeps by their names, for commands that take either, and what must hold before any of them is changed."""

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from optbench.config import check_sweep_name
from optbench.errors import UserError
from optbench.store import RunDirectory, find
from optbench.store.lock import look
from optbench.sweep.launchers import slurm
from optbench.sweep.plan import Plan, plans
from optbench.sweep.status.activity import at_work


@dataclass(frozen=True)
class Named:
    """What the names of a command line mean.

    sweeps: those that are named. singles: the runs that are named. of_sweeps: the other runs of the sweeps.
    """

    sweeps: list[Plan]
    singles: list[RunDirectory]
    of_sweeps: list[RunDirectory]

    @property
    def runs(self) -> list[RunDirectory]:
        """All runs, each once."""
        return [*self.singles, *self.of_sweeps]


def named(results_dir: str, names: Sequence[str]) -> Named:
    """The sweeps and runs called ``names``; runs that a sweep only plans, and that have no directory, are left out.

    A sweep has its whole name; a run its id, or the beginning or end of only one. Raises UserError for what is neither.
    """
    sweeps: dict[str, Plan] = {}
    singles: dict[str, RunDirectory] = {}
    of_sweeps: dict[str, RunDirectory] = {}
    for name in names:
        check_sweep_name(name, longest=255)  # a run that was submitted alone is a sweep of its own id
        plan = Plan(results_dir, name)
        if plan.exists:
            sweeps[name] = plan
            of_sweeps |= {entry.run_id: plan.directory(entry.run_id) for entry in plan.entries()}
            continue
        try:
            run = find(results_dir, name)
        except UserError as error:
            raise UserError(f"no sweep {name!r} in {plan.path.parent}, and {error}") from error
        singles[run.run_id] = run
    rest = [run for run_id, run in of_sweeps.items() if run_id not in singles and run.path.is_dir()]
    return Named(list(sweeps.values()), list(singles.values()), rest)


def listing(results_dir: str, runs: Iterable[RunDirectory]) -> dict[str, set[str]]:
    """The sweeps that list any of the runs, by name, each with the ids of all that it lists."""
    wanted = {run.run_id for run in runs}
    found = {plan.name: {entry.run_id for entry in plan.entries()} for plan in plans(results_dir)}
    return {name: listed for name, listed in found.items() if listed & wanted}


def refuse_at_work(command: str, runs: Iterable[RunDirectory], sweeps: Collection[Plan] = ()) -> None:
    """Raise UserError where somebody is at work on one of the runs, or on one of the sweeps and may take its runs."""
    for plan in sweeps:
        if who := at_work(plan, slurm.queued):
            raise UserError(
                f"{command}: {who} is at work on the sweep {plan.name}; accepted: when it has ended, or after "
                f"`{plan.command('cancel')}`"
            )
    for run in runs:
        held = look(run.lock)
        if held is not None and not held.abandoned:
            raise UserError(
                f"{command}: process {held.pid} on {held.host} is at work on the run {run.run_id}; accepted: when it has ended"
            )


def confirmed(question: str, yes: bool) -> bool:
    """Whether a person, asked at the terminal, says yes; with ``yes``, the option, nobody is asked.

    Raises UserError where there is no terminal to ask at.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nothing is done without an answer; accepted where there is no terminal: --yes")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def in_bytes(size: float) -> str:
    """A size for a person: 512 B, 1.5 kB, 2.3 GB; in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def counted(number: int, what: str) -> str:
    """Such as "1 run" or "3 runs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
