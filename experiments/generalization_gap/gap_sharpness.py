"""The sharpness of the solutions of the smallest and the largest batch, and the loss between them (Keskar et al.)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study

MEASURES = {
    "keskar": "Sharpness in a box (Keskar), %",
    "sam": "Rise of the loss in a ball (SAM)",
    "adaptive": "Rise in a ball with the weights' scale (ASAM)",
    "train_loss": "Training loss",
}
MEASURE = "experiments/generalization_gap/sharpness.py"


def solutions(study: Study, chosen: pd.DataFrame) -> pd.DataFrame:
    """The measures of those ``chosen`` runs that have been measured: optimizer, batch, seed, and `MEASURES`."""
    rows = []
    for _, run in chosen.iterrows():
        if found := study.measurements(run["run_id"], "sharpness"):
            row = {name: run[name] for name in ("optimizer", "batch", "seed", "train_loss")}
            rows.append(row | {name: float(found[-1].values[name]) for name in ("keskar", "sam", "adaptive")})
    return pd.DataFrame(rows, columns=["optimizer", "batch", "seed", *MEASURES])


def lines_between(study: Study, chosen: pd.DataFrame) -> dict[str, Sequence[Mapping[str, np.ndarray]]]:
    """The lines from the solution of the smallest batch to that of the largest, one for each seed, by optimizer."""
    found: dict[str, Sequence[Mapping[str, np.ndarray]]] = {}
    for optimizer, runs in chosen.groupby("optimizer"):
        measured = [study.measurements(run_id, "interpolation") for run_id in runs["run_id"]]
        if lines := [lines[-1].arrays() for lines in measured if lines]:
            found[str(optimizer)] = lines
    return found


def sharpness_notes(sharper: pd.DataFrame) -> list[str]:
    """A sentence for each measure with the ratio of the large- to the small-batch solutions; ``sharper``: `minima.ratios`."""
    if sharper.empty:
        return [f"Sharpness, and the lines between solutions, have not been measured yet: python {MEASURE}"]
    notes = []
    for name, meaning in MEASURES.items():
        rows = sharper[sharper["measure"] == name]
        each = [
            f"{row['optimizer']} {Interval(row['ratio'], row['low'], row['high']):.2f}" for _, row in rows.iterrows()
        ]
        if each:
            notes.append(f"{meaning}, at the large batch over that at the small one: {', '.join(each)}.")
    return notes
