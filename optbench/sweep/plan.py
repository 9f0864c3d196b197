"""A sweep's plan: a file that lists its runs, so that the same command continues it."""

import shlex
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from optbench.config import Config, check_sweep_name
from optbench.errors import UserError, nearest
from optbench.moved import current_key
from optbench.store import RunDirectory, RunLock, StoreError
from optbench.store.files import (
    append_line,
    component,
    read_lines,
    read_object,
    refuse_link,
    refuse_links_in,
    remove_orphans,
    reporting,
    to_json,
    write_atomically,
)

_PATIENCE_SECONDS = 120.0
#: The files that describe the latest start of a sweep.
STARTED = ("sweep.json", "code.diff", "composed.json")


@dataclass(frozen=True)
class Entry:
    """One run of a plan. ``cell``: its place in the grid, as the command line spells it ({"batch": "64"})."""

    run_id: str
    cell: dict[str, str]


class Plan:
    """The folder of one sweep, RESULTS/sweeps/NAME.

    plan.jsonl    one line for each run; grows if the same sweep is started with a wider grid
    sweep.json    its latest start: the command, the launcher with its options, the version of the code
    jobs.jsonl    one line for each start of workers: the host and process, or the ids of Slurm jobs
    picks.jsonl   of a search: the cells that it has chosen (optbench.sweep.search.record)
    composed.json what the same command would compose (optbench.sweep.cell_cache)
    jobs/         the inputs and logs of Slurm jobs

    Raises UserError if ``name`` is not a plain name, and StoreError if the folder is a symbolic link.
    """

    def __init__(self, results_dir: str | Path, name: str) -> None:
        self.results_dir = Path(results_dir)
        self.name = name
        self.path = self.results_dir / "sweeps" / component(name, "sweep")
        refuse_link(self.path)

    def __repr__(self) -> str:
        return f"Plan({str(self.results_dir)!r}, {self.name!r})"

    @classmethod
    def find(cls, results_dir: str | Path, name: str, scale: str | None = None) -> "Plan":
        """The sweep called ``name``, or the latest sweep of the experiment ``name``, at ``scale`` (None: any).

        Raises UserError, with similar names, if there is none.
        """
        check_sweep_name(name, longest=255)  # the sweep of a run that was submitted alone has the run id as its name
        if scale is None and (plan := cls(results_dir, name)).exists:
            return plan
        known = plans(results_dir)
        of_experiment = [other for other in known if other.information().get("experiment") == name]
        # A search of an experiment has another name than its grid.
        found = [other for other in of_experiment if scale in (None, other.information().get("scale"))]
        if found:
            return max(found, key=lambda other: (other.path / "sweep.json").stat().st_mtime)
        place = Path(results_dir) / "sweeps"
        if scale is None:
            raise UserError(f"no sweep {name!r} in {place}; {nearest(name, [other.name for other in known])}")
        scales = [str(other.information()["scale"]) for other in of_experiment if other.information().get("scale")]
        raise UserError(f"--scale {scale}: no sweep of {name} at this scale in {place}; {nearest(scale, scales)}")

    @property
    def exists(self) -> bool:
        """True if the sweep has a plan."""
        return (self.path / "plan.jsonl").is_file()

    def command(self, word: str) -> str:
        """The command line of ``word``, such as "status", for this sweep."""
        return f"python -m optbench {word} {shlex.quote(self.name)}{self.place}"

    @property
    def place(self) -> str:
        """The words that give a command the results folder, if it is not the default."""
        folder = str(self.results_dir)
        return "" if folder == "results" else f" --results-dir {shlex.quote(folder)}"

    def entries(self) -> list[Entry]:
        """The runs, in the order in which they were planned; none if there is no plan yet.

        Raises StoreError for a line that names no run, or a run outside of the results folder.
        """
        path = self.path / "plan.jsonl"
        entries = []
        now = cache(current_key)
        for number, line in enumerate(read_lines(path), start=1):
            try:
                run_id, cell = component(line["run_id"], "run id"), line["cell"]
                entries.append(Entry(run_id, {now(str(key)): str(value) for key, value in cell.items()}))
            except (KeyError, AttributeError, UserError) as error:
                raise StoreError(f"{path} is damaged: line {number} names no run ({error})") from error
        return entries

    def directory(self, run_id: str) -> RunDirectory:
        """The directory of one of its runs."""
        return RunDirectory.at(self.results_dir, run_id)

    def in_group(self, config: Config) -> Config:
        """``config`` with the name of the sweep as the group of a tracker that has groups and was given none."""
        if config["tracker"].get("group", "") is not None:
            return config
        return {**config, "tracker": {**config["tracker"], "group": self.name}}

    def extend(self, entries: Iterable[Entry], information: Mapping[str, Any]) -> int:
        """Add the runs that are not in the plan yet, and replace sweep.json; returns how many were added.

        If two commands call this at the same time, one waits for the other.
        """
        with self.locked():
            added = self.add(entries)
            write_atomically(self.path / "sweep.json", to_json({"name": self.name, **information}, indent=2))
        return added

    def add(self, entries: Iterable[Entry]) -> int:
        """Add the runs that are not in the plan yet; returns how many. The caller has the plan's lock (`locked`)."""
        runs = {entry.run_id: entry for entry in self.entries()}
        known = len(runs)
        for entry in entries:
            runs.setdefault(entry.run_id, entry)
        if len(runs) > known or not self.exists:
            # All lines are written anew, because a crash may have cut the last one.
            write_atomically(self.path / "plan.jsonl", _content(runs.values()))
        return len(runs) - known

    def withdraw(self, run_ids: Collection[str], started: Mapping[str, bytes]) -> None:
        """Remove the runs from the plan; ``started``: the earlier content of the files of `STARTED`.

        The folder is removed if nothing of the sweep remains.
        """
        with self.locked():
            rest = [entry for entry in self.entries() if entry.run_id not in run_ids]
            if not rest and not started:
                with reporting("remove", self.path):
                    shutil.rmtree(self.path)
                return
            if run_ids:
                write_atomically(self.path / "plan.jsonl", _content(rest))
            for name in STARTED:
                if name in started:
                    write_atomically(self.path / name, started[name])
                else:
                    with reporting("remove", self.path / name):
                        (self.path / name).unlink(missing_ok=True)

    def information(self) -> dict[str, Any]:
        """The content of sweep.json; empty if there is none."""
        try:
            return read_object(self.path / "sweep.json")
        except FileNotFoundError:
            return {}

    def note_job(self, **job: Any) -> None:
        """Append a line to jobs.jsonl."""
        append_line(self.path / "jobs.jsonl", {**job, "since": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})

    def jobs(self) -> list[dict[str, Any]]:
        """The records of `note_job`, oldest first."""
        return read_lines(self.path / "jobs.jsonl")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the plan; waits for another process that holds it."""
        refuse_links_in(self.path)
        with reporting("create", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with RunLock(self.path / "plan.lock").waited_for(_PATIENCE_SECONDS):
            remove_orphans(self.path)
            yield


def plans(results_dir: str | Path) -> list[Plan]:
    """All sweeps of a results folder, by name."""
    folder = Path(results_dir) / "sweeps"
    if not folder.is_dir():
        return []
    # Hidden folders are being removed.
    named = (path for path in sorted(folder.iterdir()) if not path.is_symlink() and path.name[0] != ".")
    found = (Plan(results_dir, path.name) for path in named)
    return [plan for plan in found if plan.exists]


def _content(entries: Iterable[Entry]) -> bytes:
    return b"".join(to_json(asdict(entry)) + b"\n" for entry in entries)
