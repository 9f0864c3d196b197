"""`sync`: copy runs again from the store to the trackers that they name."""

from collections.abc import Mapping, Sequence
from typing import Any

from optbench.cli.parser import Parser
from optbench.config import Config, check_sweep_name, settle, works_as
from optbench.errors import UserError
from optbench.store import RunDirectory, find, run_directories
from optbench.sweep.plan import Plan

_SYNC = """\
Mirror runs again from the store to the trackers they name. For a sweep, these are all runs that have ended; those that go to
wandb are grouped there under the sweep's name, and a user who is logged in gets a workspace with panels.
"""


def sync(words: Sequence[str]) -> int:
    """`sync [NAME ...]`: mirror runs again from the store to their trackers, and make the workspaces of sweeps."""
    parser = Parser(prog="optbench sync", description=_SYNC)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="sweeps, or run ids or their beginnings; none: every run that ended; tracker.OPTION=VALUE: where to",
    )
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    settings = [word for word in given.names if "=" in word]
    names = [word for word in given.names if "=" not in word]
    for word in settings:
        if not word.startswith(("tracker=", "tracker.")):
            raise UserError(f"{word}: not a setting of the command sync; accepted: tracker.OPTION=VALUE")
    # All names are looked up first, so that a mistake is reported before anything is sent.
    chosen = [(name, _sweep(given.results_dir, name)) for name in names]
    singles = [find(given.results_dir, name) for name, plan in chosen if plan is None]
    if not names:
        singles = [directory for directory in run_directories(given.results_dir) if directory.is_finished]
    sweeps = []
    for plan in (plan for _, plan in chosen if plan is not None):
        runs = [plan.directory(entry.run_id) for entry in plan.entries()]
        sweeps.append((plan, runs, [directory for directory in runs if directory.is_finished]))
    trackers = {
        run.path: _tracker(run, settings) for run in [*singles, *(run for _, _, ended in sweeps for run in ended)]
    }
    count, failed = len(singles), sum(not _mirror(directory, trackers[directory.path]) for directory in singles)
    for plan, runs, ended in sweeps:
        count += len(ended)
        failed += sum(not _mirror(directory, trackers[directory.path], plan) for directory in ended)
        if len(ended) < len(runs):
            print(f"{plan.name}: {len(runs) - len(ended)} of its {len(runs)} runs have not ended and are left alone")
        _workspace(plan, [(run, trackers[run.path]) for run in ended])
    print(f"{count} runs, {failed} not mirrored")
    return 1 if failed else 0


def _sweep(results_dir: str, name: str) -> Plan | None:
    """The sweep called ``name``; None if that is a run, or does not exist."""
    check_sweep_name(name, longest=255)
    # A run that was submitted alone is also a sweep with the run id as its name.
    if RunDirectory.at(results_dir, name).path.is_dir():
        return None
    try:
        return Plan.find(results_dir, name)
    except UserError:
        return None


def _tracker(directory: RunDirectory, settings: Sequence[str]) -> Config:
    """The tracker that the run names, within the limits of `optbench.config.settle`."""
    return settle("tracker", directory.config().get("tracker"), settings, f"sync {directory.run_id}")


def _mirror(directory: RunDirectory, tracker: Mapping[str, Any], plan: Plan | None = None) -> bool:
    """Mirror one run and print the destination; True if that worked."""
    from optbench import trackers
    from optbench.trackers import workspace

    worked = True
    try:
        if plan is not None and workspace.is_wandb(tracker):
            tracker = {**tracker, "group": workspace.group_of(tracker, plan)}
        done = trackers.sync(directory.path, tracker) if works_as(tracker) != "none" else "tracker=none"
    except UserError as error:
        done, worked = f"not mirrored: {error}", False
    print(done if done.startswith(directory.run_id) else f"{directory.run_id}: {done}", flush=True)
    return worked


def _workspace(plan: Plan, runs: Sequence[tuple[RunDirectory, Mapping[str, Any]]]) -> None:
    """Make the sweep's workspace and print its address, or the reason if there is none; the runs are mirrored anyway."""
    from optbench.trackers import workspace

    try:
        lines = workspace.create(plan, runs)
    except UserError as error:
        lines = [str(error)]
    for line in lines:
        print(f"{plan.name}: {line}")
