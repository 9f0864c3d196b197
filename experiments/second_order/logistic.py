"""SCoRe-GGN on ill-conditioned logistic regression: `python experiments/second_order/logistic.py [--seeds 10]`.

Writes results/second_order/logistic.csv (gaps of every run at some steps), logistic_curves.csv (medians) and
logistic.png, .pdf.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import second_order_charts
import torch
from problems import Method, Problem, Row, best_trial, few_digits, ill_conditioned, train

WEIGHT, SCALE = 1e-3, 1.0
SCORE = {"weight": WEIGHT, "scale": SCALE}
NEWTON_STEPS, GRADIENT_STEPS = 40, 1000
METHODS = (
    Method("SCoRe-GGN", "score_ggn", NEWTON_STEPS, SCORE, ("learning_rate",)),
    Method("SCoRe-GGN, M = 2", "score_ggn", NEWTON_STEPS, SCORE | {"constant": 2.0}, ("learning_rate",)),
    Method("Gauss-Newton (M = 0)", "score_ggn", NEWTON_STEPS, SCORE | {"constant": 0.0}, ("learning_rate",)),
    Method("L-BFGS", "lbfgs", 5 * NEWTON_STEPS, {}, ("learning_rate", "max_iter", "history_size")),
    Method("gradient descent", "sgd", GRADIENT_STEPS, {}, ("learning_rate",)),
    Method("Nesterov", "nesterov", GRADIENT_STEPS, {}, ("learning_rate", "momentum")),
    Method("Adam", "adam", GRADIENT_STEPS, {}, ("learning_rate", "beta1", "beta2")),
)
PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "spectrum 1 to 1e-6": lambda seed: ill_conditioned(seed, WEIGHT, SCALE),
    "digits": lambda seed: few_digits(seed, WEIGHT, SCALE),
}
TOLERANCES = (1e-3, 1e-6, 1e-10)


def optimum(problem: Problem) -> float:
    """The minimum of the regularized loss by Newton's method with a line search, written in NumPy.

    The logits are X W^T + b of a linear layer; one output is logistic regression, several are the softmax.
    """
    inputs = np.hstack([problem.inputs.numpy(), np.ones((len(problem.inputs), 1))])
    count, features = inputs.shape
    binary = problem.targets.ndim == 2
    classes = 1 if binary else int(problem.targets.max()) + 1
    outputs = 1 if binary else 10
    assert classes <= outputs
    labels = problem.targets.numpy().reshape(-1, 1) if binary else np.eye(outputs)[problem.targets.numpy()]

    def value(weights: np.ndarray) -> float:
        logits = inputs @ weights.reshape(outputs, features).T
        normalizer = np.logaddexp(0, logits) if binary else np.logaddexp.reduce(logits, axis=1, keepdims=True)
        loss = (normalizer.sum() - (labels * logits).sum()) / count
        return float(loss + WEIGHT * (np.sqrt(SCALE**2 + weights**2) - SCALE).sum())

    weights = np.zeros(outputs * features)
    for _ in range(100):
        logits = inputs @ weights.reshape(outputs, features).T
        chances = (
            1 / (1 + np.exp(-logits)) if binary else np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        )
        root = np.sqrt(SCALE**2 + weights**2)
        gradient = ((chances - labels).T @ inputs).ravel() / count + WEIGHT * weights / root
        if np.abs(gradient).max() < 1e-15:
            break
        blocks = [
            [inputs.T @ (inputs * _curvature(chances, i, j, binary)[:, None]) for j in range(outputs)]
            for i in range(outputs)
        ]
        matrix = np.block(blocks) / count + WEIGHT * np.diag(SCALE**2 / root**3)
        step = -np.linalg.solve(matrix, gradient)
        factor, start = 1.0, value(weights)
        while value(weights + factor * step) > start and factor > 1e-8:
            factor /= 2
        weights = weights + factor * step
    return value(weights)


def _curvature(chances: np.ndarray, i: int, j: int, binary: bool) -> np.ndarray:
    if binary:
        return chances[:, 0] * (1 - chances[:, 0])
    return chances[:, i] * ((i == j) - chances[:, j])


def mean_log_gap(problem: Problem, rows: list[Row]) -> float:
    """The logarithm of the gap, averaged over the steps; it also distinguishes methods that all end at the optimum."""
    gaps = np.array([row["total"] for row in rows]) - optimum(problem)
    return float(np.log10(gaps.clip(min=1e-14)).mean())


def condition(problem: Problem) -> float:
    """The condition number of X^T X / n, without eigenvalues that are rounding errors."""
    eigenvalues = torch.linalg.eigvalsh(problem.inputs.T @ problem.inputs / len(problem.inputs))
    kept = eigenvalues[eigenvalues > 1e-12 * eigenvalues[-1]]
    return float(kept[-1] / kept[0])


def main() -> None:
    """Tune on separate instances, train on others, write tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--results-dir", default="results")
    given = parser.parse_args()
    rows = []
    for name, make in PROBLEMS.items():
        seeds = range(given.seeds if name != "digits" else min(given.seeds, 3))
        optima = {seed: optimum(make(seed)) for seed in seeds}
        conditions = [condition(make(seed)) for seed in seeds]
        print(name, "condition numbers of the inputs", f"{min(conditions):.2g} to {max(conditions):.2g}", flush=True)
        for method in METHODS:
            trials, tuning_seeds = (given.trials, 3) if name != "digits" else (min(given.trials, 4), 1)
            trial = best_trial(method, make, trials, mean_log_gap, seeds=tuning_seeds)
            print(name, method.name, "trial", trial, method.options(trial), flush=True)
            for seed in seeds:
                where = {"problem": name, "method": method.name, "seed": seed, "trial": trial}
                for row in train(method, make(seed), seed, method.options(trial)):
                    rows.append(where | row | {"gap": row.pop("total") - optima[seed]})
    table = pd.DataFrame(rows)
    folder = Path(given.results_dir) / "second_order"
    folder.mkdir(parents=True, exist_ok=True)
    reached = summary(table)
    reached.to_csv(folder / "logistic.csv", float_format="%.6g")
    medians = (
        table.groupby(["problem", "method", "step"], sort=False)[["seconds", "evaluations", "gap"]]
        .median()
        .reset_index()
    )
    medians[(medians["step"] <= NEWTON_STEPS) | (medians["step"] % 50 == 0)].to_csv(
        folder / "logistic_curves.csv", index=False, float_format="%.6g"
    )
    second_order_charts.write(second_order_charts.logistic(medians), folder)
    print(reached.to_string())


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """For every problem and method: the median steps and seconds to each tolerance (nan: half of the seeds or more miss it)."""
    rows = []
    for (problem, method), runs in table.groupby(["problem", "method"], sort=False):
        row = {"problem": problem, "method": method, "trial": runs["trial"].iloc[0], "seeds": runs["seed"].nunique()}
        row["final_gap"] = runs.groupby("seed")["gap"].last().median()
        for tolerance in TOLERANCES:
            first = [run[run["gap"] <= tolerance].head(1) for _, run in runs.groupby("seed")]
            for column in ("step", "evaluations", "seconds"):
                values = [float(hit[column].iloc[0]) if len(hit) else np.inf for hit in first]
                middle = float(np.median(values))
                row[f"{column}_to_{tolerance:g}"] = middle if np.isfinite(middle) else np.nan
        rows.append(row)
    return pd.DataFrame(rows).set_index(["problem", "method"])


if __name__ == "__main__":
    main()
