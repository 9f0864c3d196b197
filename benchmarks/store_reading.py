"""Measure what reads many runs, with the index of the results and without: `load`, `read_results`, `status` and `report`.

python benchmarks/store_reading.py [--runs 100000] [--results FOLDER] [--write]

FOLDER is one that benchmarks/many_runs.py has written; without it, one is written for the time of the measurement. Each part is
measured in a process of its own, in seconds of its processor time, since other programs may keep the cores busy. Reading the
folders is measured on `FOLDERS` of the runs, and compared for each run.
"""

import argparse
import contextlib
import io
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import many_runs
import pandas  # noqa: F401  (not to be measured)
import pyarrow.parquet  # noqa: F401

from optbench.cli.report import report
from optbench.cli.status import status
from optbench.provenance import environment
from optbench.store import RunDirectory, history, index, load, read_results
from optbench.store.reading import ids_of_runs

HERE = Path(__file__).parent
ASKED, FOLDERS = 3000, 1000
NAMES = ["validation_loss", "steps", "seconds_training"]


def some(folder: Path, number: int) -> list[str]:
    run_ids = ids_of_runs(folder)
    return random.Random(0).sample(run_ids, min(number, len(run_ids)))


def without_index() -> None:
    index._files = lambda folder: []
    index.MANY = 10**9


# What is measured, by a short name: it is prepared first, and then done.
def prepared(name: str, folder: Path) -> Callable[[], object]:
    text, parquet = folder / "history.jsonl", folder / "history.parquet"
    place = ["--results-dir", str(folder)]
    asked = some(folder, ASKED if "results" in name else FOLDERS) if "history" not in name else []
    if "folders" in name:
        without_index()
    actions: dict[str, Callable[[], object]] = {
        "load": lambda: load(folder),
        "load, folders": lambda: load(folder, asked),
        "results": lambda: read_results(folder, asked, NAMES),
        "results, folders": lambda: read_results(folder, asked, NAMES),
        "new": lambda: read_results(folder, asked[:1], NAMES),
        "status NAME": lambda: status([many_runs.SWEEP, *place]),
        "status": lambda: status(place),
        "report NAME": lambda: report([many_runs.SWEEP, *place]),
        "history, write": lambda: history.write_parquet(text, parquet),
        "history, read": lambda: history.read_table(text, parquet),
        "history, read lines": lambda: history.read_table(text, folder / "none"),
        "history, truncate": lambda: history.truncate(text, 10**9),
    }
    if name == "new":
        RunDirectory.at(folder, asked[0]).finish({"validation_loss": 0.5})
    return actions[name]


def measure(name: str, folder: Path) -> None:
    """Print the processor seconds of one part, and the largest memory of this process in MB."""
    action = prepared(name, folder)
    before = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        action()
    print(time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measured(name: str, folder: Path) -> tuple[float, float]:
    command = [sys.executable, __file__, "--results", str(folder), "--measure", name]
    seconds, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(seconds), float(peak)


def of_runs(folder: Path) -> list[str]:
    runs = len(ids_of_runs(folder))
    if not (folder / ".index").exists():
        measured("load", folder)
    slow = measured("load, folders", folder)[0] / min(FOLDERS, runs) * runs
    rows = {
        "`load`": ("load", slow),
        f"`read_results` of {min(ASKED, runs):,} of them": ("results", measured("results, folders", folder)[0]),
        "`read_results` of one that has just finished": ("new", None),
        "`status NAME`": ("status NAME", None),
        "`status`": ("status", None),
        "`report NAME`": ("report NAME", None),
    }
    lines = ["| | seconds | MB | from the folders | ratio |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, (short, before) in rows.items():
        seconds, peak = measured(short, folder)
        compared = " | " if before is None else f"{before:.3g} | {before / seconds:.3g}"
        lines.append(f"| {name} | {seconds:.3g} | {peak:.0f} | {compared} |")
    size = sum(path.stat().st_size for path in (folder / ".index").iterdir())
    return [*lines, "", f"The index of {runs:,} runs has {size / 1e6:.1f} MB."]


def of_a_history(folder: Path, rows: int) -> list[str]:
    with (folder / "history.jsonl").open("w") as file:
        for step in range(rows):
            file.write(f'{{"event": "train", "step": {step}, "epoch": {step / 391}, "loss": {1 / (1 + step)}}}\n')
    lines = ["| | seconds | MB |", "| --- | ---: | ---: |"]
    for name, short in {
        "write history.parquet": "history, write",
        "read history.parquet": "history, read",
        "read history.jsonl as a table": "history, read lines",
        "truncate history.jsonl": "history, truncate",
    }.items():
        seconds, peak = measured(short, folder)
        lines.append(f"| {name} | {seconds:.3g} | {peak:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the long history")
    parser.add_argument("--results", type=Path, metavar="FOLDER")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="into store_reading.md")
    given = parser.parse_args()
    if given.measure:
        return measure(given.measure, given.results)
    with tempfile.TemporaryDirectory() as place:
        folder = given.results or Path(place) / "results"
        if not given.results:
            many_runs.write(folder, given.runs)
        of_many, of_one = of_runs(folder), of_a_history(Path(place), given.rows)
        runs = len(ids_of_runs(folder))
    text = "\n".join(
        [
            "# What reading results costs",
            "",
            f"`python benchmarks/store_reading.py` on {environment.processor()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}.",
            "Seconds are processor time of one process, without imports; MB is its largest memory, with imports.",
            "",
            f"## {runs:,} finished runs, with the index",
            "",
            f'"From the folders" is without the index, measured on {min(FOLDERS, runs):,} runs. The index is compared',
            "with the files of every run each time.",
            "",
            *of_many,
            "",
            f"## A history of {given.rows:,} rows",
            "",
            *of_one,
            "",
        ]
    )
    print(text)
    if given.write:
        (HERE / "store_reading.md").write_text(text, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
