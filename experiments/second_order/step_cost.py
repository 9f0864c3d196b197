"""Measure a step of the chosen options in processor seconds of one thread: `python experiments/second_order/step_cost.py`.

The runs of a sweep may share the machine with other work, so that their seconds cannot be compared. This script takes the first
steps of the options chosen for the autoencoder and the convolutional net, without evaluations, and writes
results/second_order/step_cost.csv. The first steps of K-FAC contain more inversions than later ones.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from analysis import gathered
from second_order_choices import PARTS, chosen, scored

from optbench import config
from optbench.analysis.study import Study
from optbench.config import RunConfig
from optbench.training import build
from optbench.training.task import Task

# The numbers of measured steps: whole periods of K-FAC's factors.
STEPS = {4096: 20, 1000: 40, 512: 60, 200: 200, 64: 200}


def processor_seconds(overrides: list[str], steps: int) -> float:
    """Processor seconds for each step, over the first ``steps`` steps of the run that ``overrides`` describe."""
    composed = RunConfig.of(
        config.compose([*overrides, "tracker=none", "budget.target=null", "budget.stop_at_target=false"])
    )
    task: Task = build.build_task(composed, build.load_data(composed))
    task.configure_optimizers()
    task.model.train()
    task.take_step()  # not measured: it includes the set-up of a run
    since = time.process_time()
    for _ in range(steps):
        task.take_step()
    return (time.process_time() - since) / steps


def main() -> None:
    """Measure the chosen options and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--data-dir", default="data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for part in PARTS[:2]:
        study = Study.read(given.results_dir, part.experiments[0])
        for _, run in chosen(scored(part, *gathered(part, study))).iterrows():
            batch = int(run["batch"])
            steps = 5 if run["optimizer"] == "hessian_free" else STEPS[batch]
            overrides = [f"experiment={part.experiment(run)}", *run["choice"].split(), f"batch={batch}"]
            overrides += [f"data_dir={given.data_dir}", f"budget.steps={run['config.budget.steps']:.0f}"]
            cost = processor_seconds(overrides, steps)
            rows.append({"study": part.name, "method": run["method"], "seconds_a_step": cost})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(Path(given.results_dir) / "second_order" / "step_cost.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
