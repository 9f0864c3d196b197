"""Measure the lines from small- to large-batch minima, and the loss on planes around one pair of them.

    python experiments/landscape/between.py [--scale laptop]

For every seed and weight decay the probe `interpolation` goes from the run of the smallest batch (x = 0) to that of the
largest (x = 1), as in `python -m optbench probe RUN probe=interpolation probe.interpolation.other=RUN`; the measurement is
stored with the run of the largest batch. With the first seed the probe `landscape` also computes a plane around each minimum;
it is written as "plane", because the run has already measured lines as "landscape".
"""

import time

import pandas as pd
import torch

from optbench import config as configuration
from optbench.analysis.studies import study_of_script
from optbench.probes import ProbeContext
from optbench.probes.posthoc import measure, revive
from optbench.store import RunDirectory

#: The numbers of points of a line and of a side of a plane.
POINTS = {"smoke": (7, 5), "laptop": (41, 21), "full": (401, 51)}
FIRST, LAST = -0.5, 1.5


def interpolate(small: RunDirectory, large: RunDirectory, points: int, examples: int) -> None:
    """Measure the line from the minimum of ``small`` to that of ``large``."""
    options = {"other": small.run_id, "points": points, "first": FIRST, "last": LAST, "examples": examples}
    for row in measure(large, "probe=interpolation", *(f"probe.interpolation.{k}={v}" for k, v in options.items())):
        print(f"{large.run_id}: {row}", flush=True)


def measure_plane(run: RunDirectory, points: int, examples: int) -> None:
    """Measure the loss on a plane of two filter-normalized directions, equal for every run of this seed."""
    options = {"plane": True, "points": points, "examples": examples}
    words = [f"probe.landscape.{name}={value}" for name, value in options.items()]
    probe = configuration.compose(["probe=landscape", *words])["probe"]
    revived = revive(run, {**configuration.thaw(run), "probe": probe}, run.checkpoint)
    began = time.perf_counter()
    found = revived.probes.scheduled[0].probe.measure(ProbeContext(revived.task, list, run))
    seconds = time.perf_counter() - began
    run.measurements.write("plane", revived.task.step, found.values, found.arrays, seconds, options)
    print(f"{run.run_id}: plane in {seconds:.1f} s", flush=True)


def main() -> None:
    """Measure the pairs of the study that have ended."""
    study = study_of_script("landscape", __doc__)
    torch.set_num_threads(1)
    line_points, plane_points = POINTS[study.scale or "laptop"]
    runs = study.runs
    done: pd.DataFrame = runs[runs["state"] == "done"]
    for _, pair in done.groupby(["seed", "cell.optimizer.weight_decay"]):
        small, large = (pair[pair["batch"] == batch] for batch in (runs["batch"].min(), runs["batch"].max()))
        if len(small) and len(large):
            first, last = (study.plan.directory(rows["run_id"].iloc[0]) for rows in (small, large))
            interpolate(first, last, line_points, first.config()["probe"]["landscape"]["examples"])
    for run_id in done.loc[done["seed"] == runs["seed"].min(), "run_id"]:
        run = study.plan.directory(run_id)
        # A plane has many more points than a line, so that fewer examples are used.
        measure_plane(run, plane_points, run.config()["probe"]["extremes"]["examples"])


if __name__ == "__main__":
    main()
