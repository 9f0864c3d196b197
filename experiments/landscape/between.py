"""Measure the lines from small- to large-batch minima, and the loss on planes around some of them.

    python experiments/landscape/between.py [--scale laptop]

At the learning rate of both protocols, for every seed and weight decay, the probe `interpolation` goes from the run of the
smallest batch (x = 0) to that of the largest (x = 1), as in `python -m optbench probe RUN probe=interpolation
probe.interpolation.other=RUN`; the measurement is stored with the run of the largest batch. With the first seed the probe
`landscape` also computes a plane around each minimum of equal train loss without weight decay and with the largest one; it is
written as "plane", because the run has already measured lines as "landscape". What has been measured is not measured again.
"""

import time

import torch
from landscape_minima import MATCHED, ended, pairs

from optbench import config as configuration
from optbench.analysis.studies import study_of_script
from optbench.probes import ProbeContext
from optbench.probes.posthoc import measure, revive
from optbench.store import RunDirectory

#: The numbers of points of a line and of a side of a plane. A quarter of the way is one of the points of a line.
POINTS = {"smoke": (9, 5), "laptop": (25, 21), "full": (401, 51)}
FIRST, LAST = -0.5, 1.5


def interpolate(small: RunDirectory, large: RunDirectory, points: int, examples: int) -> None:
    """Measure the line from the minimum of ``small`` to that of ``large``."""
    options = {"other": small.run_id, "points": points, "first": FIRST, "last": LAST, "examples": examples}
    for row in measure(large, "probe=interpolation", *(f"probe.interpolation.{k}={v}" for k, v in options.items())):
        print(f"{large.run_id}: {row}", flush=True)


def measure_plane(run: RunDirectory, points: int, examples: int) -> None:
    """Measure the loss on a plane of two filter-normalized directions, equal for every run of this seed."""
    options = {"plane": True, "points": points, "examples": examples, "statistics": "running"}
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
    runs = ended(study.runs)
    rate = runs.loc[runs["protocol"] != MATCHED, "learning_rate"].max()
    measured = {pair: ids for pair, ids in pairs(runs).items() if pair.rate == rate}
    examples: dict[str, int] = {}
    for small, large in measured.values():
        first, last = study.plan.directory(small), study.plan.directory(large)
        examples |= {run_id: first.config()["probe"]["landscape"]["examples"] for run_id in (small, large)}
        if not study.measurements(large, "interpolation"):
            interpolate(first, last, line_points, examples[large])
    decays = [pair.decay for pair in measured]
    for pair, ids in measured.items():
        if pair.protocol == MATCHED and pair.seed == runs["seed"].min() and pair.decay in (min(decays), max(decays)):
            for run_id in ids:
                if not study.measurements(run_id, "plane"):
                    measure_plane(study.plan.directory(run_id), plane_points, examples[run_id])


if __name__ == "__main__":
    main()
