"""A classifier trained without gradients beside gradient descent, at equal sums of step sizes."""

import math

import numpy as np
import pandas as pd

from optbench.analysis.statistics.crossings import at_position, crossing
from optbench.analysis.statistics.intervals import Interval, student

#: The train losses at which sums of step sizes are compared: of softmax regression, and of networks.
LEVELS = {"logreg": 0.7, "mlp": 1.6}
TOLERANCE = 1.25


def paths(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each evaluation of the runs on digits: model, weights, optimizer, c, seed, step, time and train_loss.

    c: the step size times d + 2, NaN of gradient descent. time: the sum of step sizes.
    """
    parts = []
    for _, run in runs[(runs["dataset"] == "digits") & (runs["status"] == "done")].iterrows():
        own = history[(history["run_id"] == run["run_id"]) & (history["event"] == "evaluation")]
        rate, weights = run["learning_rate"], int(run["parameters"])
        c = round(rate * (weights + 2), 3) if run["optimizer"] == "zeroth_order" else math.nan
        part = own[["step", "train_loss"]].assign(model=run["model"], weights=weights, optimizer=run["optimizer"], c=c)
        parts.append(part.assign(seed=run["seed"], time=own["step"] * rate))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def times(path: pd.DataFrame) -> pd.DataFrame:
    """One row for each run without gradients: the sums of step sizes to the level, its own and that of gradient descent.

    steps: its own to the level. The ratio of both sums is NaN where one of the runs does not get there.
    """
    rows = []
    keys = ["model", "weights", "seed"]
    for (model, weights, seed), cell in path.groupby(keys) if len(path) else ():
        level = LEVELS[model]
        flow = cell[cell["optimizer"] == "sgd"]
        for c, own in cell[cell["optimizer"] == "zeroth_order"].groupby("c"):
            found = {name: _time(part, level) for name, part in (("time", own), ("flow_time", flow))}
            steps = found["time"] * (weights + 2) / c
            row = {"model": model, "weights": weights, "c": c, "seed": seed, "level": level, **found, "steps": steps}
            both = math.isfinite(found["time"]) and math.isfinite(found["flow_time"])
            rows.append(row | {"ratio": found["time"] / found["flow_time"] if both else math.nan})
    return pd.DataFrame(rows)


def _time(own: pd.DataFrame, level: float) -> float:
    """The sum of step sizes at which the train loss falls to ``level``; infinity if it does not."""
    own = own.sort_values("step")
    return at_position(own["time"].to_numpy(float), crossing(own["train_loss"].to_numpy(float), level, higher=False))


def ratios(found: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, number of weights and c: the mean ratio of times over seeds, with a 95 % Student interval."""
    rows = []
    for (model, weights, c), own in found.groupby(["model", "weights", "c"]) if len(found) else ():
        mean = student(own["ratio"].dropna().to_numpy(float))
        row = {
            "model": model,
            "weights": weights,
            "c": c,
            "seeds": len(own),
            "arrived": int(own["ratio"].notna().sum()),
        }
        row |= {"steps": own["steps"].median(), "ratio": mean.estimate, "low": mean.low, "high": mean.high}
        rows.append(row)
    return pd.DataFrame(rows)


def exponents(found: pd.DataFrame) -> dict[str, Interval]:
    """The slopes on log (d + 2) over networks of the log of steps and of the log ratio: means over seeds, Student's intervals."""
    own = found[(found["model"] == "mlp") & found["ratio"].notna()] if len(found) else found
    slopes: dict[str, list[float]] = {"steps": [], "ratio": []}
    for _, seed in own.groupby("seed") if len(own) else ():
        if seed["weights"].nunique() > 1:
            for name, values in slopes.items():
                x = np.log(seed["weights"].to_numpy(float) + 2)
                values.append(float(np.polyfit(x, np.log(seed[name].to_numpy(float)), 1)[0]))
    return {name: student(np.array(values)) for name, values in slopes.items() if values}
