"""Tables and figures of the studies that are sweeps: `python experiments/second_order/analysis.py [--results-dir results]`.

With --reruns it prints, instead, the commands that train what was chosen on further seeds. Choices are made on seed 0 and on
validation data; what is reported are the other seeds.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import figures
import numpy as np
import pandas as pd

from optbench.store import load, load_history

SEEDS = (1, 2, 3)
TARGET = 0.8  # validation accuracy


@dataclass(frozen=True)
class Study:
    """A study made of sweeps.

    of: which runs are its own, a mask. experiment: of a run, the experiment that it belongs to. varied: what a command must
    set to name a run of the experiment, and what tells methods apart (``method``, the first ones) from their choices.
    score: of a run with its history, lower is better.
    """

    name: str
    of: Callable[[pd.DataFrame], pd.Series]
    experiment: Callable[[pd.Series], str]
    varied: tuple[str, ...]
    label: Callable[[pd.Series], str]
    score: Callable[[pd.Series, pd.DataFrame], float]


# ---- which runs, and how they are called ------------------------------------------------------------------------------------


def _is(runs: pd.DataFrame, **values: str | float) -> pd.Series:
    """The runs whose configuration has these values; a double underscore stands for a dot."""
    mask = pd.Series(True, index=runs.index)
    for name, value in values.items():
        column = f"config.{name.replace('__', '.')}"
        mask &= runs[column].eq(value) if column in runs else False
    return mask


def _autoencoders(runs: pd.DataFrame) -> pd.Series:
    return _is(
        runs, model__name="autoencoder", model__hidden="[100, 50]", init__name="sparse", dataset__train_limit=4000
    )


def _convnets(runs: pd.DataFrame) -> pd.Series:
    return _is(runs, model__name="lenet5", model__padded=False, budget__target=TARGET, dataset__train_limit=8192)


def _perceptrons(runs: pd.DataFrame) -> pd.Series:
    return _is(runs, model__name="mlp", model__hidden="[64]", schedule__name="cosine", dataset__train_limit=10000)


NAMES = {
    "kfac_natural": "K-FAC, natural",
    "hessian_free": "Hessian-free",
    "nesterov": "Nesterov",
    "adam": "Adam",
    "sgd": "SGD",
    "momentum": "momentum SGD",
    "kfac": "K-FAC",
    "ekfac": "EKFAC",
}


def _entropy_label(run: pd.Series) -> str:
    return (
        f"Entropy-SGD, L = {run['config.optimizer.inner_steps']:.0f}"
        if run["optimizer"] == "entropy_sgd"
        else NAMES[run["optimizer"]]
    )


def _convnet_label(run: pd.Series) -> str:
    return f"{NAMES[run['optimizer']]}, batch {run['batch']:.0f}"


def steps_to_target(history: pd.DataFrame) -> float:
    """The step at which the validation accuracy crosses the target, on a line between evaluations; infinite if it does not."""
    steps, accuracies = history["step"].to_numpy(float), history["validation_accuracy"].to_numpy(float)
    reached = np.flatnonzero(accuracies >= TARGET)
    if not len(reached):
        return float("inf")
    after = int(reached[0])
    before_step, before = (steps[after - 1], accuracies[after - 1]) if after else (0.0, 0.1)
    return float(before_step + (steps[after] - before_step) * (TARGET - before) / (accuracies[after] - before))


STUDIES = (
    Study(
        "autoencoder",
        _autoencoders,
        lambda run: "second_order_autoencoder" + ("_nesterov" if run["optimizer"] == "nesterov" else ""),
        ("optimizer", "trial", "optimizer.learning_rate", "momentum_schedule.maximum"),
        lambda run: NAMES[run["optimizer"]],
        lambda run, history: float(history["validation_loss"].iloc[-1]),
    ),
    Study(
        "convnet",
        _convnets,
        lambda run: "second_order_convnet",
        ("optimizer", "batch", "trial", "optimizer.learning_rate"),
        _convnet_label,
        lambda run, history: steps_to_target(history),
    ),
    Study(
        "entropy",
        _perceptrons,
        lambda run: "second_order_entropy" + ("" if run["optimizer"] == "entropy_sgd" else "_baselines"),
        ("optimizer", "trial", "optimizer.inner_steps"),
        _entropy_label,
        lambda run, history: -float(history["validation_accuracy"].iloc[-1]),
    ),
)


def scored(study: Study, results_dir: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ended runs of ``study`` with method, choice and score (infinite where they diverged), and their evaluations."""
    runs = load(results_dir)
    runs = runs[study.of(runs) & runs["status"].isin(["done", "diverged"])].copy()
    if runs.empty:
        return runs, runs
    history = load_history(results_dir, runs["run_id"])
    history = history[history["event"] == "evaluation"]
    evaluations = dict(list(history.groupby("run_id")))
    runs["method"] = [study.label(run) for _, run in runs.iterrows()]
    runs["choice"] = [_words(study, run) for _, run in runs.iterrows()]
    runs["score"] = [
        study.score(run, evaluations[run["run_id"]]) if run["status"] == "done" else np.inf
        for _, run in runs.iterrows()
    ]
    runs = runs.dropna(subset=["score"])
    return runs.sort_values(["method", "score"]), history


def _words(study: Study, run: pd.Series) -> str:
    """What a command must say to name the run, but for its seed."""
    words = []
    for name in study.varied:
        value = run[name] if name in ("optimizer", "batch", "trial") else run.get(f"config.{name}")
        nesterov_grid = run["optimizer"] == "nesterov" and study.name == "autoencoder"
        if pd.isna(value) or (name in ("trial", "optimizer") and nesterov_grid):
            continue
        if name == "optimizer" and value == "entropy_sgd":
            continue
        further_rates = study.name == "convnet" and run["optimizer"] == "momentum" and run["trial"] == 0
        if name == "optimizer.learning_rate" and not (nesterov_grid or further_rates):
            continue
        words.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return " ".join(words)


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """For each method the run of seed 0 with the best score, and of equal ones that with the best validation accuracy."""
    first = runs[runs["seed"] == 0].sort_values(["score", "validation_accuracy"], ascending=[True, False])
    return first.groupby("method").head(1).sort_values("method")


def reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of what was chosen, on the seeds that it was not chosen on."""
    best = chosen(runs)[["method", "choice"]]
    return runs[runs["seed"] != 0].merge(best, on=["method", "choice"])


# ---- tables -----------------------------------------------------------------------------------------------------------------


def table(study: Study, runs: pd.DataFrame) -> pd.DataFrame:
    """A line a method: what was tried and chosen, and mean and standard deviation of the results over the reported seeds."""
    rows = []
    for _, best in chosen(runs).iterrows():
        tried = runs[(runs["method"] == best["method"]) & (runs["seed"] == 0)]
        again = reported(runs)
        again = again[again["method"] == best["method"]]
        row = {
            "method": best["method"],
            "choice": best["choice"],
            "learning_rate": best["learning_rate"],
            "tried": len(tried),
            "diverged": int((tried["status"] == "diverged").sum()),
            "seeds": again["seed"].nunique(),
            "steps": again["config.budget.steps"].max(),
            "seconds": again["seconds_training"].mean(),
        }
        if study.name == "convnet":
            row |= {"reached": int(np.isfinite(tried["score"]).sum()), "steps_to_target_seed_0": best["score"]}
            row |= {
                "steps_to_target": again["score"].median(),
                "least": again["score"].min(),
                "most": again["score"].max(),
            }
        else:
            metrics = ["train_loss", "test_loss"] + (
                ["test_accuracy", "gap_accuracy"] if study.name == "entropy" else []
            )
            for metric in metrics:
                row |= {metric: again[metric].mean(), f"{metric}_deviation": again[metric].std()}
        rows.append(row)
    return pd.DataFrame(rows)


def curves(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Evaluations of the reported runs, averaged over seeds."""
    rows = history.merge(reported(runs)[["run_id", "method"]], on="run_id")
    columns = ["seconds", "train_loss", "validation_loss", "test_loss", "validation_accuracy", "test_accuracy"]
    kept = [column for column in columns if rows[column].notna().any()]
    return rows.groupby(["method", "step"])[kept].mean().reset_index()


def with_processor_seconds(means: pd.DataFrame, study: Study, folder: Path) -> pd.DataFrame:
    """Curves with the processor seconds of the steps by ``step_cost.py``, where it has been run."""
    path = folder / "step_cost.csv"
    if not path.is_file():
        return means
    costs = pd.read_csv(path)
    of_method = dict(costs.loc[costs["study"] == study.name, ["method", "seconds_a_step"]].to_numpy())
    return means.assign(processor_seconds=means["step"] * means["method"].map(of_method))


def main() -> None:
    """Write the tables and figures of every study that has runs, or print the commands of what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--reruns", action="store_true", help="print commands instead")
    parser.add_argument("--study", choices=[study.name for study in STUDIES], help="only this one")
    given = parser.parse_args()
    folder = Path(given.results_dir) / "second_order"
    for study in STUDIES:
        if given.study not in (None, study.name):
            continue
        runs, history = scored(study, given.results_dir)
        if runs.empty:
            continue
        if given.reruns:
            for _, best in chosen(runs).iterrows():
                seeds = ",".join(str(seed) for seed in SEEDS)
                # What nearly came to the target is given half as many steps again.
                more = "" if np.isfinite(best["score"]) else f" budget.steps={1.5 * best['steps']:.0f}"
                print(f"python -m optbench -m experiment={study.experiment(best)} {best['choice']}{more} seed={seeds}")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        rows, means = table(study, runs), with_processor_seconds(curves(runs, history), study, folder)
        rows.to_csv(folder / f"{study.name}.csv", index=False, float_format="%.6g")
        means.to_csv(folder / f"{study.name}_curves.csv", index=False, float_format="%.6g")
        path = folder / f"{study.name}.png"
        if study.name == "autoencoder":
            figures.autoencoder(means, path)
        elif study.name == "convnet":
            figures.convnet(rows, path)
        else:
            figures.entropy(means, path)
        print(rows.to_string(index=False))


if __name__ == "__main__":
    main()
