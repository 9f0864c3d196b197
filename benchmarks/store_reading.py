"""Measure the time of reading many runs: `load` and `load_history` on synthetic results.

python benchmarks/store_reading.py [--runs 100 1000 5000] [--rows 200] [--unfinished 0.1]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from optbench.store import RunDirectory, load, load_history

HEADINGS = ("runs", "rows", "write (s)", "load (s)", "load_history (s)", "two columns (s)", "ms a run")


def config(index: int) -> dict[str, Any]:
    """A configuration of about the size of a real one."""
    groups = ("model", "dataset", "schedule", "scaling", "init", "budget", "trainer", "tracker", "loss", "averaging")
    return {
        "batch": 128 * 2 ** (index % 6),
        "seed": index % 3,
        "trial": index % 20,
        "optimizer": {"name": "sgd", "learning_rate": 0.1 / (1 + index), "momentum": 0.9, "betas": [0.9, 0.999]},
        **{group: {"name": f"{group}_{index % 4}", "size": index, "rate": 0.5, "on": True} for group in groups},
        "probes": {f"probe_{number}": {"every": "1epoch", "examples": 1000} for number in range(5)},
    }


def row(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 391,
        "samples": step * 128,
        "seconds": step * 0.01,
        "event": "train",
        "train_loss": 2.3 / (1 + step),
        "validation_loss": 2.4 / (1 + step) if step % 10 == 0 else None,
        "validation_accuracy": 1 - 0.9 / (1 + step),
        "learning_rate": 0.1,
        "gradient_norm": 1.0 / (1 + step),
    }


def write_results(folder: Path, runs: int, rows: int, unfinished: float) -> None:
    """Write ``runs`` synthetic runs, a fraction ``unfinished`` of which is still running."""
    history = "".join(json.dumps(row(step)) + "\n" for step in range(rows))
    for index in range(runs):
        run = RunDirectory.at(folder, f"sgd-lenet5-fashion_mnist-b128-{index:08x}")
        run.create(yaml.safe_dump(config(index), sort_keys=False))
        run.set_status("running")
        (run.path / "history.jsonl").write_text(history)
        if index >= runs * unfinished:
            metrics = {
                f"{part}_{what}": 0.5 for part in ("train", "validation", "test") for what in ("loss", "accuracy")
            }
            run.finish({"run_id": run.run_id, "steps": rows, "seconds_training": 1.5, **metrics})


def timed(function: Any, *arguments: Any, **options: Any) -> float:
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--rows", type=int, default=200, help="rows in the history of a run")
    parser.add_argument("--unfinished", type=float, default=0.1, help="the fraction of runs without a parquet file")
    arguments = parser.parse_args()
    print("  ".join(f"{name:>16}" for name in HEADINGS))
    for runs in arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            written = timed(write_results, Path(folder), runs, arguments.rows, arguments.unfinished)
            load(folder, runs=[])  # imports pandas
            load_history(folder, runs=[])
            frame = timed(load, folder)
            history = timed(load_history, folder)
            two = timed(load_history, folder, columns=["step", "train_loss"])
        cells = [runs, runs * arguments.rows, written, frame, history, two, 1000 * (frame + history) / runs]
        print("  ".join(f"{cell:>16,}" if isinstance(cell, int) else f"{cell:>16.2f}" for cell in cells))


if __name__ == "__main__":
    main()
