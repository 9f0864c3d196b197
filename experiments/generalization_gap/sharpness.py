"""Measure the solutions of momentum SGD at the small and at the large batch: their sharpness, and the loss between them.

    python experiments/generalization_gap/sharpness.py [--scale laptop]

It measures as `python -m optbench probe RUN probe=sharpness` does, and on the line from the run of the small batch (0) to
that of the large one (1), of the same seed, as `probe=interpolation probe.interpolation.other=RUN` does.
"""

import torch
from gap_conditions import of_study
from gap_sharpness import pairs

from optbench.analysis.studies import study_of_script
from optbench.probes.posthoc import measure

EXAMPLES = 2048


def main() -> None:
    """Take the measurements that the analysis uses."""
    study = study_of_script("generalization_gap", __doc__)
    torch.set_num_threads(1)
    found = of_study(study)
    small: dict[int, str] = {}
    for comparison, batch, runs in pairs(found) if found is not None else ():
        for _, row in runs.iterrows():
            run = study.plan.directory(row["run_id"])
            measure(run, "probe=sharpness", "probe.sharpness.start=false", f"probe.sharpness.examples={EXAMPLES}")
            if found is not None and batch == found.small:
                small[row["seed"]] = row["run_id"]
            elif row["seed"] in small:
                other = f"probe.interpolation.other={small[row['seed']]}"
                measure(run, "probe=interpolation", other, f"probe.interpolation.examples={EXAMPLES}")
        print(f"{comparison}, batch {batch}: {len(runs)} solutions", flush=True)


if __name__ == "__main__":
    main()
