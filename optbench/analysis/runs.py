"""Runs in a notebook: state, configuration, results and history of one run or of several, and a table of them."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from optbench.config import Config, name_of, optimizer_name, target_of
from optbench.store import RunDirectory, find, load
from optbench.store.run_directory import FINISHED
from optbench.sweep.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

_GRADED = ("class", "class_per_step")


class Run:
    """One run, read from its directory at every access, because a run that is being continued changes.

    ``float(run)`` is its `metric`, for programs that optimize a number.
    """

    def __init__(self, directory: RunDirectory, config: Config | None = None) -> None:
        self._directory, self._config = directory, config

    @classmethod
    def find(cls, name: str, results_dir: str | Path = "results") -> "Run":
        """The run whose id is ``name``, or the only one whose id begins or ends with it; raises UserError."""
        return cls(find(results_dir, name))

    @property
    def run_id(self) -> str:
        """The run id."""
        return self._directory.run_id

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._directory.path

    @property
    def state(self) -> str:
        """done or diverged; pending, running, preempted, paused or failed; or new, if nothing has been written."""
        return self._directory.status().state if (self.path / "status.json").is_file() else "new"

    @property
    def why(self) -> str:
        """The reason for the run's state, in a line, or empty."""
        return self._directory.status().why or str(self.summary.get("why") or "") if self.state != "new" else ""

    @property
    def config(self) -> Config:
        """The resolved configuration, nested; raises `optbench.store.StoreError` if it cannot be read."""
        if self._config is not None and not (self.path / "config.yaml").is_file():
            return self._config
        return self._directory.config()

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json; empty unless the run is done or diverged."""
        return (self._directory.summary() or {}) if self.state in FINISHED else {}

    @property
    def metric_name(self) -> str:
        """The name of the result in `metric`: ``budget.target_metric``, which is validation_accuracy by default.

        If the data have no classes and no target is set, it is validation_loss. It depends only on the configuration, so that
        all runs of a comparison have the same.
        """
        config = self.config
        budget, reconstructs = config["budget"], config["model"]["info"].get("reconstructs")
        graded = target_of(config["dataset"]) in _GRADED and not reconstructs
        return str(budget["target_metric"]) if graded or budget["target"] is not None else "validation_loss"

    @property
    def metric(self) -> float:
        """The value of `metric_name` in the last evaluation: an accuracy in [0, 1], or a loss.

        For a diverged run the worst possible value: -inf for an accuracy, inf for a loss. NaN unless the run has ended.
        """
        from optbench.analysis.frames import worst

        state, name = self.state, self.metric_name
        if state not in FINISHED:
            return math.nan
        value = self.summary.get(name) if state == "done" else None
        # A missing loss was not finite: JSON has no such number.
        return float(value) if value is not None else worst(name)

    def __float__(self) -> float:
        return self.metric

    def history(self) -> "pd.DataFrame":
        """The rows of the history so far, one for each event: training losses, evaluations, probes."""
        frame: pd.DataFrame = self._directory.history_table().to_pandas()
        return frame

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint; None if there is none, or if it was pruned."""
        return self._directory.checkpoint if self._directory.checkpoint.is_file() else None

    @property
    def log(self) -> Path:
        """The path of the log, which may not exist."""
        return self._directory.log

    def __repr__(self) -> str:
        measured = f", {self.metric_name}={self.metric:.6g}" if self.state in FINISHED else ""
        return f"Run({self.run_id!r}, {self.state}{measured})"

    def _repr_html_(self) -> str:
        return _html([self], [f"files: {self.path}"])


class Runs(Sequence[Run]):
    """Several runs in a fixed order, such as those of a sweep. ``name``: of the sweep."""

    def __init__(self, runs: Iterable[Run], results_dir: str | Path = "results", name: str = "") -> None:
        self._runs = list(runs)
        self.results_dir, self.name = Path(results_dir), name

    @classmethod
    def find(cls, name: str, results_dir: str | Path = "results") -> "Runs":
        """The runs of the sweep, or of the experiment, called ``name``; raises UserError."""
        plan = Plan.find(results_dir, name)
        return cls((Run(plan.directory(entry.run_id)) for entry in plan.entries()), results_dir, plan.name)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> "Runs": ...

    def __getitem__(self, index: int | slice) -> "Run | Runs":
        if isinstance(index, slice):
            return Runs(self._runs[index], self.results_dir, self.name)
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @property
    def states(self) -> dict[str, int]:
        """The number of runs in each state."""
        return dict(Counter(run.state for run in self))

    def frame(self) -> "pd.DataFrame":
        """One row for each run, in order, with the columns of `optbench.load`; runs of a dry run are left out."""
        return load(self.results_dir, [run.run_id for run in self if run.path.is_dir()])

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items())
        return f"Runs({self.name!r}, {len(self)}{f': {counts}' if counts else ''})"

    def _repr_html_(self) -> str:
        return _html(self, [repr(self)])


def _html(runs: Sequence[Run], lines: Sequence[str]) -> str:
    """A table with a row for each run, and ``lines`` below it; all text is escaped."""
    import pandas as pd

    from optbench.analysis.report.page import MOST_ROWS, Page

    # Only the shown runs are read.
    shown = pd.DataFrame([_row(run) for run in runs[:MOST_ROWS]])
    page = Page("")
    page.table(shown)
    if len(runs) > MOST_ROWS:
        page.paragraph(f"The first {MOST_ROWS} of {len(runs)} runs; frame() has all of them.")
    for line in lines:
        page.paragraph(line)
    return page.body()


def _row(run: Run) -> dict[str, Any]:
    config, summary = run.config, run.summary
    return {
        "run": run.run_id,
        "optimizer": optimizer_name(config),
        "model": name_of(config["model"]),
        "dataset": name_of(config["dataset"]),
        "batch": config["batch"],
        "seed": config["seed"],
        "state": run.state,
        "why": run.why,
        run.metric_name: run.metric,
        **{key: summary.get(key) for key in ("test_loss", "learning_rate", "steps", "seconds_training")},
    }
