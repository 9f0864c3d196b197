"""The runs on the quadratic model, each cell beside the exact theory of its own hyperparameters."""

import math
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells
from optbench.analysis.statistics.crossings import at_position, crossing
from optbench.theory import stationary_second_moment, steps_to_target
from optbench.theory.tuned_steps import FAMILIES

#: The risk for each replica at which steps are counted, as in the theory.
TARGET = 0.01
#: The column of the history that has the risk of each method. Runs of plain SGD give two methods.
RISKS = {"sgd": "validation_loss", "averaged": "averaged_validation_loss", "momentum": "validation_loss"}
#: A cell agrees if the measured steps differ from the theory by at most this factor.
TOLERANCE = 0.1
#: Standard deviations of the stationary risk within which a cell is undecided.
DEVIATIONS = 3
_OPTIMIZERS = {"sgd": ("sgd", "averaged"), "momentum": ("momentum",)}
_LIMIT = 2**17


def compare(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each method, batch and learning rate of the finished ``runs``, all on `dataset=quadratic`.

    steps: where the mean over seeds of the risk per replica first is at most `TARGET`, interpolated between evaluations;
    infinity if no evaluation is. low, high: the fewest and the most steps of single seeds. theory, floor, spread: as in
    `predicted`, the spread that of the mean over seeds and replicas, and theory infinite if it is beyond the budget. ratio:
    steps / theory, NaN if one is infinite. verdict: see `_verdict`.

    The mean over seeds is compared, because the theory is that of an expectation: single noisy risks cross earlier.
    """
    rows = []
    for key, own in cells(runs, ["optimizer", "batch", "base_learning_rate"]):
        for name in _OPTIMIZERS.get(str(key["optimizer"]), ()):
            first = own.iloc[0]
            second = {"averaged": "config.averaging.decay", "momentum": "config.optimizer.momentum"}.get(name)
            value = float(first[second]) if second else 0.0
            curves = _risks(own, history, RISKS[name])
            if curves.empty:
                continue
            each = [_steps(curves.index, curves[column]) for column in curves]
            row = {"method": name, "batch": int(key["batch"]), "learning_rate": key["base_learning_rate"]}
            row |= {"second": value, "seeds": len(each), "steps": _steps(curves.index, curves.mean(axis=1))}
            row |= {"low": min(each), "high": max(each)}
            row |= predicted(name, float(key["base_learning_rate"]), value, first)
            row["spread"] /= math.sqrt(own["config.dataset.replicas"].sum())
            if row["theory"] > first["config.budget.steps"]:
                row["theory"] = math.inf
            finite = math.isfinite(row["steps"]) and math.isfinite(row["theory"])
            row["ratio"] = row["steps"] / row["theory"] if finite else math.nan
            rows.append(row | {"verdict": _verdict(row)})
    return pd.DataFrame(rows)


def predicted(name: str, learning_rate: float, second: float, run: Mapping[str, object]) -> dict[str, float]:
    """The prediction of the theory for one replica, for the spectrum, the noise and the start of ``run``.

    theory: the first step at which E R ≤ `TARGET`, infinity if there is none. floor: the stationary E R over the target; infinity
    if a direction is not stable. spread: the stationary standard deviation of R over the target.
    """
    number = np.arange(1, int(run["config.dataset.dimension"]) + 1)
    curvatures = number ** -float(run["config.dataset.exponent"])
    variances = float(run["config.dataset.noise_level"]) ** 2 * curvatures / int(run["batch"])
    methods = [FAMILIES[name][0](learning_rate, second, float(h)) for h in curvatures]
    start = float(run["config.model.start"]) ** 2
    steps = steps_to_target(methods, curvatures, variances, np.ones(len(number)), TARGET, start=start, limit=_LIMIT)
    found = {"theory": math.inf if steps is None else float(steps), "floor": math.inf, "spread": 0.0}
    with suppress(ValueError):  # a direction is not stable
        moments = [stationary_second_moment(one, float(v)) for one, v in zip(methods, variances, strict=True)]
        risks = 0.5 * curvatures * np.array(moments)
        # θ is normal, so that ½ h θ² has √2 times its mean as its standard deviation.
        found |= {"floor": risks.sum() / TARGET, "spread": math.sqrt(2 * float((risks**2).sum())) / TARGET}
    return found


def _risks(runs: pd.DataFrame, history: pd.DataFrame, column: str) -> pd.DataFrame:
    """The risk per replica at each evaluated step, a column for each run; infinity after a run that diverged."""
    found = {}
    for run_id, replicas in zip(runs["run_id"], runs["config.dataset.replicas"], strict=True):
        own = history[(history["run_id"] == run_id) & (history["event"] == "evaluation")].drop_duplicates("step")
        found[run_id] = own.set_index("step")[column].astype(float) / float(replicas)
    return pd.DataFrame(found).fillna(math.inf).sort_index()


def _steps(steps: pd.Index, risks: pd.Series) -> float:
    return at_position(steps.to_numpy(float), crossing(risks.to_numpy(float), TARGET, higher=False))


def _verdict(row: Mapping[str, float]) -> str:
    """The measurement against the theory.

    "agrees": within `TOLERANCE`, or reached by neither. "undecided": the stationary risk is within `DEVIATIONS` standard
    deviations of the target, so that a fluctuation decides when, or if ever, it is crossed. "disagrees": all others.
    """
    if abs(row["floor"] - 1) <= DEVIATIONS * row["spread"]:
        return "undecided"
    if math.isinf(row["theory"]):
        return "agrees" if math.isinf(row["steps"]) else "disagrees"
    return "agrees" if abs(row["ratio"] - 1) <= TOLERANCE else "disagrees"


def fewest(table: pd.DataFrame) -> pd.DataFrame:
    """For each method and batch the fewest measured steps over the learning rates, and the fewest in theory.

    Columns method, batch, steps, low, high, learning_rate, theory, theory_learning_rate. Undecided cells count as the others do.
    """
    rows = []
    for key, own in cells(table, ["method", "batch"]) if len(table) else ():
        best, expected = own.loc[own["steps"].idxmin()], own.loc[own["theory"].idxmin()]
        row = {name: best[name] for name in ("steps", "low", "high", "learning_rate")}
        rows.append(key | row | {"theory": expected["theory"], "theory_learning_rate": expected["learning_rate"]})
    return pd.DataFrame(rows)
