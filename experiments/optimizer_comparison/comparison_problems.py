"""The problems of the study, the searches on each, and the losses by which trials are said to train."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, outcomes
from optbench.analysis.statistics.ranks import PROBLEMS
from optbench.analysis.statistics.search_intervals import Search, observed, winner
from optbench.analysis.statistics.searches import searches
from optbench.analysis.study import Study
from optbench.sweep.search.record import searched_by

METRIC, RESULT = "validation_loss", "test_loss"
TASK = ["model", "dataset", "batch"]
CELL = ["optimizer", *TASK]
#: A problem: the values of `TASK`.
Key = tuple[Any, ...]


def in_words(problem: Key) -> str:
    """A problem in words."""
    model, dataset, batch = problem
    return f"{model} on {dataset}, batch {batch}"


@dataclass(frozen=True)
class Problems:
    """The searches of all methods on all problems.

    runs: those of the study. history: their evaluations, with the columns run_id, event, step, samples, seconds and `METRIC`.
    choosing: the seeds by which trials are chosen; None: all, as in a study without new seeds. resampled: whether intervals over
    all problems resample them; None: from six on.
    """

    runs: pd.DataFrame
    history: pd.DataFrame
    choosing: Sequence[int] | None
    resampled: bool | None = None

    @classmethod
    def of(cls, study: Study) -> "Problems":
        """The problems of a study; its last `search.confirm` seeds decide nothing."""
        search = searched_by(study.plan.information())
        confirm = int(search.get("confirm") or 0) if search is not None else 0
        choosing = study.seeds[: max(1, len(study.seeds) - confirm)] if confirm else None
        history = study.histories(["event", "step", "samples", "seconds", METRIC])
        return cls(study.runs, history, choosing)

    @cached_property
    def found(self) -> dict[Key, Search]:
        """The search of every method on every problem, by (method, *problem), with `RESULT`."""
        return self.with_results(self.runs.assign(_result=outcomes(self.runs, RESULT)))

    def with_results(self, runs: pd.DataFrame) -> dict[Key, Search]:
        """The same searches with the numbers in the column _result, which may be finite for diverged runs."""
        status = runs["status"].replace("diverged", "done")
        frame = runs.assign(**{METRIC: outcomes(runs, METRIC)}, status=status)
        return searches(frame, CELL, METRIC, "_result", choosing=self.choosing)

    @cached_property
    def keys(self) -> list[Key]:
        """All problems."""
        return sorted({key[1:] for key in self.found})

    @cached_property
    def methods(self) -> list[str]:
        """The methods with a winner on at least one problem."""
        return sorted({key[0] for key, search in self.found.items() if winner(search)})

    @cached_property
    def everywhere(self) -> list[str]:
        """Those of the `methods` that were tried on every problem on which any of them was."""
        tried = {key for key, search in self.found.items() if search.tried.any()}
        return [name for name in self.methods if all((name, *key) in tried for key in self.common)]

    @cached_property
    def common(self) -> list[Key]:
        """The problems on which at least half of the methods have been tried: one that has only begun waits."""
        tried = {key for key, search in self.found.items() if search.tried.any()}
        return [
            key for key in self.keys if 2 * sum((name, *key) in tried for name in self.methods) >= len(self.methods)
        ]

    def without_seed(self, seed: int) -> "Problems":
        """The study without a seed."""
        return replace(self, runs=self.runs[self.runs["seed"] != seed])

    def without_trial(self, trial: int) -> "Problems":
        """The study without a trial of all methods. A method whose winner it was has another one, without new seeds."""
        return replace(self, runs=self.runs[self.runs["trial"] != trial])

    def without_problem(self, problem: str) -> "Problems":
        """The study without a problem, `in_words`; the others are resampled if all are."""
        words = self.runs[TASK].apply(lambda row: in_words(tuple(row)), axis=1)
        return replace(self, runs=self.runs[words != problem], resampled=len(self.common) >= PROBLEMS)

    def of_methods(self, found: Mapping[Key, Any], methods: Sequence[str]) -> dict[str, list[Any]]:
        """For every method its searches on the `common` problems, in one order."""
        return {name: [found[name, *key] for key in self.common] for name in methods}

    def spread(self, key: Key) -> float:
        """The interquartile range of the winners' results on a problem: the unit of differences there; NaN if it is 0."""
        values = observed([search for (_, *own), search in self.found.items() if tuple(own) == key])
        values = values[np.isfinite(values)]
        width = float(np.subtract(*np.percentile(values, [75, 25]))) if len(values) > 1 else math.nan
        return width if width > 0 else math.nan

    @cached_property
    def spreads(self) -> dict[Key, float]:
        """The `spread` of every problem."""
        return {key: self.spread(key) for key in self.keys}

    @cached_property
    def reporting(self) -> list[int]:
        """The seeds that report: the new ones, or all."""
        return sorted(self.reported(self.runs)["seed"].unique())

    def reported(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The runs of the seeds that report."""
        return runs if self.choosing is None else runs[~runs["seed"].isin(self.choosing)]


def trained(problems: Problems) -> pd.DataFrame:
    """For every method and problem, the trials of the search that train.

    A trial trains if no seed that chooses diverged and its mean `METRIC` ends below the midpoint between the median of all runs
    at their first evaluation and the least one of all trials. Columns: `CELL`, trials, trained, share.
    """
    evaluations = (
        problems.history[problems.history["event"] == "evaluation"] if len(problems.history) else problems.history
    )
    if evaluations.empty:
        return pd.DataFrame()
    first = evaluations.sort_values("step", kind="stable").groupby("run_id")[METRIC].first()
    starts = problems.runs.assign(_first=problems.runs["run_id"].map(first))
    rows = []
    for key, cell in cells(starts, TASK):
        own = {name: search for name, search in problems.found.items() if name[1:] == tuple(key.values())}
        means = {name: _means(search) for name, search in own.items()}
        known = np.concatenate([*means.values()])
        if not np.isfinite(known).any():
            continue
        bound = (float(cell["_first"].median()) + float(known[np.isfinite(known)].min())) / 2
        for name, values in means.items():
            trials = int((~np.isnan(values)).sum())
            count = int((values <= bound).sum())
            share = count / trials if trials else math.nan
            rows.append(dict(zip(CELL, name, strict=True)) | {"trials": trials, "trained": count, "share": share})
    return pd.DataFrame(rows)


def _means(search: Search) -> np.ndarray:
    """The mean validation of every trial: infinity if a seed diverged, NaN without an outcome."""
    known = ~np.isnan(search.validation)
    with np.errstate(invalid="ignore"):
        found: np.ndarray = np.where(known, search.validation, 0.0).sum(1) / known.sum(1)
    return found
