"""The sharpness of small- and large-batch solutions at equal epochs and at equal train loss, and the loss between them."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from gap_conditions import PLAIN, Conditions

from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study

MEASURES = {
    "keskar": "Sharpness in a box (Keskar), %",
    "sam": "Rise of the loss in a ball (SAM)",
    "adaptive": "Rise in a ball with the weights' scale (ASAM)",
    "train_loss": "Training loss",
}
MEASURE = "experiments/generalization_gap/sharpness.py"
GROUP = "comparison"
EPOCHS, LOSS = "equal epochs", "equal train loss"


def pairs(found: Conditions) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """The comparison, the batch and the runs of each solution of momentum SGD that is measured.

    At equal train loss, the large batch is trained for the length whose mean train loss is nearest, by ratio, to the small
    batch's; there is no such pair if that is the plain length.
    """
    small, large = found.of_momentum(PLAIN, found.small), found.of_momentum(PLAIN)
    if small is None or large is None or small is large:
        return
    ends = found.longer(found.large)
    goal = math.log(small.found("train_loss").mean())
    nearest = min(ends.values(), key=lambda best: abs(math.log(best.found("train_loss").mean()) - goal))
    for comparison, other in ((EPOCHS, large), (LOSS, nearest)):
        if comparison == EPOCHS or other is not large:
            for batch, best in ((found.small, small), (found.large, other)):
                own = best.runs[np.isclose(best.runs["rate"], best.rate, rtol=1e-6)]
                yield comparison, batch, own[own["status"] == "done"]


def solutions(study: Study, found: Conditions) -> pd.DataFrame:
    """The measures of the runs that have been measured: comparison, batch, seed, and `MEASURES`."""
    rows = []
    for comparison, batch, runs in pairs(found):
        for _, run in runs.iterrows():
            if measured := study.measurements(run["run_id"], "sharpness"):
                row = {GROUP: comparison, "batch": batch, "seed": run["seed"], "train_loss": run["train_loss"]}
                rows.append(row | {name: float(measured[-1].values[name]) for name in ("keskar", "sam", "adaptive")})
    return pd.DataFrame(rows, columns=[GROUP, "batch", "seed", *MEASURES])


def lines_between(study: Study, found: Conditions) -> dict[str, Sequence[Mapping[str, np.ndarray]]]:
    """The lines from the solution of the small batch to that of the large one, one for each seed, by comparison."""
    lines: dict[str, Sequence[Mapping[str, np.ndarray]]] = {}
    for comparison, batch, runs in pairs(found):
        if batch == found.large:
            measured = [study.measurements(run_id, "interpolation") for run_id in runs["run_id"]]
            if known := [each[-1].arrays() for each in measured if each]:
                lines[comparison] = known
    return lines


def sharpness_notes(sharper: pd.DataFrame) -> list[str]:
    """A sentence for each measure with the ratio of the large- to the small-batch solutions; ``sharper``: `minima.ratios`."""
    if sharper.empty:
        return [f"Sharpness, and the lines between solutions, have not been measured yet: python {MEASURE}"]
    notes = []
    for name, meaning in MEASURES.items():
        rows = sharper[sharper["measure"] == name]
        each = [f"{Interval(row['ratio'], row['low'], row['high']):.2f} at {row[GROUP]}" for _, row in rows.iterrows()]
        if each:
            notes.append(f"{meaning}, at the large batch over that at the small one: {', '.join(each)}.")
    return notes
