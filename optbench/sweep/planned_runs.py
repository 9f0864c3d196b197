"""The cells of a sweep as runs of the store: their states, and the runs that must be trained."""

from collections import Counter
from collections.abc import Mapping, Sequence

from optbench.config import Config
from optbench.provenance import Standing, Vintages, in_words
from optbench.store import RunDirectory, tidy
from optbench.store.files import sync_file_system
from optbench.store.lock import look
from optbench.store.run_directory import FINISHED
from optbench.sweep.grid.expand import Cell
from optbench.sweep.plan import Entry, Plan
from optbench.sweep.reset import reset

# The states that each value of `retry` starts again; "stale" depends on the code of a run, not on its state.
_RETRIED: dict[str, tuple[str, ...]] = {
    "none": (),
    "failed": ("failed",),
    "diverged": ("diverged",),
    "stale": (),
    "all": ("failed", "diverged"),
}


class States:
    """The states of the runs of a sweep, by run id, in the order of its cells.

    stale: of those that were finished or started by code that is not known to equal the current code, the standing of it.
    restarts_stale: runs of other code are trained again, without being asked for.
    """

    def __init__(
        self, plan: Plan, state: Mapping[str, str], stale: Mapping[str, Standing], restarts_stale: bool = False
    ) -> None:
        self.plan, self.state, self.stale, self._restarts_stale = plan, state, stale, restarts_stale
        self.states = Counter(state.values())

    def tidy(self) -> None:
        """Remove the files that killed processes have left in runs that have ended."""
        for run_id, state in self.state.items():
            if state in ("done", "diverged", "failed"):
                tidy(self.plan.directory(run_id))

    def in_words(self) -> str:
        """A summary such as "48 runs: 12 done (3 of other code: retry=stale runs them again), 36 new"."""
        runs = "1 run" if len(self.state) == 1 else f"{len(self.state)} runs"
        return f"{runs}: " + ", ".join(f"{count} {state}{self._code(state)}" for state, count in self.states.items())

    def _code(self, state: str) -> str:
        words = in_words(standing for run_id, standing in self.stale.items() if self.state[run_id] == state)
        if not words:
            return ""
        return f" ({words})" if self._restarts_stale else f" ({words}: retry=stale runs them again)"


class PlannedRuns(States):
    """The cells of a sweep as runs of the store; ``to_do``: the ids of those that must be trained.

    paused: train those that a search has paused, too.
    """

    def __init__(self, plan: Plan, cells: Sequence[Cell], force: bool, retry: str, paused: bool = True) -> None:
        self._force, self._retry = force, retry
        self.configs: dict[str, Config] = {}
        self.entries: list[Entry] = []
        states: dict[str, str] = {}
        stale: dict[str, Standing] = {}
        vintages = Vintages(plan.results_dir)
        for cell in cells:
            run_id = cell.run_id
            self.configs[run_id] = cell.config
            self.entries.append(Entry(run_id, dict(word.split("=", 1) for word in cell.overrides if "=" in word)))
            states[run_id], standing = _look_at(plan.directory(run_id), cell.config, vintages)
            if standing != "current":
                stale[run_id] = standing
        super().__init__(plan, states, stale, restarts_stale=retry == "stale" or force)
        left_alone = {"running", *(() if force else {*FINISHED, "failed"} - {*_RETRIED[retry]})}
        left_alone |= set() if paused else {"paused"}
        asked = self.stale if retry == "stale" else {}
        self.to_do = [
            run_id
            for run_id, state in self.state.items()
            if state not in left_alone or (run_id in asked and state != "running")
        ]

    def freeze(self) -> None:
        """Write the configuration of every run of ``to_do`` into its directory, and mark it as pending."""
        for run_id in self.to_do:
            config = self.plan.in_group(self.configs[run_id])
            self.plan.directory(run_id).create(config, replace=True, sync=False)
        if self.to_do:
            # Before the plan names them: it must not list a run that a loss of power has left without its configuration.
            sync_file_system(self.plan.results_dir / "runs")
        if self._retry == "stale":
            begun = [self.plan.directory(run_id) for run_id in self.to_do if run_id in self.stale]
            reset(begun, (*FINISHED, "failed", "preempted", "paused", "running", "pending"), restart=True)
        # A run that had ended and is planned nevertheless was asked for again, or has lost its summary. Runs that have ended
        # since are kept: a worker of a command that was killed may have finished its run meanwhile.
        planned = {run_id: self.plan.directory(run_id) for run_id in self.to_do}
        ended = [run for run_id, run in planned.items() if self.state[run_id] in (*FINISHED, "failed")]
        reset(ended, (*FINISHED, "failed"), restart=self._force)
        reset((run for run in planned.values() if run.summary() is None), FINISHED)


def _look_at(directory: RunDirectory, config: Config, vintages: Vintages) -> tuple[str, Standing]:
    """The state of a run, and the standing of the code that has finished or started it."""
    if not (directory.path / "status.json").is_file():
        return "new", "current"
    state: str = directory.status().state
    if state in FINISHED:
        summary = directory.summary()
        if summary is not None:
            return state, vintages.standing(directory.run_id, summary.get("code"), config)
        state = "pending"
    if state == "running":
        held = look(directory.lock)
        state = "lost" if held is None or held.abandoned else "running"
    return state, vintages.of_begun(directory, config)
