"""Write the folders of many finished runs without training them, for measurements of the store.

python benchmarks/many_runs.py FOLDER [--runs 100000] [--rows 20]

The configurations are those of a real grid (optimizers x batches x learning rates x seeds, digits, an MLP), composed once for
each optimizer; the results are random numbers of a plausible size. The sweep that lists them is called "many".
"""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optbench import config as configuration
from optbench.config.yaml_text import write_yaml
from optbench.store import RunDirectory, history
from optbench.store.run_directory import _digest
from optbench.sweep.plan import Entry, Plan, _content

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "lamb", "lion")
BATCHES = (16, 32, 64, 128, 256, 512)
RATES = 25
CODE = "e17ba74d326b4ce8"
SWEEP = "many"
# Stand for the values that differ between the runs of one optimizer, in a text that is written once.
_MARKS = {"batch": 918273645, "seed": 918273646, "learning_rate": 9182736.47}


def cells(number: int) -> Iterator[tuple[str, int, int, int]]:
    """Optimizer, batch, the index of the rate, and the seed; the seed changes slowest."""
    grid = list(itertools.product(OPTIMIZERS, BATCHES, range(RATES)))
    for index in range(number):
        yield *grid[index % len(grid)], index // len(grid)


class _Template:
    """The configuration of one optimizer, and its text with marks."""

    def __init__(self, optimizer: str) -> None:
        words = [f"optimizer={optimizer}", "dataset=digits", "model=mlp", "budget.steps=200", "tracker=none"]
        self.config = configuration.resolve(configuration.composed(words))
        marked = self.of(_MARKS["batch"], _MARKS["seed"], _MARKS["learning_rate"])  # type: ignore[arg-type]
        self.yaml, self.json = write_yaml(marked), json.dumps(marked)

    def of(self, batch: int, seed: int, rate: float) -> dict[str, Any]:
        return {
            **self.config,
            "batch": batch,
            "seed": seed,
            "optimizer": {**self.config["optimizer"], "learning_rate": rate},
        }


def _filled(text: str, batch: int, seed: int, rate: float) -> str:
    for mark, value in zip(_MARKS.values(), (batch, seed, rate), strict=True):
        text = text.replace(str(mark), str(value))
    return text


def summary(run_id: str, optimizer: str, batch: int, seed: int, rate: float, draw: random.Random) -> dict[str, Any]:
    loss = 0.1 + draw.random()
    counted = (
        "oracle_values",
        "oracle_products",
        "oracle_gradients",
        "parameters",
        "flops_per_step",
        "peak_host_bytes",
    )
    results = {f"{part}_loss": loss + 0.01 * place for place, part in enumerate(("train", "validation", "test"))}
    results |= {f"{part}_accuracy": 0.95 - loss / 10 for part in ("train", "validation", "test")}
    return {
        "run_id": run_id,
        "status": "done",
        "why": "",
        "code": CODE,
        "optimizer": optimizer,
        "model": "mlp",
        "dataset": "digits",
        "batch": batch,
        "seed": seed,
        "trial": 0,
        "learning_rate": rate,
        "base_learning_rate": rate,
        "scaling_rule": "none",
        "steps": 200,
        "samples": 200 * batch,
        "epochs": 200 * batch / 1293,
        "seconds_training": 1 + draw.random(),
        "seconds_evaluation": draw.random(),
        **dict.fromkeys(counted, 38440),
        **results,
        "gap_loss": 0.02,
        "gap_accuracy": 0.01,
        "best_validation_loss": loss,
        "best_validation_loss_step": 200,
        "model_flops_utilization": None,
        "peak_device_bytes": None,
    }


def write(folder: Path, runs: int, rows: int = 20) -> None:
    """Write ``runs`` finished runs with ``rows`` rows of history each, and the plan of their sweep, below ``folder``."""
    templates = {optimizer: _Template(optimizer) for optimizer in OPTIMIZERS}
    draw = random.Random(0)
    losses = ("loss", "train_loss", "validation_loss", "test_loss", "validation_accuracy", "test_accuracy")
    lines = [
        {"event": "evaluation", "step": 10 * step, **dict.fromkeys(losses, 1.0 / (1 + step))} for step in range(rows)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text, parquet = folder / "history.jsonl", folder / "history.parquet"
    history.rewrite(text, lines)
    history.write_parquet(text, parquet)
    parts = {path.name: path.read_bytes() for path in (text, parquet)}
    text.unlink()
    parquet.unlink()
    status = b'{"state": "done", "why": "", "since": "2026-11-29T23:01:39Z", "host": null, "pid": null, "crashes": 0}'
    environment = {
        "versions": {"python": "3.11.7", "optbench": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        "host": "node",
        "processor": "processor",
        "cores": 2,
        "devices": ["processor"],
        "ranks": 1,
        "command": ["__main__.py"],
        "code": [{"fingerprint": CODE, "commit": "6ee84a6b7fe3", "changed": False, "since": "2026-11-29T23:00:00Z"}],
    }
    parts |= {"status.json": status, "environment.json": json.dumps(environment).encode()}
    entries = []
    for optimizer, batch, index, seed in cells(runs):
        rate = float(f"{1e-4 * 1.5**index:.6g}")
        template = templates[optimizer]
        run_id = configuration.run_id(template.of(batch, seed, rate))
        run = RunDirectory.at(folder, run_id)
        run.path.mkdir(parents=True)
        frozen = _filled(template.yaml, batch, seed, rate).encode()
        quick = f'{{"config_yaml": "{_digest(frozen)}", "config": {_filled(template.json, batch, seed, rate)}}}'
        found = json.dumps(summary(run_id, optimizer, batch, seed, rate, draw), indent=2)
        for name, content in {
            **parts,
            "config.yaml": frozen,
            "config.json": quick.encode(),
            "summary.json": found.encode(),
        }.items():
            (run.path / name).write_bytes(content)
        cell = {"optimizer": optimizer, "batch": str(batch), "optimizer.learning_rate": str(rate), "seed": str(seed)}
        entries.append(Entry(run_id, cell))
    plan = Plan(folder, SWEEP)
    plan.path.mkdir(parents=True, exist_ok=True)
    (plan.path / "plan.jsonl").write_bytes(_content(entries))
    (plan.path / "sweep.json").write_text(json.dumps({"name": SWEEP, "experiment": None, "scale": None, "command": []}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=20)
    given = parser.parse_args()
    if given.folder.exists() and any(given.folder.iterdir()):
        sys.exit(f"{given.folder}: is not empty; accepted: a new folder")
    write(given.folder, given.runs, given.rows)


if __name__ == "__main__":
    main()
