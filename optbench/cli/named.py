"""Find runs and sweeps by name, for commands that take either, and check that none of them is in use."""

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
    """The runs and sweeps that a command line names.

    sweeps: the named sweeps. singles: the named runs. of_sweeps: the other runs of the sweeps.
    """

    sweeps: list[Plan]
    singles: list[RunDirectory]
    of_sweeps: list[RunDirectory]

    @property
    def runs(self) -> list[RunDirectory]:
        """All runs, each once."""
        return [*self.singles, *self.of_sweeps]


def named(results_dir: str, names: Sequence[str]) -> Named:
    """The sweeps and runs called ``names``; runs without a directory, which a sweep only plans, are left out.

    A sweep is given by its full name, and a run by its id or a unique beginning or end of it. Raises UserError for a name
    that is neither.
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
    """The sweeps that list any of the runs, by name, each with the ids of all runs that it lists."""
    wanted = {run.run_id for run in runs}
    found = {plan.name: {entry.run_id for entry in plan.entries()} for plan in plans(results_dir)}
    return {name: listed for name, listed in found.items() if listed & wanted}


def refuse_at_work(command: str, runs: Iterable[RunDirectory], sweeps: Collection[Plan] = ()) -> None:
    """Raise UserError if a process works on one of the runs, or may take a run of one of the sweeps."""
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
    """Ask at the terminal; True if the answer is yes. ``yes``: the option --yes, with which nobody is asked.

    Raises UserError if there is no terminal.
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
    """A size in bytes for display: 512 B, 1.5 kB, 2.3 GB; in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def counted(number: int, what: str) -> str:
    """A number with its noun, such as "1 run" or "3 runs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
