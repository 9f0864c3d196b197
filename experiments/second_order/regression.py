"""Levenberg-Marquardt and others on the regression of a sine: `python experiments/second_order/regression.py [--seeds 10]`.

Writes results/second_order/regression.csv (the end of every run), regression_curves.csv (medians) and regression.png.
"""

import argparse
from pathlib import Path

import matplotlib
import pandas as pd
from problems import Method, best_trial, sine, train

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS = 200
PLAIN = {"momentum_length": None, "line_search": False, "uphill_power": None}
METHODS = (
    Method("LM, identity", "lm", STEPS, PLAIN | {"damping_matrix": "identity"}, ("damping", "damping_increase")),
    Method("LM, max diagonal", "lm", STEPS, PLAIN, ("damping", "damping_increase")),
    Method("LM, momentum + search", "lm", STEPS, {}, ("damping", "damping_increase", "momentum_length")),
    Method(
        "LM, published momentum",
        "lm",
        STEPS,
        {"published_momentum": True},
        ("damping", "damping_increase", "momentum_length"),
    ),
    Method("L-BFGS", "lbfgs", STEPS, {}, ("learning_rate", "max_iter", "history_size")),
    Method("Hessian-free", "hessian_free", STEPS // 2, {}, ("damping", "cg_iterations")),
    Method("K-FAC, natural", "kfac_natural", STEPS, {"weight_decay": 0.0}, ("damping", "factor_decay")),
    Method("Adam", "adam", 10 * STEPS, {}, ("learning_rate", "beta1", "beta2")),
    Method("momentum SGD", "momentum", 10 * STEPS, {}, ("learning_rate", "momentum")),
)
FLOOR = 0.04 / 12  # the variance of the noise
SOLVED = 0.02  # a mean squared error that no network has which misses one of the sine's waves


def main() -> None:
    """Tune on seeds of their own, train on ten others, write tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--results-dir", default="results")
    given = parser.parse_args()
    rows = []
    for method in METHODS:
        trial = best_trial(method, sine, given.trials, lambda problem, rows: problem.validation_loss(), seeds=2)
        print(method.name, "trial", trial, method.options(trial), flush=True)
        for seed in range(given.seeds):
            problem = sine(seed)
            run = train(method, problem, seed, method.options(trial))
            rows += [row | {"method": method.name, "seed": seed, "trial": trial} for row in run]
            rows[-1]["validation_mse"] = 2 * problem.validation_loss()
    table = pd.DataFrame(rows)
    table["train_mse"] = 2 * table.pop("total")  # the loss is half of the squared error
    folder = Path(given.results_dir) / "second_order"
    folder.mkdir(parents=True, exist_ok=True)
    ends = table.groupby(["method", "seed"], sort=False).tail(1)
    ends.to_csv(folder / "regression.csv", index=False, float_format="%.6g")
    medians = table.groupby(["method", "step"], sort=False)[["seconds", "train_mse"]].median().reset_index()
    medians[medians["step"] % 10 == 0].to_csv(folder / "regression_curves.csv", index=False, float_format="%.6g")
    draw(medians, folder / "regression.png")
    print(summary(ends).to_string())


def summary(ends: pd.DataFrame) -> pd.DataFrame:
    """The median and the range of the final error of every method, how many seeds are solved, and the seconds."""
    groups = ends.groupby("method", sort=False)
    return groups.agg(
        trial=("trial", "first"),
        steps=("step", "median"),
        median=("train_mse", "median"),
        best=("train_mse", "min"),
        worst=("train_mse", "max"),
        validation=("validation_mse", "median"),
        solved=("train_mse", lambda errors: int((errors < SOLVED).sum())),
        seconds=("seconds", "median"),
    )


def draw(medians: pd.DataFrame, path: Path) -> None:
    """The median error over seeds against steps and against seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, rows in medians.groupby("method", sort=False):
        axes[0].plot(rows["step"].clip(lower=1), rows["train_mse"], label=name)
        axes[1].plot(rows["seconds"].clip(lower=1e-3), rows["train_mse"], label=name)
    for axis, label in zip(axes, ("step", "seconds"), strict=True):
        axis.axhline(FLOOR, color="grey", linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel=label)
    axes[0].set_ylabel("mean squared error, median of the seeds")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
