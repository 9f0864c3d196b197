"""The measurements of the probe shift by run, their means by setting, and the fall of the shift term with the training set."""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.study import Study

#: The columns that make a setting, without the seed.
SETTING = ["model", "examples", "penalty", "learning_rate", "batch", "drawing"]
TERMS = ("shift", "bias", "cross", "covariance")
REPLACED, EPOCHS = "with replacement", "in epochs"
# Of the configuration, for each column.
_COLUMNS = {
    "examples": "config.dataset.train_limit",
    "penalty": "config.optimizer.weight_decay",
    "learning_rate": "base_learning_rate",
}


def points(study: Study) -> pd.DataFrame:
    """One row for each finished run that has been measured: the setting, the seed, T = η/(2b), the values of the probe.

    Values from test labels have no prefix; those from train alone begin with train_. share: the shift term over the sum.
    ratio: Q/G. accuracy: of the sum, over the measured rise of the mean test loss. over_prediction: of the covariance term;
    both_over_prediction: of the covariance term and the bias term, in which the error of the mean of few relaxation times is.
    """
    rows = []
    for _, run in study.runs.iterrows():
        found = study.measurements(run["run_id"], "shift") if run["status"] == "done" else []
        if not found:
            continue
        values = found[-1].values
        row = {"seed": int(run["seed"]), "model": run["model"], "batch": int(run["batch"])}
        row |= {name: float(run[column]) for name, column in _COLUMNS.items()}
        row["drawing"] = REPLACED if bool(run.get("config.dataset.replacement") is True) else EPOCHS
        for name, value in values.items():
            short = name.removeprefix("diagnostic_") if name.startswith("diagnostic_") else f"train_{name}"
            row[short] = np.nan if value is None else float(value)
        rows.append(row)
    table = pd.DataFrame(rows)
    if not len(table):
        return table
    table["covariance_predicted"] = table.get("covariance_predicted", pd.Series(np.nan, index=table.index))
    table["examples"] = table["examples"].astype(int)
    return table.assign(
        temperature=table["learning_rate"] / (2 * table["batch"]),
        share=table["shift"] / table["sum"],
        ratio=table["shift"] / table["shift_excess"],
        accuracy=table["sum"] / table["excess"],
        over_prediction=table["covariance"] / table["covariance_predicted"],
        both_over_prediction=(table["covariance"] + table["bias"]) / table["covariance_predicted"],
    ).sort_values([*SETTING, "seed"], ignore_index=True)


def settings(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting: the means over seeds, and Student's 95 % intervals of the ratios.

    NAME_low, NAME_high: the interval of NAME. shift_is_largest: the number of seeds in which no other term is larger in size.
    """
    rows = []
    for key, cell in table.groupby(SETTING, sort=True):
        row = dict(zip(SETTING, key, strict=True)) | {"temperature": cell["temperature"].iloc[0], "seeds": len(cell)}
        row |= {name: float(cell[name].mean()) for name in (*TERMS, "sum", "excess", "shift_excess", "train_excess")}
        row |= {name: float(cell[name].mean()) for name in ("covariance_predicted", "shift_by_train", "shift_norm")}
        for name in ("shift", "covariance", "share", "ratio", "accuracy", "over_prediction", "both_over_prediction"):
            found = student(cell[name].dropna().to_numpy())
            row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
        others = cell[[name for name in TERMS if name != "shift"]].abs().max(axis=1)
        row["shift_is_largest"] = int((cell["shift"] >= others).sum())
        row["not_converged"] = int((cell["converged"] == 0).sum())
        row["barriers"] = int((cell["barrier"] > 0).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """The least-squares slope of log Q, and of log G, against log n, one for each model and penalty, over seeds.

    Only at the batch and the learning rate of all sizes; least and most: of the mean slope without one of the sizes.
    """
    rows = []
    for (model, penalty), own in _grids_of_sizes(table):
        for quantity in ("shift", "shift_excess"):
            wide = own.pivot(index="seed", columns="examples", values=quantity).dropna()
            if wide.shape[1] < 2 or not len(wide) or not (wide > 0).all(axis=None):
                continue
            found = student(_slope(wide))
            row = {"model": model, "penalty": penalty, "quantity": quantity, "sizes": wide.shape[1], "seeds": len(wide)}
            row |= {"slope": found.estimate, "low": found.low, "high": found.high}
            fewer = [
                _slope(wide[list(kept)]).mean()
                for kept in combinations(wide.columns, wide.shape[1] - 1)
                if len(kept) > 1
            ]
            rows.append(row | {"least": min(fewer, default=np.nan), "most": max(fewer, default=np.nan)})
    return pd.DataFrame(rows)


def _grids_of_sizes(table: pd.DataFrame) -> Iterable[tuple[tuple[str, float], pd.DataFrame]]:
    for key, own in table[table["drawing"] == table["drawing"].max()].groupby(["model", "penalty"]):
        sizes = own.groupby(["learning_rate", "batch"])["examples"].nunique()
        rate, batch = sizes.idxmax()
        yield key, own[(own["learning_rate"] == rate) & (own["batch"] == batch)]


def _slope(wide: pd.DataFrame) -> np.ndarray:
    return np.polyfit(np.log(wide.columns.to_numpy(float)), np.log(wide.to_numpy(float)).T, 1)[0]


def interval(row: pd.Series, name: str) -> Interval:
    """The interval of ``name`` in a row of `settings`."""
    return Interval(float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]))


def regression(means: pd.DataFrame) -> pd.DataFrame:
    """The settings of softmax regression whose batches are drawn with replacement."""
    return means[(means["model"] == "logreg") & (means["drawing"] == REPLACED)]


def sizes_at_most(means: pd.DataFrame) -> pd.DataFrame:
    """The settings at the largest training set, and of these at the largest penalty."""
    own = means[means["examples"] == means["examples"].max()]
    return own[own["penalty"] == own["penalty"].max()]


def by_seed(runs: pd.DataFrame, cells: pd.DataFrame, name: str) -> "pd.Series[float]":
    """The mean of ``name`` over the settings of ``cells`` for every seed: seeds are independent, settings of one are not."""
    same = runs.merge(cells[["examples", "penalty", "learning_rate", "batch"]])
    return same.groupby("seed")[name].mean()
