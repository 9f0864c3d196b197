"""Steps of the network to its target: the learning rate chosen by some seeds, and reported by the others."""

import math

import numpy as np
import pandas as pd

from optbench.analysis.statistics.selection import select
from optbench.analysis.statistics.targets import TIMES, times_to_target

#: The column of the history that each method is judged by.
LOSSES = {
    "sgd": "validation_loss",
    "averaged": "averaged_validation_loss",
    "momentum": "validation_loss",
    "adam": "validation_loss",
}
STEPS = "steps_to_target"
#: Steps are counted to this many times budget.target, at which runs end: below it the crossing is known on both sides.
EASIER = 1.5
#: The seeds that choose the learning rate.
SEARCH_SEEDS = (0, 1)


def target_of(runs: pd.DataFrame) -> float:
    """The loss at which steps are counted; NaN if no run of ``runs`` has a target."""
    goals = runs["config.budget.target"].dropna()
    return EASIER * float(goals.iloc[0]) if len(goals) else math.nan


def chosen(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each method and batch: the learning rate with the smallest median of steps, as `select` gives it.

    The column values holds the steps of its reporting seeds, infinity for a run that did not reach the target.
    """
    target = target_of(runs)
    parts = []
    for name, column in LOSSES.items():
        own = runs[runs["optimizer"] == ("sgd" if name == "averaged" else name)]
        if own.empty:
            continue
        timed = times_to_target(own.drop(columns=[*TIMES], errors="ignore"), history, target, column)
        timed = timed.assign(method=name)
        best = select(
            timed, ["method", "batch"], STEPS, [STEPS], ["base_learning_rate"], "median", search_seeds=SEARCH_SEEDS
        )
        values = [_reported(timed, row) for _, row in best.iterrows()]
        parts.append(best.assign(values=pd.Series(values, index=best.index, dtype=object)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _reported(timed: pd.DataFrame, row: pd.Series) -> np.ndarray:
    here = timed[(timed["batch"] == row["batch"]) & (timed["base_learning_rate"] == row["base_learning_rate"])]
    others = here[~here["seed"].isin(SEARCH_SEEDS) & here[STEPS].notna()]
    kept = others if len(others) else here[here[STEPS].notna()]
    return np.asarray(kept[STEPS].to_numpy(float))
