"""Compare runs: the settings in which they differ, their results, and their curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.names import method
from optbench.analysis.report import run_table
from optbench.analysis.report.page import Page, cell
from optbench.store import RunDirectory, load, load_history

# The settings that distinguish runs in a legend, if they differ in them.
_NAMES = (
    "optimizer.name",
    "model.name",
    "dataset.name",
    "batch",
    "trial",
    "optimizer.learning_rate",
    "schedule.name",
    "seed",
)
_RESULTS = (
    "status",
    "learning_rate",
    "parameters",
    "steps",
    "epochs",
    "seconds_training",
    "examples_per_second",
    "flops_per_step",
    "model_flops_utilization",
    "peak_device_bytes",
    "peak_host_bytes",
    "optimizer_state_bytes",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "gap_loss",
    "gap_accuracy",
    "steps_to_target",
    "seconds_to_target",
    "why",
)
_PROBLEM = {"data": "dataset.name", "loss": "loss.name"}
_PANELS = ("train_loss", "validation_loss", "validation_accuracy", "test_accuracy")


class Comparison:
    """Two runs or more.

    labels: a name for each, as short as possible but unique. differences: one row for each setting in which they differ.
    results: one row for each result.
    """

    def __init__(self, results_dir: str | Path, runs: Sequence[RunDirectory]) -> None:
        self.runs = list(runs)
        self.results_dir = Path(results_dir)
        names = [run.run_id for run in self.runs]
        self._histories = load_history(results_dir, names)
        self._frame = load(results_dir, names)
        self.differences = run_table.differences({run.run_id: run.config() for run in self.runs})
        self.labels = _labels(self.differences, names)
        self.differences.columns = ["setting", *self.labels]

    @property
    def warning(self) -> str:
        """A warning if the runs have different data or losses, so that results cannot be compared; otherwise empty."""
        settings = set(self.differences["setting"])
        apart = [what for what, key in _PROBLEM.items() if key in settings]
        return f"They differ in {' and '.join(apart)}: their results are of different problems." if apart else ""

    @property
    def results(self) -> pd.DataFrame:
        """One row for each result, one column for each run."""
        columns = [
            name for name in _RESULTS if name in self._frame and not self._frame[name].replace("", None).isna().all()
        ]
        table = self._frame[["run_id", *columns]].copy()
        table.insert(0, "run", self.labels)
        return table.set_index("run").T.rename_axis(columns=None).rename_axis("result").reset_index()

    def charts(self) -> list[Chart]:
        """Losses and accuracies at evaluations against steps and against seconds of training."""
        rows = self._histories
        panels = [name for name in _PANELS if name in rows and rows[name].notna().any()]
        charts = []
        for against, x_label in (("step", "Step"), ("seconds", "Seconds of training")):
            if against not in rows or not panels:
                continue
            series = []
            for name in panels:
                for look, (run, label) in enumerate(zip(self.runs, self.labels, strict=True)):
                    own = rows[(rows["run_id"] == run.run_id) & rows[name].notna()]
                    if len(own):
                        title = name.replace("_", " ").capitalize()
                        series.append(Series(label=label, x=own[against], y=own[name], panel=title, look=look))
            title = f"Against {x_label.lower()}"
            charts.append(Chart(name=f"against_{against}", title=title, x_label=x_label, series=series, share_y=False))
        return charts

    def page(self, folder: Path) -> Page:
        """The page for ``folder``."""
        made = Page(f"{len(self.runs)} runs side by side")
        if self.warning:
            made.paragraph(self.warning, "banner")
        made.heading("Settings in which they differ")
        if self.differences.empty:
            made.paragraph("They differ in no setting that can change the result.")
        else:
            made.table(self.differences)
        made.heading("Results")
        made.table(self.results)
        if charts := self.charts():
            made.heading("Curves")
            for chart in charts:
                made.figure(chart)
        made.heading("Runs")
        frame = self._frame.assign(state=self._frame["status"])
        made.runs(run_table.data(frame, self.results_dir, folder))
        return made


def _labels(differences: pd.DataFrame, run_ids: Sequence[str]) -> list[str]:
    rows: dict[Any, dict[Any, Any]] = differences.set_index("setting").to_dict("index") if len(differences) else {}
    names = [name for name in _NAMES if name in rows]
    labels = []
    for run_id in run_ids:
        values = [(name, rows[name][run_id]) for name in names if rows[name][run_id] is not None]
        labels.append(", ".join(_words(name, value) for name, value in values))
    if all(labels) and len({*labels}) == len(labels):
        return labels
    # The end of a run id is a hash of all its settings.
    return [f"{label} ({run_id[-6:]})".strip() for label, run_id in zip(labels, run_ids, strict=True)]


def _words(name: str, value: Any) -> str:
    if name == "optimizer.name":
        return cell(method(value))
    return cell(value) if name.endswith(".name") else f"{name.rpartition('.')[2].replace('_', ' ')} {cell(value)}"
