"""A study: the runs of one sweep, for its analysis."""

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optbench.store import RunDirectory, load_history
from optbench.store.columns import values
from optbench.store.index import Look
from optbench.store.reading import frame_of, ids_of_runs, integers
from optbench.store.run_row import COMMITS, ENVIRONMENT, environment_of
from optbench.sweep.plan import Plan
from optbench.sweep.status.survey import AT_REST, IN_HAND, Phase, Survey, survey

_WORST_FIRST: tuple[Phase, ...] = ("failed", "lost", "diverged", "preempted", "missing")


@dataclass(frozen=True)
class Measurement:
    """One measurement of a probe: ``values`` are its numbers by name; `arrays` reads its arrays by name."""

    run: RunDirectory
    probe: str
    step: int
    values: dict[str, Any]
    options: dict[str, Any]
    file: str | None

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of RUN/probes/PROBE-STEP.npz, none if the probe writes none; loading cannot run code."""
        return self.run.measurements.arrays(self.file) if self.file else {}


class Study:
    """The runs of one sweep.

    name: of the experiment, or of the sweep if it has no experiment. scale: smoke, laptop, full; None if it has no scales.
    plan: of the sweep. results_dir: the folder of its runs.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.results_dir = plan.results_dir
        self.information = plan.information()
        self.name = str(self.information.get("experiment") or plan.name)
        self.scale: str | None = self.information.get("scale")
        self.cells = {entry.run_id: entry.cell for entry in plan.entries()}

    @classmethod
    def read(cls, results_dir: str | Path, name: str, scale: str | None = None) -> "Study":
        """The study of the sweep ``name``, or of the sweep of the experiment ``name`` at ``scale`` (None: the latest).

        Raises UserError, with similar names, if there is none.
        """
        return cls(Plan.find(results_dir, name, scale))

    @cached_property
    def survey(self) -> Survey:
        """The state of every run, read from the store and the queue."""
        from optbench.sweep.launchers import slurm

        return survey(self.plan, slurm.queued, look=self.look)

    @cached_property
    def look(self) -> Look:
        """The look at the results folder that is common to the states and the results of the runs."""
        return Look(self.results_dir)

    @cached_property
    def _there(self) -> list[str]:
        """The runs that have a directory."""
        seen = set(ids_of_runs(self.results_dir))
        return [run_id for run_id in self.cells if run_id in seen or self.plan.directory(run_id).path.is_dir()]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row for each run, in the order of the plan, including pending, failed and diverged runs.

        The columns of `optbench.store.load` (status, the summary, ``config.KEY``); ``cell.KEY``, the place in the grid (numbers
        as numbers); and state and why as in `status`: running, stuck, queued, lost, missing, ...
        """
        there = self._there
        frame = frame_of(self.look, there, search_spaces=True).set_index("run_id").reindex(list(self.cells)).copy()
        absent = ~frame.index.isin(there)
        frame.loc[absent, "status"] = "pending"
        frame.loc[absent, ["why", "since", "problem"]] = "", "", "its directory is gone"
        frame = frame.rename_axis("run_id").reset_index()
        doing = {run.run_id: run for run in self.survey.runs}
        keys = dict.fromkeys(key for cell in self.cells.values() for key in cell)
        value = cache(_value)
        columns = {f"cell.{key}": [value(cell.get(key)) for cell in self.cells.values()] for key in keys}
        columns["state"] = [doing[run_id].state for run_id in self.cells]
        columns["why"] = [doing[run_id].why for run_id in self.cells]
        whole = pd.concat([frame.drop(columns="why"), pd.DataFrame(columns, index=frame.index)], axis=1)
        # In one block: pandas warns of a frame of many when columns are added to it.
        return integers(whole).copy()

    def histories(self, columns: Iterable[str] | None = None, runs: Collection[str] | None = None) -> pd.DataFrame:
        """The concatenated histories of all runs, with the first column run_id; only ``columns`` if they are given.

        One row is one event at one step: "event" is train, evaluation, probe, ... ``runs``: only those of these ids.
        """
        chosen = set(self.cells if runs is None else runs)
        return load_history(self.results_dir, [run_id for run_id in self._there if run_id in chosen], columns)

    def measurements(self, run_id: str, probe: str | None = None) -> list[Measurement]:
        """The measurements of all probes, or of ``probe``, in a run, in the order of the steps."""
        run = self.plan.directory(run_id)
        found = [
            Measurement(
                run, row["probe"], row["step"], row.get("values") or {}, row.get("options") or {}, row.get("file")
            )
            for row in run.measurements.rows()
            if probe is None or row["probe"] == probe
        ]
        return sorted(found, key=lambda measurement: measurement.step)

    @property
    def counts(self) -> dict[Phase, int]:
        """The number of runs in each state, also where it is 0."""
        return self.survey.counts

    @property
    def is_over(self) -> bool:
        """True if no run is being trained or waits for training."""
        return self.survey.is_over

    @property
    def open_runs(self) -> int:
        """The number of runs that are neither done nor diverged, nor paused by a search."""
        return len(self.cells) - sum(self.counts[state] for state in AT_REST)

    @property
    def in_hand(self) -> int:
        """The number of runs that are being trained or wait for training."""
        return sum(self.counts[state] for state in IN_HAND)

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return _integers(self.runs, "seed")

    @property
    def trials(self) -> list[int]:
        """The trials of its runs; trial 0 is the defaults."""
        return _integers(self.runs, "trial")

    @property
    def unsuccessful(self) -> pd.DataFrame:
        """The runs that are neither done nor paused, nor in training or waiting: run_id, state, why, and the cell."""
        chosen = self.runs[~self.runs["state"].isin(["done", "paused", *IN_HAND])]
        columns = ["run_id", "state", "why", *[name for name in chosen.columns if name.startswith("cell.")]]
        places = (
            chosen["state"].map({state: place for place, state in enumerate(_WORST_FIRST)}).sort_values(kind="stable")
        )
        return chosen.loc[places.index, columns].reset_index(drop=True)

    @cached_property
    def environments(self) -> list[dict[str, Any]]:
        """The machines and versions of the runs: the distinct contents of environment.json without host, command and code.

        Each with "runs", the number of its runs; the most frequent first.
        """
        found: dict[str, dict[str, Any]] = {}
        for run_id in self.cells:
            environment = self._recorded[run_id][0]
            if environment is not None:
                found.setdefault(repr(environment), {**environment, "runs": 0})["runs"] += 1
        return sorted(found.values(), key=lambda entry: -entry["runs"])

    def commits(self, run_id: str) -> list[str]:
        """The commits of the codes that have trained a run, oldest first, such as "3f9a1c27de with changes"."""
        return self._recorded[run_id][1]

    @cached_property
    def _recorded(self) -> dict[str, tuple[dict[str, Any] | None, list[str]]]:
        """Of each run the environment, without what is of one run only, and the commits; None and none if not recorded."""
        names = (ENVIRONMENT, COMMITS)
        rows, _ = self.look.find(list(self.cells), names, ("environment",))
        found: dict[str, tuple[dict[str, Any] | None, list[str]]] = {}
        if rows is not None:
            parsed = cache(lambda text: None if text is None else json.loads(text))
            for run_id, environment, commits in zip(*(values(rows, name) for name in ("run_id", *names)), strict=True):
                found[run_id] = parsed(environment), parsed(commits) or []
        for run_id in self.cells:
            if run_id not in found:
                found[run_id] = environment_of(self.plan.directory(run_id))
        return found


def _integers(runs: pd.DataFrame, column: str) -> list[int]:
    if column not in runs:
        return []
    return sorted({int(value) for value in pd.to_numeric(runs[column], errors="coerce").dropna()})


def _value(word: str | None) -> Any:
    """A word of the command line as a number or a boolean if it is one, missing if it is null."""
    if word is None or word == "null":
        return math.nan
    if word in ("true", "false"):
        return word == "true"
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            pass
    return word
