"""The runs of the studies that are sweeps, and the choices among them: made on seed 0, reported on the other seeds.

Choices are made on validation data. A study consists of the runs of one or two experiments: the baselines of the autoencoder and
of Entropy-SGD are separate experiments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.statistics.settings import seeds_only

SEEDS = (1, 2, 3)
TARGET = 0.8  # validation accuracy
FOLLOW_UPS = ("autoencoder_batch", "convnet_factors", "entropy_long")
EVERY_STEP = "K-FAC, factors every step"


@dataclass(frozen=True)
class Part:
    """One of the studies.

    experiments: the experiments of its runs. experiment: returns the experiment of a run. varied: the settings that identify a
    run of the experiment in a command, and so distinguish the choices of one method. label: returns the method of a run. score:
    of a run with its evaluations, lower is better.
    """

    name: str
    experiments: tuple[str, ...]
    experiment: Callable[[pd.Series], str]
    varied: tuple[str, ...]
    label: Callable[[pd.Series], str]
    score: Callable[[pd.Series, pd.DataFrame], float]


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


def _factors_label(run: pd.Series) -> str:
    return EVERY_STEP if run.get("config.optimizer.factor_period") == 1 else NAMES[run["optimizer"]]


def steps_to_target(history: pd.DataFrame) -> float:
    """The step at which the validation accuracy crosses the target, interpolated between evaluations; infinite if never."""
    steps, accuracies = history["step"].to_numpy(float), history["validation_accuracy"].to_numpy(float)
    reached = np.flatnonzero(accuracies >= TARGET)
    if not len(reached):
        return float("inf")
    after = int(reached[0])
    before_step, before = (steps[after - 1], accuracies[after - 1]) if after else (0.0, 0.1)
    return float(before_step + (steps[after] - before_step) * (TARGET - before) / (accuracies[after] - before))


PARTS = (
    Part(
        "autoencoder",
        ("second_order_autoencoder", "second_order_autoencoder_nesterov"),
        lambda run: "second_order_autoencoder" + ("_nesterov" if run["optimizer"] == "nesterov" else ""),
        ("optimizer", "trial", "optimizer.learning_rate", "momentum_schedule", "momentum_schedule.maximum"),
        lambda run: NAMES[run["optimizer"]],
        lambda run, history: float(history["validation_loss"].iloc[-1]),
    ),
    Part(
        "convnet",
        ("second_order_convnet",),
        lambda run: "second_order_convnet",
        ("optimizer", "batch", "trial", "optimizer.learning_rate"),
        _convnet_label,
        lambda run, history: steps_to_target(history),
    ),
    Part(
        "entropy",
        ("second_order_entropy", "second_order_entropy_baselines"),
        lambda run: "second_order_entropy" + ("" if run["optimizer"] == "entropy_sgd" else "_baselines"),
        ("optimizer", "trial", "optimizer.inner_steps"),
        _entropy_label,
        lambda run, history: -float(history["validation_accuracy"].iloc[-1]),
    ),
    Part(
        "autoencoder_batch",
        ("second_order_autoencoder_batch",),
        lambda run: "second_order_autoencoder_batch",
        ("optimizer", "trial", "optimizer.learning_rate", "momentum_schedule", "momentum_schedule.maximum"),
        lambda run: NAMES[run["optimizer"]],
        lambda run, history: float(history["validation_loss"].iloc[-1]),
    ),
    # The options of these two were chosen in the studies "convnet" and "entropy": they have no runs on seed 0.
    Part(
        "convnet_factors",
        ("second_order_convnet_factors",),
        lambda run: "second_order_convnet_factors",
        ("optimizer", "trial", "optimizer.factor_period"),
        _factors_label,
        lambda run, history: steps_to_target(history),
    ),
    Part(
        "entropy_long",
        ("second_order_entropy_long",),
        lambda run: "second_order_entropy_long",
        ("optimizer",),
        lambda run: "Entropy-SGD" if run["optimizer"] == "entropy_sgd" else NAMES[run["optimizer"]],
        lambda run, history: -float(history["validation_accuracy"].iloc[-1]),
    ),
)


def part_of(experiment: str) -> Part:
    """The study of the runs of ``experiment``; raises KeyError for another experiment."""
    for part in PARTS:
        if experiment in part.experiments:
            return part
    raise KeyError(experiment)


def scored(part: Part, runs: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    """The ended runs with method, choice and score (infinite if they diverged), the best of each method first.

    evaluations: the rows of their histories that are evaluations.
    """
    runs = runs[runs["status"].isin(["done", "diverged"])].copy()
    by_run = dict(list(evaluations.groupby("run_id"))) if len(evaluations) else {}
    runs["method"] = [part.label(run) for _, run in runs.iterrows()]
    runs["choice"] = [_words(part, run) for _, run in runs.iterrows()]
    runs["score"] = [
        part.score(run, by_run[run["run_id"]]) if run["status"] == "done" else np.inf for _, run in runs.iterrows()
    ]
    return runs.dropna(subset=["score"]).sort_values(["method", "score"])


def _words(part: Part, run: pd.Series) -> str:
    """The words of a command that identify the run, without its seed."""
    if part.name in FOLLOW_UPS:
        settings = _settings(part, run)
        return " ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings
        )
    words = []
    for name in part.varied:
        value = run[name] if name in ("optimizer", "batch", "trial") else run.get(f"config.{name}")
        nesterov_grid = run["optimizer"] == "nesterov" and part.name == "autoencoder"
        if pd.isna(value) or (name in ("trial", "optimizer") and nesterov_grid):
            continue
        if name == "optimizer" and value == "entropy_sgd":
            continue
        further_rates = part.name == "convnet" and run["optimizer"] == "momentum" and run["trial"] == 0
        if name == "optimizer.learning_rate" and not (nesterov_grid or further_rates):
            continue
        words.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return " ".join(words)


def _settings(part: Part, run: pd.Series) -> list[tuple[str, Any]]:
    """The varied settings of a run with their values; a trial other than 0 has a learning rate of its own."""
    found = []
    for name in part.varied:
        column = {"momentum_schedule": "config.momentum_schedule.name"}.get(name, f"config.{name}")
        value = run[name] if name in ("optimizer", "trial") else run.get(column)
        if not pd.isna(value) and not (run["trial"] and name == "optimizer.learning_rate"):
            found.append((name, value))
    return found


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """For each method the run of seed 0 with the best score; ties are broken by the best validation accuracy."""
    order = [name for name in ("score", "validation_accuracy") if name in runs]
    first = runs[runs["seed"] == 0].sort_values(order, ascending=[True, False][: len(order)])
    return first.groupby("method").head(1).sort_values("method")


def reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the chosen options, on the seeds that were not used for the choice.

    Raises `MixedSettings` if the runs of one method differ in more than the seed.
    """
    best = chosen(runs)[["method", "choice"]]
    return seeds_only(runs[runs["seed"] != 0].merge(best, on=["method", "choice"]), ["method", "choice"])


def commands(part: Part, runs: pd.DataFrame) -> Sequence[str]:
    """The commands that train the chosen options on more seeds."""
    found = []
    for _, best in chosen(runs).iterrows():
        seeds = ",".join(str(seed) for seed in SEEDS)
        # A choice that did not reach the target gets 1.5 times as many steps.
        more = "" if np.isfinite(best["score"]) else f" budget.steps={1.5 * best['steps']:.0f}"
        found.append(f"python -m optbench -m experiment={part.experiment(best)} {best['choice']}{more} seed={seeds}")
    return found
