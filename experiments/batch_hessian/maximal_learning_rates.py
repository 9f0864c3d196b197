"""The largest stable learning rates of SGD and Adam at every batch size, from the end of the runs of the study.

    python experiments/batch_hessian/maximal_learning_rates.py [--scale laptop]

A learning rate is unstable at a batch size if STEPS steps with it, from the end of the run, raise the loss over all training
examples to more than LIMIT times its value there. The loss is the mean over LOOKS evaluations in the second half of the steps,
so that a temporary rise does not count. The limit is bisected in its logarithm to a factor of 2^TOLERANCE. All learning rates
at a batch size use the same batches. Going down from the limit by factors of 2^TOLERANCE, the first stable rate of SGD also
gives the largest eigenvalue of the Hessian over all training examples at the end of its STEPS steps.

The results are written beside the run's measurements, as maximal_learning_rates, for analysis.py.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from optbench import config as configuration
from optbench.analysis.studies import study_of_script
from optbench.curvature import extreme_eigenpairs, operator
from optbench.curvature.swapped_parameters import place
from optbench.probes import MeasuredModel
from optbench.probes.posthoc import revive
from optbench.store import RunDirectory

STEPS = 100
LANCZOS_STEPS = 30
LIMIT = 2.0
LOOKS = 5
TOLERANCE = 0.125
#: The start of the search; the result does not depend on it.
FIRST = {"sgd": 1.0, "adam": 0.01}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
#: The range of the search.
SMALLEST, LARGEST = 2.0**-20, 2.0**20


class Trainer:
    """Trains a copy of a run's model from the end of the run, any number of times."""

    def __init__(self, run: RunDirectory) -> None:
        config = {**configuration.thaw(run), "probe": {}}
        task = revive(run, config, run.checkpoint).task
        measured = MeasuredModel(task, None)
        self.model, self.loss, self.objective = measured.model, task.recipe.loss, measured.objective()
        self.inputs, self.targets = measured.examples()
        self.start = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.start_loss = self.whole_loss()
        self.step = task.step

    @torch.no_grad()
    def whole_loss(self) -> float:
        """The loss over all training examples."""
        return float(self.loss(self.model(self.inputs), self.targets))

    def top_eigenvalue(self) -> float:
        """The largest eigenvalue of the Hessian over all training examples at the present parameters."""
        generator = torch.Generator().manual_seed(0)
        found = extreme_eigenpairs(operator(self.objective), generator, smallest=0, steps=LANCZOS_STEPS)
        return float(found.values[-1])

    def is_stable(self, optimizer: str, rate: float, batches: Tensor) -> bool:
        """True if the loss stays below LIMIT times that of the start with this rate; ``batches`` (STEPS, b) are indices.

        Afterwards the parameters are those after the last step.
        """
        place(list(self.model.parameters()), self.start)
        update = OPTIMIZERS[optimizer](self.model.parameters(), lr=rate)
        looks = set(np.linspace(STEPS // 2, STEPS, LOOKS, dtype=int).tolist())
        losses = []
        for number, batch in enumerate(batches, 1):
            update.zero_grad()
            self.loss(self.model(self.inputs[batch]), self.targets[batch]).backward()
            update.step()
            if number in looks:
                losses.append(self.whole_loss())
        # The comparison is false for NaN.
        return sum(losses) / len(losses) <= LIMIT * self.start_loss


def boundary(is_stable: Callable[[float], bool], first: float, tolerance: float = TOLERANCE) -> float:
    """The rate between stable and unstable ones, by doubling or halving from ``first`` and then by bisection.

    Infinite if LARGEST is stable, and 0 if SMALLEST is not.
    """
    stable = is_stable(first)
    factor = 2.0 if stable else 0.5
    rate = first
    while SMALLEST < rate < LARGEST:
        rate *= factor
        if is_stable(rate) != stable:
            break
    else:
        return math.inf if stable else 0.0
    low, high = sorted((math.log2(rate), math.log2(rate / factor)))
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if is_stable(2**middle) else (low, middle)
    return float(2 ** ((low + high) / 2))


def measure(run: RunDirectory, batch_sizes: np.ndarray) -> dict[str, float]:
    """Find the limits of both optimizers at all batch sizes, and write them beside the run's measurements."""
    began = time.perf_counter()
    trainer = Trainer(run)
    examples = len(trainer.inputs)
    generator = torch.Generator().manual_seed(run.config()["seed"])
    weights = torch.ones(examples)
    limits: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    tops: list[float] = []
    for size in batch_sizes.astype(int).tolist():
        batches = torch.stack([
            torch.multinomial(weights, size, generator=generator) for _ in range(STEPS)
        ])  # without replacement in a batch  # fmt: skip
        batches = batches.to(trainer.inputs.device)
        for name, found in limits.items():
            known = [limit for limit in found if 0 < limit < math.inf]

            def is_stable(rate: float, name: str = name, batches: Tensor = batches) -> bool:
                return trainer.is_stable(name, rate, batches)

            found.append(boundary(is_stable, known[-1] if known else FIRST[name]))
            if name == "sgd":
                # Close to the limit stability need not be monotonic.
                rates = [found[-1] / 2 ** (place * TOLERANCE) for place in range(1, 9)]
                ended = 0 < found[-1] < math.inf and any(is_stable(rate) for rate in rates)
                tops.append(trainer.top_eigenvalue() if ended else math.nan)
    arrays = {"batch_sizes": batch_sizes.astype(int)} | {name: np.array(found) for name, found in limits.items()}
    arrays["top_after_sgd"] = np.array(tops)
    values = {"start_loss": trainer.start_loss}
    options = {"steps": STEPS, "limit": LIMIT, "tolerance": TOLERANCE}
    seconds = time.perf_counter() - began
    run.measurements.write("maximal_learning_rates", trainer.step, values, arrays, seconds, options)
    return values


def main() -> None:
    """Measure every run of the study that has ended."""
    study = study_of_script("batch_hessian", __doc__)
    torch.set_num_threads(1)
    for run_id in study.cells:
        found = study.measurements(run_id, "batch_hessian")
        if found and study.plan.directory(run_id).checkpoint.is_file():
            values = measure(study.plan.directory(run_id), found[-1].arrays()["batch_sizes"])
            print(f"{run_id}: loss at the start {values['start_loss']:.4g}", flush=True)


if __name__ == "__main__":
    main()
