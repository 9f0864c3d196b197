"""The displacement of settled weights if examples are drawn with replacement, from the end of the runs whose batch varies.

    python experiments/limiting_dynamics/sampling.py [--scale laptop]

In epochs the noise of a batch is balanced by the rest of its epoch, which the theory does not know: its noise is independent from
step to step. From the end of each run at the base and at the other batches, SGD with momentum goes on with the run's
hyperparameters, once in epochs and once with replacement, in a stream of its own: a third of the steps to settle again, and the
rest recorded. |θ(k) - θ(0)|² is written beside the run's measurements, as sampling, for analysis.py.
"""

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from limiting_runs import named
from torch import Tensor

from optbench import config as configuration
from optbench.analysis.studies import study_of_script
from optbench.probes import MeasuredModel
from optbench.probes.posthoc import revive
from optbench.store import RunDirectory

#: Steps for each run and kind of sampling, of which the first third settles.
STEPS = 3000


def batches(examples: int, size: int, replacement: bool, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices (size,): independent draws, or whole epochs, each in a new order."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        if replacement:
            yield torch.randint(examples, (size,), generator=generator)
            continue
        while len(left) < size:
            left = torch.cat([left, torch.randperm(examples, generator=generator)])
        yield left[:size]
        left = left[size:]


def walk(run: RunDirectory, size: int, replacement: bool) -> np.ndarray:
    """|θ(k) - θ(0)|² after k = 1, 2, ... steps, from where a third of `STEPS` has been taken."""
    task = revive(run, {**configuration.thaw(run), "probe": {}}, run.checkpoint).task
    measured, options = MeasuredModel(task, None), task.optimizer.param_groups[0]
    model, loss = measured.model, task.recipe.loss
    inputs, targets = measured.examples()
    given = {name: options[name] for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(model.parameters(), **given)
    stream = batches(len(inputs), size, replacement, torch.Generator().manual_seed(run.config()["seed"]))
    found, start = [], None
    for step in range(STEPS):
        chosen = next(stream).to(inputs.device)
        optimizer.zero_grad()
        loss(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
        now = torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])
        if start is not None:
            found.append(float((now - start).square().sum()))
        elif step + 1 == STEPS // 3:
            start = now
    return np.array(found)


def measure(run: RunDirectory, size: int) -> None:
    """Walk with both kinds of sampling, and write the displacements beside the run's measurements."""
    began = time.perf_counter()
    arrays = {name: walk(run, size, name == "with_replacement") for name in ("in_epochs", "with_replacement")}
    last = {name: float(array[-1]) for name, array in arrays.items()}
    run.measurements.write("sampling", 0, last, arrays, time.perf_counter() - began, {"steps": STEPS})


def main() -> None:
    """Measure every run of the study at the base and at the other batches that has ended."""
    study = study_of_script("limiting_dynamics", __doc__)
    torch.set_num_threads(1)
    runs = named(study.runs[study.runs["status"] == "done"])
    chosen: pd.DataFrame = runs[runs["axis"].isin(["base", "batch"])]
    for run in chosen.to_dict("records"):
        directory = study.plan.directory(run["run_id"])
        if directory.checkpoint.is_file():
            measure(directory, int(run["batch"]))
            print(f"{run['run_id']}: done", flush=True)


if __name__ == "__main__":
    main()
