"""Compare small- and large-batch solutions: their measures of sharpness, and the loss on the line between them.

A frame of solutions has a row for each run, with the columns batch, seed, one for the group (such as the optimizer; groups are
not compared with each other), and one for each measure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.statistics.intervals import student

Arrays = Mapping[str, np.ndarray]


def ratios(solutions: pd.DataFrame, group: str, measures: Mapping[str, str]) -> pd.DataFrame:
    """The ratio of every measure at the largest batch to that at the smallest, in every group: a geometric mean of seed pairs.

    measures: their names, by column. Columns measure, meaning, ``group``, small_batch and large_batch (the means), ratio, low,
    high (a 95 % Student interval of the logarithm), seeds. Pairs with a value that is not positive are left out.
    """
    small, large = solutions["batch"].min(), solutions["batch"].max()
    rows = []
    for name, meaning in measures.items():
        for key, here in solutions.groupby(group) if name in solutions else ():
            both = here.pivot_table(index="seed", columns="batch", values=name)
            if small == large or not {small, large} <= set(both):
                continue
            pairs = both[(both[small] > 0) & (both[large] > 0)]
            if pairs.empty:
                continue
            found = student(np.log(pairs[large].to_numpy(float) / pairs[small].to_numpy(float)))
            row = {"measure": name, "meaning": meaning, group: key}
            row |= {"small_batch": pairs[small].mean(), "large_batch": pairs[large].mean()}
            row |= {"ratio": np.exp(found.estimate), "low": np.exp(found.low), "high": np.exp(found.high)}
            rows.append(row | {"seeds": len(pairs)})
    return pd.DataFrame(rows)


def rise(positions: np.ndarray, losses: np.ndarray, centre: float, distance: float) -> float:
    """The rise of the loss from ``centre`` to ``distance`` away from it, averaged over both sides; interpolated linearly."""
    here, ahead, behind = np.interp([centre, centre + distance, centre - distance], positions, losses)
    return float((ahead + behind) / 2 - here)


def measures_chart(
    solutions: pd.DataFrame, group: str, measures: Mapping[str, str], name: str, title: str, log_y: bool = False
) -> Chart:
    """A panel for each measure, with its mean and range over seeds for every group and batch."""
    series = []
    for measure, label in measures.items():
        for batch, here in solutions.groupby("batch") if measure in solutions else ():
            known = here.dropna(subset=[measure]).groupby(group, sort=False)[measure].agg(["mean", "min", "max"])
            if len(known):
                columns = {"y": known["mean"], "low": known["min"], "high": known["max"]}
                x = [str(key) for key in known.index]
                points: Any = {name: values.to_numpy(float) for name, values in columns.items()}
                series.append(Series(label=f"batch {batch:,}", x=x, kind="points", panel=label, **points))
    return Chart(
        name=name,
        title=title,
        caption="Mean over seeds, bars from the smallest to the largest seed.",
        log_y=log_y,
        share_y=False,
        columns=2,
        series=series,
    )


def line_chart(lines: Mapping[str, Sequence[Arrays]], small: int, large: int, same: str) -> Chart:
    """Train and test loss on the lines from small- to large-batch solutions, one panel for each key, averaged over seeds.

    lines: the arrays of the probe `interpolation`, one for each seed. same: the common property of the two ends, for the caption.
    """
    series = []
    for panel, chosen in lines.items():
        for split in ("train", "test"):
            x = chosen[0]["positions"]
            found = over_seeds([line[f"{split}_loss"] for line in chosen])
            series.append(Series(label=split, x=x, kind="curve", band=True, panel=panel, **found))
    return Chart(
        name="interpolation",
        title="The line between small- and large-batch solutions",
        caption=f"0 is the solution of batch {small:,}, 1 that of batch {large:,}, of the same {same}; mean over seeds, bands "
        "from the smallest to the largest.",
        x_label="Position on the line",
        y_label="Loss",
        log_y=True,
        columns=2 if len(lines) in (2, 4) else 3,
        series=series,
        references=[Reference(0.0, axis="x"), Reference(1.0, axis="x")],
    )


def over_seeds(curves: Sequence[np.ndarray]) -> dict[str, Any]:
    """The mean of the curves, and their range, as arguments of a `Series`."""
    stacked = np.array(curves)
    return {"y": stacked.mean(axis=0), "low": stacked.min(axis=0), "high": stacked.max(axis=0)}
