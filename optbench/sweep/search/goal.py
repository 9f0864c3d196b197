"""The goal of a search: the result of a run by which a search judges it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optbench.analysis.statistics.crossings import at_position, crossing
from optbench.errors import UserError, nearest
from optbench.store import RunDirectory
from optbench.store.measured import finite, higher_is_better, is_diagnostic
from optbench.sweep.grid.expand import Cell
from optbench.sweep.search.method import Seen, State
from optbench.sweep.search.record import Chosen

#: All data have a validation split.
DEFAULT = "validation_loss"
# Results that no choice may depend on, because they are for the report of what was chosen.
_HELD_BACK = "test_"


@dataclass(frozen=True)
class Goal:
    """``metric`` at the end of a run; with a ``target``, the steps until it is reached.

    The steps are interpolated between two evaluations, and for an accuracy from step 0 on, as by
    `optbench.analysis.statistics.targets.times_to_target`.

    first: the loss, ln(classes), or the accuracy, 1 / classes, of a classifier that knows nothing; None for other metrics and
    data.
    """

    metric: str
    target: float | None = None
    first: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], samples: Sequence[Cell]) -> "Goal":
        """The goal of the options ``goal`` and ``target``; raises UserError for a result by which nothing may be chosen."""
        metric = metric_of(options)
        if metric.startswith(_HELD_BACK) or is_diagnostic(metric):
            raise UserError(
                f"search.goal={metric}: nothing is chosen by the test set; accepted: validation_loss, validation_accuracy, "
                "train_loss, train_accuracy, or another result in the history"
            )
        classes = {_classes(cell) for cell in samples}
        return cls(metric, options.get("target"), _chance(metric, classes.pop() if len(classes) == 1 else None))

    @property
    def higher(self) -> bool:
        """True if a larger value of the goal is better: a time to a target is better if it is smaller."""
        return self.target is None and higher_is_better(self.metric)

    @property
    def untrained(self) -> float | None:
        """The value of the goal before the first step; None if unknown, as of a time to a target."""
        return self.first if self.target is None else None

    def of_summary(
        self, chosen: Chosen, first_round: int, summary: Mapping[str, Any], directory: RunDirectory, evaluations: bool
    ) -> Seen:
        """The result of a run that has ended."""
        state: State = "diverged" if summary.get("status") == "diverged" else "done"
        steps = int(summary.get("steps") or 0)
        seconds = finite(summary.get("seconds_training"))
        rows = self.evaluations(directory) if evaluations or self.target is not None else ()
        if state == "done" and self.metric not in summary and self.target is None:
            there = [name for name in summary if isinstance(summary[name], float) and not name.startswith(_HELD_BACK)]
            raise UserError(
                f"search.goal={self.metric}: no result of run {chosen.run_id}; {nearest(self.metric, there)}"
            )
        value, censored = finite(summary.get(self.metric)), False
        if self.target is not None:
            value, censored = self._time(rows, steps, chosen.planned, state == "diverged")
        elif state == "diverged":
            value = None
        elif value is None:
            state = "diverged"  # it ended at a loss that is not finite
        planned = max(chosen.planned, steps)
        horizon = planned if self.target is not None else None
        ended = (steps, planned, seconds, self.untrained, horizon)
        return Seen(chosen.pick, first_round, state, value, censored, rows, *ended)

    def of_history(self, chosen: Chosen, first_round: int, directory: RunDirectory) -> Seen:
        """The result so far of a paused run."""
        rows = self.evaluations(directory)
        value = finite(rows[-1][1]) if rows else None
        steps = rows[-1][0] if rows else 0
        censored = False
        if self.target is not None:
            value, censored = self._time(rows, steps, chosen.planned, False)
        horizon = chosen.planned if self.target is not None else None
        so_far = (steps, chosen.planned, None, self.untrained, horizon)
        return Seen(chosen.pick, first_round, "paused", value, censored, rows, *so_far)

    def evaluations(self, directory: RunDirectory) -> tuple[tuple[int, float], ...]:
        """(step, value) of each evaluation so far; the worst value for one that was not finite, which JSON cannot hold."""
        rows = [row for row in directory.rows() if row.get("event") == "evaluation" and self.metric in row]
        worst = -math.inf if higher_is_better(self.metric) else math.inf
        numbers = [(int(row["step"]), finite(row[self.metric])) for row in rows]
        return tuple((step, worst if value is None else value) for step, value in numbers)

    def _time(self, rows: Sequence[tuple[int, float]], steps: int, planned: int, diverged: bool) -> tuple[float, bool]:
        """The interpolated step at which the target is reached; otherwise the end of the run, censored."""
        assert self.target is not None
        higher = higher_is_better(self.metric)
        guess = self.first if higher and self.first is not None else math.nan
        position = crossing(np.array([value for _, value in rows]), self.target, higher, guess)
        if math.isfinite(position):
            return at_position(np.array([step for step, _ in rows]), position), False
        # A run that has diverged would not have reached it by its horizon either.
        return float(max(planned, steps) if diverged else steps), True


def metric_of(options: Mapping[str, Any]) -> str:
    """The option ``goal``; "auto" is that of searches that began before the default had its name."""
    metric = str(options.get("goal", DEFAULT))
    return DEFAULT if metric == "auto" else metric


def _chance(metric: str, classes: int | None) -> float | None:
    if classes is None or "gap_" in metric:
        return None
    return math.log(classes) if metric.endswith("loss") else 1 / classes if metric.endswith("accuracy") else None


def _classes(cell: Cell) -> int | None:
    size = cell.config["dataset"]["info"].get("size") or {}
    classes = size.get("classes")
    return classes if isinstance(classes, int) and classes > 1 else None
