"""The committed runs of a study as a `Study` without run folders: no histories and no measurements."""

import math
from pathlib import Path

import pandas as pd

from optbench.analysis.studies import analysis_of

RESULTS = Path(__file__).parents[2] / "results"
# Names of the code that trained the committed runs, and of today.
_NAMES = {"config.norm_batch": "config.ghost_batch_size", "cell.norm_batch": "cell.ghost_batch_size"}

# The steps between two evaluations of studies with a target.
_EVALUATED = {"steps_to_target": 6}


def table(name, part):
    """A committed table of a study."""
    return pd.read_parquet(RESULTS / name / "tables" / f"{part}.parquet")


def runs(name):
    """The committed runs of a study, with the names of today's columns."""
    found = table(name, "runs")
    extremes = {column: column.replace("extremes_", "eigenvalues_") for column in found if "extremes_" in column}
    found = found.rename(columns=_NAMES | extremes)
    return found.assign(state=found["state"] if "state" in found else found["status"])


class Committed:
    """What an analysis asks a study, as far as the committed table of runs has it."""

    def __init__(self, name, scale="laptop"):
        self.name, self.scale, self.runs = name, scale, runs(name)
        self.results_dir = self.plan = None

    def histories(self, columns=None, runs=None):
        """The evaluations around the crossing of a target, which lies in their middle; nothing of other studies."""
        target, every = "config.budget.target", _EVALUATED.get(self.name)
        if every is None:
            return pd.DataFrame(columns=["run_id", *(columns or [])])
        rows = []
        for run in self.runs.to_dict("records"):
            reached = run["steps_to_target"] == run["steps_to_target"]
            last = run["steps_to_target"] if reached else run["steps"]
            for step, sign in ((last - every, -1), (last, 1 if reached else -1)):
                if step > 0:
                    accuracy = run[target] + 0.02 * sign
                    row = {
                        "run_id": run["run_id"],
                        "event": "evaluation",
                        "step": step,
                        "validation_accuracy": accuracy,
                    }
                    rows.append(row | {"samples": step * run["batch"], "seconds": math.nan})
        return pd.DataFrame(rows)

    def measurements(self, run_id, probe=None):
        return []

    @property
    def trials(self):
        return sorted(self.runs["trial"].unique())

    @property
    def seeds(self):
        return sorted(self.runs["seed"].unique())


def findings(name, repetitions=200):
    """What the analysis of a study finds in its committed runs, with short bootstraps."""
    function = analysis_of(name)
    if "REPETITIONS" in function.__globals__:
        function.__globals__["REPETITIONS"] = repetitions
    return function(Committed(name))
