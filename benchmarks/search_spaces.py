"""Measure the share of every optimizer's search space that trains: the defaults and points of each space on small problems.

    python benchmarks/search_spaces.py [--optimizers lars lm] [--trials 16] [--seed 0] [--workers 2] [--write]

`--write` writes the table of these optimizers to search_spaces.md, and keeps the text written by hand below it.

A trial is a run of the bench, which decides if it has diverged. A trial trains if it ends without divergence and with a
validation accuracy of at least TRAINS; chance is 10 %. The problems are digits with a small network, with batches that suit the
method; the numbers of steps are small, so that a space whose good part needs a long training counts as bad.
"""

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

from optbench import config
from optbench.provenance import environment
from optbench.store import load

HERE = Path(__file__).parent
TRAINS, WELL = 0.5, 0.9  # validation accuracies
COMMON = [
    "dataset=digits",
    "model=mlp",
    "eval_every=100%",
    "evaluate_train=100",
    "tracker=none",
    "trainer.accelerator=cpu",
]


@dataclass(frozen=True)
class Problem:
    """The words that, with COMMON, make a problem, and the optimizers that are tried on it."""

    about: str
    words: list[str]
    optimizers: tuple[str, ...] = ()


# The first problem is for every optimizer that no other problem names.
PROBLEMS = {
    "mini-batches": Problem("64-128-10, batch 32, 203 steps (5 epochs)", ["batch=32", "budget.epochs=5"]),
    "inner loop": Problem(
        "64-128-10, batch 32, 41 steps (1 epoch) of 20 gradients each",
        ["batch=32", "budget.epochs=1"],
        ("entropy_sgd",),
    ),
    "full batch": Problem(
        "64-128-10, all 1,293 examples at once, 50 steps", ["batch=1293", "budget.steps=50"], ("rprop",)
    ),
    "large batches": Problem(
        "64-16-10, batch 256, 20 steps",
        ["model.hidden=[16]", "batch=256", "budget.steps=20"],
        ("lbfgs", "hessian_free", "damped_newton", "saddle_free", "cubic_newton"),
    ),
    "large batches, longer": Problem(
        "64-16-10, batch 256, 100 steps", ["model.hidden=[16]", "batch=256", "budget.steps=100"], ("kfac_natural",)
    ),
    "tiny network": Problem(
        "64-8-10, batch 128, 20 steps", ["model.hidden=[8]", "batch=128", "budget.steps=20"], ("lm", "score_ggn")
    ),
}


def problem_of(optimizer: str) -> str:
    """The name of the problem for ``optimizer``."""
    return next((name for name, problem in PROBLEMS.items() if optimizer in problem.optimizers), next(iter(PROBLEMS)))


def searched(optimizer: str) -> bool:
    """True if the optimizer has a search space."""
    return bool(config.read_choice("optimizer", optimizer)["info"].get("search_space"))


def train(optimizers: Sequence[str], trials: int, seed: int, workers: int, folder: str) -> pd.DataFrame:
    """The runs of the defaults and of ``trials`` points of every space, one row each."""
    for name, problem in PROBLEMS.items():
        here = [optimizer for optimizer in optimizers if problem_of(optimizer) == name]
        for some, range_of_trials in (
            ([optimizer for optimizer in here if searched(optimizer)], f"range({trials + 1})"),
            ([optimizer for optimizer in here if not searched(optimizer)], "0"),
        ):
            if some:
                words = [*COMMON, *problem.words, f"optimizer={','.join(some)}", f"trial={range_of_trials}"]
                machine = [f"launcher.workers={workers}", f"results_dir={folder}"]
                command = [sys.executable, "-m", "optbench", "-m", *words, f"seed={seed}", *machine]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return load(folder)


def table(runs: pd.DataFrame) -> list[str]:
    """One row for each optimizer; the share is bold if less than half of the trials train."""
    lines = [
        "| optimizer | problem | trials | train | share | at least 90 % | diverged | the defaults | the best trial |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, of_it in sorted(runs.groupby(runs["optimizer"].map(_known_as)), key=lambda group: str(group[0])):
        columns = [str(name), problem_of(str(name).partition(":")[0]), *_counts(of_it[of_it["trial"] > 0])]
        columns.insert(-1, _percent(_accuracies(of_it[of_it["trial"] == 0]).iloc[0]))
        lines.append("| " + " | ".join(columns) + " |")
    return lines


def _known_as(optimizer: str) -> str:
    """The name of the choice; the zoo's runs have the package's name of the optimizer."""
    return optimizer if optimizer in config.choices("optimizer") else f"zoo: {optimizer}"


def _counts(drawn: pd.DataFrame) -> list[str]:
    """Trials, those that train, their share, those that reach WELL, those that diverged, and the best accuracy."""
    if drawn.empty:  # there is no space
        return [""] * 6
    accuracies = _accuracies(drawn)
    share = (accuracies >= TRAINS).mean()
    return [
        str(len(drawn)),
        str((accuracies >= TRAINS).sum()),
        f"{share:.2f}" if share >= 0.5 else f"**{share:.2f}**",
        str((accuracies >= WELL).sum()),
        str((drawn["status"] == "diverged").sum()),
        _percent(accuracies.max()),
    ]


def _accuracies(runs: pd.DataFrame) -> "pd.Series[float]":
    """Validation accuracies at the end, NaN for runs that are not done."""
    return runs["validation_accuracy"].where(runs["status"] == "done")


def _percent(accuracy: float) -> str:
    return "diverged" if pd.isna(accuracy) else f"{100 * accuracy:.1f} %"


def written_by_hand(path: Path) -> str:
    """The part of the file that is written by hand: from the first section on."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[text.find("\n## ") :] if "\n## " in text else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizers", nargs="+", default=config.choices("optimizer"))
    parser.add_argument("--trials", type=int, default=16, help="a power of two covers a space evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", metavar="FOLDER", help="a results folder for the runs; without it they are deleted")
    parser.add_argument("--write", action="store_true", help="into search_spaces.md")
    given = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        runs = train(given.optimizers, given.trials, given.seed, given.workers, given.keep or scratch)
    minutes = (time.perf_counter() - began) / 60
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_minutes = (used.ru_utime + used.ru_stime) / 60
    command = " ".join(["python benchmarks/search_spaces.py", *sys.argv[1:]])
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    today = datetime.datetime.now(datetime.UTC).date()
    text = "\n".join(
        [
            "# How much of every search space trains",
            "",
            f"`{command}` on {environment.processor()}, {os.cpu_count()} cores, {versions};",
            f"{today}; {len(runs)} runs in {minutes:.1f} minutes, {processor_minutes:.1f} minutes of the processor.",
            "",
            f"The problems are digits with a small ReLU network, seed {given.seed}. A trial trains if it ends without",
            f"having diverged and with a validation accuracy of at least {_percent(TRAINS)}; chance is 10 %. Trials are the",
            f"first {given.trials} points of the space, the defaults not among them. Bold: less than half of the trials train.",
            "Accuracies are on validation.",
            "",
            *table(runs),
            "",
            "| problem | network, batch, steps |",
            "| --- | --- |",
            *(f"| {name} | {problem.about} |" for name, problem in PROBLEMS.items()),
            "",
        ]
    )
    print(text)
    if given.write:
        path = HERE / "search_spaces.md"
        path.write_text(text + written_by_hand(path), encoding="utf-8")


if __name__ == "__main__":
    main()
