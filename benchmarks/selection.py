"""Measure the time and the memory of choosing a tenth of 60,000 examples of 10 classes by facility location.

    python benchmarks/selection.py [--examples 60000] [--output benchmarks/selection.md]

Each row is made by a process of its own, whose peak of resident memory is measured. Points are the gradients softmax minus
one-hot of random outputs.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from optbench.provenance import environment
from optbench.selection.facility_location import facility_location

CLASSES, FRACTION = 10, 0.1


def choose(examples: int) -> None:
    """Print the seconds of the choice, those of a processor, and the peak in bytes before and after."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began, of_processor = time.perf_counter(), time.process_time()
    for label in range(CLASSES):
        points = torch.randn(examples // CLASSES, CLASSES, generator=generator).softmax(1)
        points[:, label] -= 1
        facility_location(points, round(FRACTION * len(points)))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(time.perf_counter() - began, time.process_time() - of_processor, before, after)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, nargs="+", default=[6000, 60000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", type=int)
    given = parser.parse_args()
    if given.child is not None:
        choose(given.child)
        return
    lines = [
        "# The cost of choosing a subset",
        "",
        f"`python benchmarks/selection.py` on {environment.processor()}, one thread; torch {torch.__version__}, Python "
        f"{platform.python_version()}.",
        "",
        f"{FRACTION:.0%} of the examples of {CLASSES} classes, chosen a class at a time from gradients in {CLASSES} outputs.",
        "",
        "| examples | seconds | of a processor | peak of the process | of which for the choice |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for examples in given.examples:
        words = [sys.executable, __file__, "--child", str(examples)]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        seconds, of_processor, before, after = map(float, printed.split())
        of_choice = (after - before) / 2**20
        lines.append(
            f"| {examples:,} | {seconds:.1f} | {of_processor:.1f} | {after / 2**20:.0f} MiB | {of_choice:.0f} MiB |"
        )
    text = "\n".join([*lines, ""])
    print(text)
    if given.output is not None:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
