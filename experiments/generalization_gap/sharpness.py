"""Measure the solutions of the best trials of the smallest and the largest batch: their sharpness, and the loss between them.

    python experiments/generalization_gap/sharpness.py [--scale laptop]

It measures as `python -m optbench probe RUN probe=sharpness` does, and on the line from the run of the smallest batch (0) to
that of the largest (1), of the same optimizer and seed, as `probe=interpolation probe.interpolation.other=RUN` does.
"""

import torch
from gap_conditions import METRIC, PLAIN, conditions, of_best_trials

from optbench.analysis.statistics.selection import select
from optbench.analysis.studies import study_of_script
from optbench.probes.posthoc import measure

EXAMPLES = 2048


def main() -> None:
    """Take the measurements that the analysis uses."""
    study = study_of_script("generalization_gap", __doc__)
    torch.set_num_threads(1)
    plain = study.runs[conditions(study.runs) == PLAIN]
    chosen = of_best_trials(plain, select(plain, ["optimizer", "batch"], METRIC))
    done = chosen[chosen["state"] == "done"]
    ends = {"small": done["batch"].min(), "large": done["batch"].max()}
    for (optimizer, seed), runs in done.groupby(["optimizer", "seed"]):
        pair = {
            end: study.plan.directory(run_id)
            for end, batch in ends.items()
            for run_id in runs.loc[runs["batch"] == batch, "run_id"]
        }
        for run in pair.values():
            measure(run, "probe=sharpness", "probe.sharpness.start=false", f"probe.sharpness.examples={EXAMPLES}")
        if len(pair) == 2:
            other = f"probe.interpolation.other={pair['small'].run_id}"
            measure(pair["large"], "probe=interpolation", other, f"probe.interpolation.examples={EXAMPLES}")
        print(f"{optimizer}, seed {seed}: {len(pair)} solutions", flush=True)


if __name__ == "__main__":
    main()
