"""Oracle calls to the target: the step size of each seed chosen by the others, and the reason where a method does not arrive."""

import math

import numpy as np
import pandas as pd

CALLS = ["values", "gradients", "products"]
#: A start exactly on the ridge of the saddle problem is a problem of its own.
RIDGE = "saddle, on its ridge"
#: A loss that has fallen by less than this share in the second half of a run has stalled.
STALLED = 0.01


def prepared(runs: pd.DataFrame) -> pd.DataFrame:
    """The ``runs`` with a target and their columns problem, step_size, reached, excess, and calls of each kind and in all.

    Calls are infinite for a run that has ended without reaching the target, and so is the excess of one that diverged.
    """
    own = runs[runs["config.budget.target"].notna()].copy()
    on_ridge = (own["dataset"] == "saddle") & (own["config.model.spread"] == 0)
    own["problem"] = own["dataset"].where(~on_ridge, RIDGE)
    own["step_size"] = own["base_learning_rate"]
    if "config.optimizer.regularization" in own:
        own["step_size"] = own["config.optimizer.regularization"].fillna(own["step_size"])
    excess = pd.to_numeric(own["validation_loss"], errors="coerce").fillna(math.inf)
    own["excess"] = excess.where(own["status"] == "done", math.inf)
    own["reached"] = own["excess"] <= own["config.budget.target"]
    for name in CALLS:
        own[name] = own[f"oracle_{name}"].astype(float).where(own["reached"], math.inf)
    own["calls"] = own[CALLS].sum(axis=1)
    return own


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each run of ``prepared`` runs that is reported: that of each seed at the step size which the others choose.

    Chosen is the smallest median of all calls, and where none arrives the smallest median of the excess. A single seed chooses
    for itself.
    """
    parts = []
    for _, cell in runs.groupby(["problem", "optimizer"], sort=False):
        seeds = sorted(cell["seed"].unique())
        for seed in seeds:
            others = cell[cell["seed"] != seed] if len(seeds) > 1 else cell
            medians = others.groupby("step_size")[["calls", "excess"]].median()
            best = medians.sort_values(["calls", "excess"], kind="stable").index[0]
            parts.append(cell[(cell["seed"] == seed) & (cell["step_size"] == best)])
    return pd.concat(parts, ignore_index=True) if parts else runs.iloc[:0]


def reason(run: pd.Series, history: pd.DataFrame) -> tuple[str, float]:
    """The reason why ``run`` has not reached the target, and the value of f - f* that it is about (NaN for a run that diverged).

    It follows from the evaluations of the ``history`` of all runs.
    """
    if run["status"] == "diverged" or not math.isfinite(run["excess"]):
        return "diverges", math.nan
    own = history[(history["run_id"] == run["run_id"]) & (history["event"] == "evaluation")].sort_values("step")
    losses = own["validation_loss"].to_numpy(float)
    late = losses[len(losses) // 2 :]
    if len(late) > 1 and abs(late[-1] - late[0]) <= STALLED * late[0]:
        return "stays at {}", float(late[-1])
    if len(late) > 1 and late[-1] > late[0]:
        return "moves around {}", float(np.median(late))
    return f"is at {{}} after {int(run['steps'])} steps", float(run["excess"])


def reasons(runs: pd.DataFrame, history: pd.DataFrame) -> str:
    """The reasons of all ``runs``, each with the range of its values."""
    found: dict[str, list[float]] = {}
    for _, run in runs.iterrows():
        words, value = reason(run, history)
        found.setdefault(words, []).append(value)
    ranges = {
        words: list(dict.fromkeys(f"{value:.2g}" for value in (min(own), max(own)))) for words, own in found.items()
    }
    return ", ".join(words.format(" to ".join(ranges[words])) for words in found)


def table(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each problem and method: seeds, how many arrive, medians and ranges of calls, step sizes, and reasons."""
    rows = []
    for (problem, optimizer), cell in chosen(runs).groupby(["problem", "optimizer"], sort=False):
        row = {"problem": problem, "optimizer": optimizer, "seeds": len(cell), "arrived": int(cell["reached"].sum())}
        for name in [*CALLS, "calls"]:
            row[name] = float(cell[name].median())
        row |= {"calls_min": float(cell["calls"].min()), "calls_max": float(cell["calls"].max())}
        row["step_sizes"] = ", ".join(f"{value:g}" for value in sorted(cell["step_size"].unique()))
        lattice = runs.loc[(runs["problem"] == problem) & (runs["optimizer"] == optimizer), "step_size"]
        edges = cell["step_size"].isin([lattice.min(), lattice.max()])
        row["at_an_end"] = int(edges.sum())
        row["why"] = reasons(cell[~cell["reached"]], history)
        rows.append(row)
    return pd.DataFrame(rows)
