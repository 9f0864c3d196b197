"""Merge the results of another machine: copy its finished runs, and the plans that list them.

A results folder from elsewhere may have any origin. A run is copied only if its frozen configuration could have been planned here
and has the run's id (`optbench.config.thaw`). Links and the files of trackers are not copied. Each run appears in one step: it is
copied under a hidden name and renamed. All runs are compared before the first is copied.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from optbench import config as configuration
from optbench.errors import UserError
from optbench.store import RunDirectory, StoreError, run_directories
from optbench.store.files import read_bytes, reason, reporting, sync_file
from optbench.store.lock import look
from optbench.store.removing import incoming, put_in_place, replace_run
from optbench.sweep.plan import Entry, Plan, plans
from optbench.sweep.verification import compare

# The files that are copied. config.json is written anew; all other files belong to one machine or to a tracker.
_FILES = (
    "history.jsonl",
    "history.parquet",
    "environment.json",
    "notes.json",
    "log.txt",
    "summary.json",
    "status.json",
)
_FOLDERS = ("probes", "checkpoints")


@dataclass(frozen=True)
class Merge:
    """The comparison of two results folders, from which a merge follows.

    new: runs that are missing here. unfinished_here: runs that are here, but unfinished. same: ids of runs that agree with
    those here, or have been paused there and are as far here. different: ids of runs that do not agree or cannot be copied, with
    the reason; if there are any, nothing is merged. unfinished_there: the number of runs left out because they are unfinished
    there, and not paused. plans: the sweeps there, with the
    runs that the plan here would gain.
    """

    source: Path
    results_dir: Path
    new: list[RunDirectory] = field(default_factory=list)
    unfinished_here: list[RunDirectory] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    different: dict[str, str] = field(default_factory=dict)
    unfinished_there: int = 0
    plans: dict[str, list[Entry]] = field(default_factory=dict)

    @classmethod
    def look(cls, source: Path, results_dir: Path) -> "Merge":
        """Compare every finished or paused run of ``source`` with the one here; writes nothing."""
        new, unfinished_here, same = [], [], []
        different: dict[str, str] = {}
        unfinished_there = 0
        for there in run_directories(source):
            if not there.is_finished and there.status().state != "paused":
                unfinished_there += 1
                continue
            here = RunDirectory.at(results_dir, there.run_id)
            if problem := _problem(there) or _at_work(here, "here"):
                different[there.run_id] = problem
            elif not here.path.is_dir():
                new.append(there)
            elif not _is_as_far(here, there):
                unfinished_here.append(there)
            elif there.is_finished and (problem := _difference(here, there)):
                different[there.run_id] = problem
            else:
                same.append(there.run_id)
        gained = {plan.name: _gained(plan, results_dir) for plan in plans(source)}
        return cls(source, results_dir, new, unfinished_here, same, different, unfinished_there, gained)

    def carry_out(self) -> None:
        """Copy the runs, then the plans; after a crash the same merge completes it.

        Raises StoreError if the file system refuses, and `RunLocked` if a process has taken a run meanwhile.
        """
        for there in self.new:
            with _copied(there, self.results_dir) as copy:
                put_in_place(copy, RunDirectory.at(self.results_dir, there.run_id).path)
        for there in self.unfinished_here:
            with _copied(there, self.results_dir) as copy:
                replace_run(RunDirectory.at(self.results_dir, there.run_id), copy)
        for name, entries in self.plans.items():
            here = Plan(self.results_dir, name)
            if entries or not here.exists:
                information = (here if here.exists else Plan(self.source, name)).information()
                here.extend(entries, {key: value for key, value in information.items() if key != "name"})


def _is_as_far(here: RunDirectory, there: RunDirectory) -> bool:
    """True if the run here has finished, or, where it is paused there, has a checkpoint that is not known to be earlier."""
    if here.is_finished or there.is_finished:
        return here.is_finished
    ours, theirs = here.status(), there.status()
    if ours.state == "paused" and ours.step is not None and theirs.step is not None:
        return ours.step >= theirs.step
    return here.checkpoint.is_file()


def _problem(there: RunDirectory) -> str:
    """The reason why a run from elsewhere cannot be copied; empty if it can."""
    try:
        if who := _at_work(there, "there"):
            return who
        configuration.thaw(there)
        there.rows()
    except (UserError, StoreError) as error:
        return str(error)
    return ""


def _at_work(run: RunDirectory, where: str) -> str:
    held = look(run.lock)
    return "" if held is None or held.abandoned else f"process {held.pid} on {held.host} is at work on it {where}"


def _difference(here: RunDirectory, there: RunDirectory) -> str:
    """The difference of two finished runs with equal ids in science or in results, except for times; empty if there is none."""
    try:
        ours, theirs = (configuration.science(configuration.thaw(run)) for run in (here, there))
        if ours != theirs:
            return f"other science: {', '.join(key for key in ours if ours[key] != theirs.get(key))}"
        return (compare(here, there, ("here", "there")) or compare(there, here, ("there", "here"))).why
    except (UserError, StoreError) as error:
        return str(error)


def _gained(there: Plan, results_dir: Path) -> list[Entry]:
    configuration.check_sweep_name(there.name, longest=255)
    here = Plan(results_dir, there.name)
    known = {entry.run_id for entry in here.entries()} if here.exists else set()
    return [entry for entry in there.entries() if entry.run_id not in known]


@contextmanager
def _copied(there: RunDirectory, results_dir: Path) -> Iterator[Path]:
    """A complete copy of the run ``there``, on the disk, in a hidden directory beside its future place."""
    with incoming(RunDirectory.at(results_dir, there.run_id).path) as folder:
        copy = RunDirectory(folder)
        with reporting("read", there.path / "config.yaml"):
            config = read_bytes(there.path / "config.yaml")
        copy.create(config.decode())
        for name in _FILES:
            _copy(there.path / name, folder / name)
        for name in _FOLDERS:
            if (there.path / name).is_dir():
                with reporting("create", folder / name):
                    (folder / name).mkdir()
                for path in sorted((there.path / name).iterdir()):
                    if path.is_file() and not path.name.startswith("."):
                        _copy(path, folder / name / path.name)
                sync_file(folder / name)
        sync_file(folder)
        yield folder


def _copy(source: Path, target: Path) -> None:
    """Copy a file, if it exists and is not a link; the copy is on the disk when this returns."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {source}: {reason(error)}") from error
    with os.fdopen(descriptor, "rb") as read, reporting("write", target), target.open("wb") as written:
        shutil.copyfileobj(read, written)
        written.flush()
        os.fsync(written.fileno())
