"""Measure the cost of a sweep beyond its training: tiny runs by warm workers or single processes, and planning of many runs.

python benchmarks/sweep_cost.py [--runs 200] [--alone 6] [--rounds 3] [--sizes 100 1000 10000] [--write]
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import nn

from optbench import config
from optbench.provenance import environment
from optbench.store import RunDirectory, index, load
from optbench.sweep.plan import plans

HERE = Path(__file__).parent
STEPS, BATCH = 20, 128
TINY = [
    "dataset=digits",
    "model=mlp",
    f"budget.steps={STEPS}",
    f"batch={BATCH}",
    "tracker=none",
    "trainer.accelerator=cpu",
]


def cpu_seconds(action: Callable[[], object]) -> float:
    """The processor seconds of this process and of the children that ended while ``action`` ran."""

    def used() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
        )

    before = used()
    action()
    return used() - before


def optbench(*words: str) -> None:
    command = [sys.executable, "-m", "optbench", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def bare_loops(runs: int) -> None:
    """The training itself: the same network on the same digits, in a hand-written loop."""
    from sklearn.datasets import load_digits

    inputs = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    targets = torch.tensor(load_digits().target)
    for seed in range(runs):
        torch.manual_seed(seed)
        hidden = config.read_choice("model", "mlp")["hidden"]
        sizes = [64, *hidden, 10]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(STEPS):
            index = torch.randint(len(inputs), (BATCH,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[index]), targets[index]).backward()
            optimizer.step()


def tiny_runs(runs: int, alone: int, rounds: int) -> list[str]:
    """Processor seconds for each run: bare, in a sweep, and in a process each; interleaved."""
    bare_loops(2)  # imports
    measured: dict[str, list[float]] = {"bare": [], "sweep": [], "process": []}
    for _ in range(rounds):
        measured["bare"].append(cpu_seconds(lambda: bare_loops(runs)) / runs)
        with tempfile.TemporaryDirectory() as folder:
            words = ["-m", *TINY, f"seed=range({runs})", "launcher.workers=2", f"results_dir={folder}"]
            measured["sweep"].append(cpu_seconds(lambda words=words: optbench(*words)) / runs)  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder:

            def one_by_one(folder: str = folder) -> None:
                for seed in range(alone):
                    optbench(*TINY, f"seed={seed}", f"results_dir={folder}")

            measured["process"].append(cpu_seconds(one_by_one) / alone)
    bare = median(measured["bare"])
    names = {
        "bare": "the training loop alone, written by hand",
        "sweep": f"`python -m optbench -m 'seed=range({runs})'`, two workers",
        "process": "`python -m optbench seed=...`, a process a run",
    }
    lines = ["| | processor seconds a run | beyond the loop |", "| --- | ---: | ---: |"]
    for name, text in names.items():
        seconds = median(measured[name])
        lines.append(f"| {text} | {seconds:.3f} | {seconds - bare:.3f} |")
    return lines


def seconds(action: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return median(found)


def finish(folder: Path) -> None:
    """Give every planned run a history and a summary, as if it had been trained."""
    for number, path in enumerate(sorted((folder / "runs").iterdir())):
        run = RunDirectory(path)
        for step in range(0, 200, 10):
            run.append(
                {
                    "event": "train",
                    "step": step,
                    "epoch": step / 10,
                    "samples": step * BATCH,
                    "seconds": 0.1,
                    "loss": 2.0,
                }
            )
        names = [f"{split}_{kind}" for split in ("train", "validation", "test") for kind in ("loss", "accuracy")]
        run.finish({"run_id": run.run_id, "status": "done", "steps": 200, **dict.fromkeys(names, number / 1e4)})
        index.add(run)


def many_runs(sizes: Sequence[int], rounds: int) -> list[str]:
    """Seconds of whole commands on plans of 100 to 10,000 runs."""
    lines = [
        "| runs | plan and freeze | the same again, all done | `status NAME` | `status` | `store.load` |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            columns = [f"{value:.2f}" for value in _many_runs(folder, size, rounds)]
            lines.append(f"| {size:,} | " + " | ".join(columns) + " |")
    return lines


def _many_runs(folder: str, size: int, rounds: int) -> list[float]:
    grid = ["optimizer=sgd,momentum,adam,lamb,lars", "batch=16,32,64,128,256", f"seed=range({size // 25})"]
    words = ["-m", *TINY[:3], *grid, "tracker=none", "launcher=slurm_debug", f"results_dir={folder}"]
    planning = seconds(lambda: optbench(*words), 1)
    finish(Path(folder))
    [plan] = plans(folder)
    place = ["--results-dir", folder]
    return [
        planning,
        seconds(lambda: optbench(*words), 1),
        seconds(lambda: optbench("status", plan.name, *place), rounds),
        seconds(lambda: optbench("status", *place), rounds),
        seconds(lambda: load(folder), rounds),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--alone", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--write", action="store_true", help="into sweep_cost.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    where = f"{environment.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = "\n".join(
        [
            "# What a sweep costs",
            "",
            f"`python benchmarks/sweep_cost.py` on {where}, torch {torch.__version__};",
            f"medians of {given.rounds} rounds, interleaved.",
            "",
            f"## Tiny runs: digits, an MLP, {STEPS} steps each, {given.runs} runs",
            "",
            "Everything counts: start-up, planning, evaluation, the store. Processor seconds of all processes, one thread each.",
            "",
            *tiny_runs(given.runs, given.alone, given.rounds),
            "",
            "## Many runs: seconds of whole commands, start of Python included (`store.load` without)",
            "",
            "`launcher=slurm_debug`, which plans, freezes every run into its directory and writes the sbatch scripts;",
            "five optimizers, five batches, as many seeds as it takes. `status` without a name also tabulates all runs.",
            "",
            *many_runs(given.sizes, given.rounds),
            "",
        ]
    )
    print(text)
    if given.write:
        (HERE / "sweep_cost.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
