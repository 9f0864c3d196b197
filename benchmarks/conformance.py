"""Certify every optimizer of torch.optim and of the pytorch-optimizer package.

    python benchmarks/conformance.py [--jobs 1] [--names adam soap torch.optim.RAdam] [--output results/conformance]

Writes matrix.csv, a row for each name and a column for each check, and failures.csv, a row for each failed check, with the
reason. A name that has a row is left out: the same command goes on where it was stopped. Each name is certified in a process of
its own, so that one which crashes is a row, too. Names that `optimizer=zoo` refuses are not among them.
"""

import argparse
import csv
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from optbench.optimizers import zoo
from optbench.testing.card import Card, read
from optbench.testing.certifying import CHECKS

# What a method cannot do without.
WORDS = {"alig": ("optimizer.learning_rate=0.1",), "bsam": ("+optimizer.options.num_data=1000",)}
MEASURED = {
    "memory": "bytes a parameter",
    "time": "of SGD's step",
    "evaluations": "evaluations a step",
    "weight decay": "kind",
}
COLUMNS = ("name", "passed", *(name for name, _, _ in CHECKS), *MEASURED.values())


def names() -> list[str]:
    """Every class of torch.optim that has a learning rate, then every name of the package that is not refused."""
    found = (value for value in vars(torch.optim).values() if inspect.isclass(value))
    classes = [each for each in found if issubclass(each, torch.optim.Optimizer) and each is not torch.optim.Optimizer]
    return [*sorted(f"torch.optim.{each.__name__}" for each in classes), *zoo.accepted()]


def certified(name: str, patience: float) -> Card | str | None:
    """The card of ``name``, or in a line why there is none; None where it is not done within ``patience`` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        # A choice of the bench may have the same name as one of the package's.
        subject = [name] if "." in name else ["optimizer=zoo", f"optimizer.name={name}"]
        command = [sys.executable, "-m", "optbench", "certify", *subject, *WORDS.get(name, ()), "--output", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired:
            return None
        cards = list(Path(folder).glob("*.json"))
        if cards:
            return read(cards[0])
        lines = ended.stderr.strip().splitlines()
        return lines[-1] if lines else f"ended with {ended.returncode}"


def row(name: str, card: Card | str) -> dict[str, Any]:
    if isinstance(card, str):
        return {"name": name, "passed": card}
    found: dict[str, Any] = {"name": name, "passed": "yes" if card.passed else "no"}
    found |= {check.name: check.outcome for check in card.checks}
    for check, value in MEASURED.items():
        measured = card[check].values.get(value, "")
        found[value] = f"{measured:.3g}" if isinstance(measured, float) else measured
    return found


def failures(name: str, card: Card | str) -> Iterator[dict[str, str]]:
    if isinstance(card, str):
        yield {"name": name, "check": "", "reason": card}
        return
    for check in card.failures:
        yield {"name": name, "check": check.name, "reason": check.reason}


class Table:
    """A CSV file that rows are added to; several threads may."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns, self._lock = path, columns, threading.Lock()
        if not path.exists():
            self.add([dict(zip(columns, columns, strict=True))])

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._lock, self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerows(rows)

    def names(self) -> set[str]:
        with self.path.open(newline="", encoding="utf-8") as file:
            return {each["name"] for each in csv.DictReader(file)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="names at a time; times are right with one (default)")
    parser.add_argument("--names", nargs="+", help="only these (default: all)")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds a name may take (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("results/conformance"))
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    matrix = Table(given.output / "matrix.csv", COLUMNS)
    failed = Table(given.output / "failures.csv", ("name", "check", "reason"))
    left = [name for name in given.names or names() if name not in matrix.names()]

    def work(name: str) -> None:
        card = certified(name, given.patience)
        if card is None:
            print(f"{name}: not done within {given.patience:.0f} s; the same command tries it again", flush=True)
            return
        # The row of the matrix last: a name that has one has its failures, too.
        failed.add(list(failures(name, card)))
        matrix.add([row(name, card)])
        said = card if isinstance(card, str) else [check.name for check in card.failures] or "passed"
        print(f"{name}: {said if isinstance(said, str) else json.dumps(said)}", flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(work, left))


if __name__ == "__main__":
    main()
