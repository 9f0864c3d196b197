"""Measured rates beside theory: factors near a minimum, bounds along gradient descent, and SGD across lengths of runs."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from optbench.analysis.laws.rates import slope_across, step_factor, tail_slope
from optbench.analysis.statistics.intervals import Interval
from optbench.theory import gradient_descent_modulus, heavy_ball_modulus, nesterov_modulus

CURVATURES = pd.read_csv(Path(__file__).with_name("curvatures.csv"))
#: Factors are measured below this value of f - f*.
NEAR = 1e-5
#: Of a measured log factor, relative to the predicted one.
TOLERANCE = 0.1
# Smaller values of f carry rounding.
_ROUNDING = 1e-12

FUNCTIONS = {
    "pl_sine": lambda x: x**2 + 3 * math.sin(x) ** 2,
    "star_convex": lambda x: -x * math.expm1(-x),
}
DERIVATIVES = {
    "pl_sine": lambda x: 2 * x + 3 * math.sin(2 * x),
    "star_convex": lambda x: -math.expm1(-x) + x * math.exp(-x),
}
#: L of each, and μ of pl_sine.
SMOOTHNESS = {"pl_sine": 8.0, "star_convex": 2.0}
PL_CONSTANT = 0.1755309


def distance(problem: str, value: float) -> float:
    """|x| at which the function of one variable has ``value``; both functions rise with |x|."""
    if value <= 0:
        return 0.0
    function = FUNCTIONS[problem]
    return float(brentq(lambda x: function(x) - value, 0.0, 10 + 2 * value, xtol=1e-15))


def slopes(problem: str, values: np.ndarray) -> np.ndarray:
    """|f'| where the function has ``values``."""
    return np.array([abs(DERIVATIVES[problem](distance(problem, value))) for value in values])


def evaluations(history: pd.DataFrame, run_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the losses of the evaluations of a run."""
    own = history[(history["run_id"] == run_id) & (history["event"] == "evaluation")].sort_values("step")
    return own["step"].to_numpy(float), own["validation_loss"].to_numpy(float)


def from_the_start(history: pd.DataFrame, run_id: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and the losses of a run without noise that is evaluated at every step, with step 0, whose loss is of training."""
    training = history[(history["run_id"] == run_id) & (history["event"] == "train") & (history["step"] == 1)]
    steps, losses = evaluations(history, run_id)
    return np.concatenate([np.zeros(len(training)), steps]), np.concatenate([training["loss"].to_numpy(float), losses])


# ---- near a minimum -----------------------------------------------------------------------------------------------------


def predicted_factor(problem: str, optimizer: str, rate: float, momentum: float = 0.9) -> float:
    """ρ², the factor of f - f* in a step near the minimum of ``problem``."""
    found = []
    for h in CURVATURES.loc[CURVATURES["problem"] == problem, "eigenvalue"]:
        if optimizer == "sgd":
            found.append(gradient_descent_modulus(rate, h))
        elif optimizer == "momentum":
            found.append(heavy_ball_modulus(rate, momentum, h))
        else:
            found.append(nesterov_modulus(rate, momentum, h))
    return max(found) ** 2


def local_factors(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each of the ``prepared`` runs of a linear method that comes near an isolated minimum."""
    rows = []
    linear = runs["optimizer"].isin(["sgd", "momentum", "nesterov"]) & runs["dataset"].isin(CURVATURES["problem"])
    for _, run in runs[linear & (runs["status"] == "done")].iterrows():
        steps, losses = evaluations(history, run["run_id"])
        measured = step_factor(steps, losses, NEAR)
        predicted = predicted_factor(run["dataset"], run["optimizer"], run["base_learning_rate"])
        # A factor of 0, a step to the minimum, has no logarithm, and one of 1 or more does not converge.
        if math.isnan(measured) or not 1e-3 < predicted < 1:
            continue
        row = {name: run[name] for name in ("problem", "optimizer", "step_size", "seed")}
        row |= {"predicted": predicted, "measured": measured, "ratio": math.log(measured) / math.log(predicted)}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- bounds along gradient descent --------------------------------------------------------------------------------------


def bounds(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each run of gradient descent with the step 1/L without a target: the largest share of each bound, and slopes.

    share: of f at any step k in its bound, (1 - μ/L)^k f_0 or L x_0² / 2k; gradient_share: of the smallest squared gradient
    up to k in 2 L f_0 / k. worst_factor: of f in a step. slope: of the smallest gradient, in the last decade before rounding.
    """
    rows = []
    own = runs[runs["config.budget.target"].isna() & (runs["config.model.spread"] > 0) & (runs["status"] == "done")]
    for _, run in own.iterrows():
        problem, path = run["dataset"], from_the_start(history, run["run_id"])
        steps, losses = (values[path[1] > _ROUNDING] for values in path)
        if len(steps) < 3:
            continue
        first, later = losses[0], steps > 0
        x, largest = distance(problem, first), SMOOTHNESS[problem]
        k = steps[later]
        bound = (1 - PL_CONSTANT / largest) ** k * first if problem == "pl_sine" else largest * x**2 / (2 * k)
        least = np.minimum.accumulate(slopes(problem, losses))
        row = {"problem": problem, "seed": run["seed"], "start": x, "steps": int(k[-1])}
        row |= {
            "share": float((losses[later] / bound).max()),
            "gradient_share": float((least[:-1] ** 2 * steps[1:] / (2 * largest * first)).max()),
            "worst_factor": float((losses[1:] / losses[:-1]).max()),
            "slope": tail_slope(k, least[later]),
        }
        rows.append(row)
    return pd.DataFrame(rows)


# ---- SGD across lengths -------------------------------------------------------------------------------------------------


def noisy(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row for each run of SGD with noise: its length K, the root mean square of the gradient, and the slope along it."""
    rows = []
    with_noise = pd.to_numeric(runs.get("config.dataset.noise", pd.Series(0.0, runs.index)), errors="coerce") > 0
    for _, run in runs[with_noise & (runs["status"] == "done")].iterrows():
        steps, losses = evaluations(history, run["run_id"])
        start = FUNCTIONS["pl_sine"](3.0)
        squares = slopes("pl_sine", np.concatenate([[start], losses])) ** 2
        root = math.sqrt(float(np.trapezoid(squares, np.concatenate([[0.0], steps]))) / steps[-1])
        along = tail_slope(steps, np.sqrt(squares[1:]))
        rows.append({"steps": int(run["steps"]), "seed": run["seed"], "gradient": root, "slope_along": along})
    return pd.DataFrame(rows)


def slope_of(noise: pd.DataFrame) -> Interval | None:
    """The slope of the root mean square of the gradient across lengths; None from less than two lengths."""
    groups = (
        {int(length): own["gradient"].to_numpy(float) for length, own in noise.groupby("steps")} if len(noise) else {}
    )
    return slope_across(list(groups), list(groups.values())) if len(groups) > 1 else None
