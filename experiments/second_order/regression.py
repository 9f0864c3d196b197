"""Levenberg-Marquardt and others on the regression of a sine: `python experiments/second_order/regression.py [--seeds 10]`.

Writes results/second_order/regression.csv (the end of every run), regression_curves.csv (medians) and regression.png and .pdf.
`--ablation` instead trains Levenberg-Marquardt without some of its three additions, at its defaults and on 20 seeds:
regression_ablation.csv. `--only WORDS` trains the methods whose names contain one of WORDS, and keeps the rows of the others.
"""

import argparse
from pathlib import Path

import pandas as pd
import second_order_charts
from problems import Method, Row, best_trial, sine, train

STEPS = 200
WITHOUT = {"momentum": ("momentum_share", None), "search": ("line_search", False), "uphill": ("uphill_power", None)}
PLAIN = dict(WITHOUT.values())
METHODS = (
    Method("LM, identity", "lm", STEPS, PLAIN | {"damping_matrix": "identity"}, ("damping", "damping_increase")),
    Method("LM, max diagonal", "lm", STEPS, PLAIN, ("damping", "damping_increase")),
    Method("LM, all three", "lm", STEPS, {}, ("damping", "damping_increase", "momentum_share")),
    Method(
        "LM, published momentum",
        "lm",
        STEPS,
        {"published_momentum": True},
        ("damping", "damping_increase", "momentum_share"),
    ),
    Method("L-BFGS", "lbfgs", STEPS, {}, ("learning_rate", "max_iter", "history_size")),
    Method("Hessian-free", "hessian_free", STEPS // 2, {}, ("damping", "cg_iterations")),
    Method("K-FAC, natural", "kfac_natural", STEPS, {"weight_decay": 0.0}, ("damping", "factor_decay")),
    Method("Adam", "adam", 10 * STEPS, {}, ("learning_rate", "beta1", "beta2")),
    Method("momentum SGD", "momentum", 10 * STEPS, {}, ("learning_rate", "momentum")),
)
# All three additions, each pair, and none.
ABLATION = tuple(
    Method(
        " + ".join(words) or "none",
        "lm",
        STEPS,
        {option: value for word, (option, value) in WITHOUT.items() if word not in words},
        (),
    )
    for words in (
        ("momentum", "search", "uphill"),
        ("search", "uphill"),
        ("momentum", "uphill"),
        ("momentum", "search"),
        (),
    )
)
FLOOR = 0.04 / 12  # the variance of the noise
SOLVED = 0.02  # a network that misses one of the sine's waves has a larger mean squared error


def main() -> None:
    """Tune on separate seeds, train on others, write tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, help="10, and 20 for the ablation")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS")
    parser.add_argument("--results-dir", default="results")
    given = parser.parse_args()
    methods = ABLATION if given.ablation else METHODS
    folder = Path(given.results_dir) / "second_order"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for method in methods:
        if not any(words in method.name for words in given.only):
            continue
        rows += trained(method, given.trials, given.seeds or (20 if given.ablation else 10))
    table = pd.DataFrame(rows)
    table["train_mse"] = 2 * table.pop("total")  # the loss is half of the squared error
    ends = table.groupby(["method", "seed"], sort=False).tail(1)
    order = [method.name for method in methods]
    if given.ablation:
        print(summary(merged(ends, folder / "regression_ablation.csv", order)).to_string())
        return
    medians = table.groupby(["method", "step"], sort=False)[["seconds", "train_mse"]].median().reset_index()
    medians = merged(medians[medians["step"] % 10 == 0], folder / "regression_curves.csv", order)
    second_order_charts.write(second_order_charts.regression(medians, FLOOR), folder)
    print(summary(merged(ends, folder / "regression.csv", order)).to_string())


def trained(method: Method, trials: int, seeds: int) -> list[Row]:
    """The rows of ``method`` at its best trial, on ``seeds`` seeds that were not used for tuning."""
    trial = 0
    if method.tuned:
        trial = best_trial(method, sine, trials, lambda problem, rows: problem.validation_loss(), seeds=2)
    print(method.name, "trial", trial, method.options(trial), flush=True)
    rows: list[Row] = []
    for seed in range(seeds):
        problem = sine(seed)
        run = train(method, problem, seed, method.options(trial))
        rows += [row | {"method": method.name, "seed": seed, "trial": trial} for row in run]
        rows[-1]["validation_mse"] = 2 * problem.validation_loss()
    return rows


def merged(table: pd.DataFrame, path: Path, order: list[str]) -> pd.DataFrame:
    """``table`` with the rows of other methods of ``order`` from ``path``, in this order; written to ``path``."""
    if path.exists():
        before = pd.read_csv(path)
        table = pd.concat([table, before[~before["method"].isin(table["method"]) & before["method"].isin(order)]])
    table = table.sort_values("method", key=lambda names: names.map(order.index), kind="stable")
    table.to_csv(path, index=False, float_format="%.6g")
    return table


def summary(ends: pd.DataFrame) -> pd.DataFrame:
    """The median and the range of the final error of every method, the number of solved seeds, and the seconds."""
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


if __name__ == "__main__":
    main()
