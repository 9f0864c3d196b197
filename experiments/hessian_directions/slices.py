"""Measure the Hessian along random and Hessian directions, at the end and at the start of the runs of the study.

    python experiments/hessian_directions/slices.py [--scale laptop]

Three independent sets of k normal vectors z_1 .. z_k are drawn anew at every step of every run, in float64:
- the constants of the formulas, from k products H z_i: Hutchinson's trace, the mean of z_i' H z_i; the Frobenius norm from the
  mean of |H z_i|^2; and tr H^4, the mean of ((H z_i)' H z_j)^2 over pairs, with |H|_F^4 / tr H^4, the number of eigenvalues that
  carry the norm;
- the observations, from the products of another k vectors: the Hessian [[z_i' H z_i, z_i' H z_j], [z_i' H z_j, z_j' H z_j]] of
  all k (k - 1)/2 slices along pairs, with the share of saddles and the mean principal curvatures;
- the trace only from values of the loss, along k vectors.
Pairs share vectors, so that standard errors are those of the jackknife over vectors, for the formulas, too. One run of Lanczos
gives the Hessian directions.

With the first seed, the loss is also computed on planes: along the Hessian directions and along three random pairs, all of
unit length. All results are written beside the run's measurements, as slices, for analysis.py.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from optbench import config as configuration
from optbench import randomness
from optbench.analysis.studies import study_of_script
from optbench.config import RunConfig
from optbench.curvature import (
    StoppingRule,
    displaced_loss,
    evaluation,
    grid,
    hessian_directions,
    projected_trace,
    random_direction,
)
from optbench.curvature.lanczos import Product, on_flat_vectors
from optbench.probes import MeasuredModel
from optbench.probes.posthoc import revive
from optbench.store import RunDirectory
from optbench.theory.random_slices import principal_curvatures, saddle_frequency
from optbench.training.build import build_model, load_data

VECTORS = {"smoke": 10, "laptop": 200, "full": 100}
POINTS = {"smoke": 5, "laptop": 25, "full": 51}
PLANES = 3
REACH = 1.0
LANCZOS_STEPS = 60


def jackknife(statistic: Callable[[Tensor], float], pairs: Tensor) -> tuple[float, float]:
    """``statistic`` of a matrix (k, k) over pairs of vectors, and its standard error by leaving out each vector once."""
    count = len(pairs)
    everyone = torch.arange(count)
    left_out = torch.tensor([
        statistic(pairs[everyone != number][:, everyone != number]) for number in range(count)
    ])  # fmt: skip
    deviations = left_out - left_out.mean()
    return statistic(pairs), math.sqrt((count - 1) / count * float(deviations.square().sum()))


def saddle_rate(forms: Tensor) -> float:
    """The share of pairs i < j of ``forms``, z_i' H z_j, whose slice has a Hessian of negative determinant."""
    diagonal = forms.diagonal()
    is_saddle = torch.outer(diagonal, diagonal) < forms.square()
    return float(_over_pairs(is_saddle.double()))


def mean_curvatures(forms: Tensor) -> tuple[float, float]:
    """The mean smaller and larger principal curvature of the slices of all pairs."""
    diagonal = forms.diagonal()
    middle = (diagonal[:, None] + diagonal) / 2
    radius = (((diagonal[:, None] - diagonal) / 2).square() + forms.square()).sqrt()
    return float(_over_pairs(middle - radius)), float(_over_pairs(middle + radius))


def _over_pairs(values: Tensor) -> Tensor:
    """The mean over i < j of a symmetric matrix."""
    return values[tuple(torch.triu_indices(len(values), len(values), offset=1))].mean()


def constants(product: Product, dimension: int, count: int, generator: torch.Generator) -> dict[str, float]:
    """The constants of the formulas and their predictions, with standard errors, from ``count`` products with the Hessian."""
    vectors = torch.randn(count, dimension, dtype=torch.float64, generator=generator)
    images = torch.stack([product(vector) for vector in vectors])
    traces, squares = (vectors * images).sum(1), images @ images.T
    norms = squares.diagonal()
    found = {
        "trace": float(traces.mean()),
        "trace_error": float(traces.std()) / math.sqrt(count),
        "squared_frobenius": float(norms.mean()),
        "squared_frobenius_error": float(norms.std()) / math.sqrt(count),
        "carrying_eigenvalues": float(norms.mean() ** 2 / _over_pairs(squares.square())),
    }
    # The jackknife: the constants without each vector, and the formulas at them.
    left_out = [
        predictions(*((float(values.sum() - values[number]) / (count - 1)) for values in (traces, norms)))
        for number in range(count)
    ]
    for name, value in predictions(found["trace"], found["squared_frobenius"]).items():
        others = np.array([each[name] for each in left_out])
        error = math.sqrt((count - 1) / count * float(np.square(others - others.mean()).sum()))
        found |= {f"predicted_{name}": value, f"predicted_{name}_error": error}
    return found


def predictions(trace: float, squared_frobenius: float) -> dict[str, float]:
    """The saddle rate and the mean principal curvatures of random slices by the formulas."""
    frobenius = math.sqrt(squared_frobenius)
    smaller, larger = principal_curvatures(trace, frobenius)
    rate = saddle_frequency(trace, frobenius)
    return {"saddle_rate": rate, "smaller_curvature": smaller, "larger_curvature": larger}


def random_slices(product: Product, dimension: int, count: int, generator: torch.Generator) -> dict[str, float]:
    """The saddle rate and the mean principal curvatures of all slices along pairs of ``count`` vectors, with standard errors."""
    vectors = torch.randn(count, dimension, dtype=torch.float64, generator=generator)
    images = torch.stack([product(vector) for vector in vectors])
    forms = vectors @ images.T
    forms = (forms + forms.T) / 2
    statistics: dict[str, Callable[[Tensor], float]] = {
        "saddle_rate": saddle_rate,
        "smaller_curvature": lambda pairs: mean_curvatures(pairs)[0],
        "larger_curvature": lambda pairs: mean_curvatures(pairs)[1],
    }
    found = {}
    for name, statistic in statistics.items():
        found[name], found[f"{name}_error"] = jackknife(statistic, forms)
    return found


def measure(
    measured: MeasuredModel, count: int, points: int | None, seed: int, step: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """All measurements at the parameters of ``measured`` after ``step`` steps.

    points: of the planes in each direction, None for no planes.
    """
    objective = measured.objective()
    product = on_flat_vectors(objective.hvp, measured.parameters)
    found = constants(product, measured.dimension, count, randomness.generator(seed, "constants", step))
    found |= random_slices(product, measured.dimension, count, randomness.generator(seed, "slices", step))
    rule = StoppingRule(relative=0, least=count, most=count)
    projected = projected_trace(
        displaced_loss(objective),
        measured.dimension,
        randomness.generator(seed, "projections", step),
        rule,
        "gaussian",
    )
    directions = hessian_directions(product, measured.parameters, LANCZOS_STEPS, randomness.generator(seed, "lanczos"))
    values = found | {
        "dimension": measured.dimension,
        "loss": objective.evaluate(measured.spec)[0],
        "projected_trace": projected.value,
        "projected_trace_error": projected.standard_error,
        "top": directions[0].value,
        "top_residual": directions[0].residual,
        "bottom": directions[1].value,
        "bottom_residual": directions[1].residual,
    }
    if points is None:
        return values, {}
    generator = randomness.generator(seed, "planes")
    pairs = [[_unit(measured, generator) for _ in range(2)] for _ in range(PLANES)]
    planes = {f"random_{number}": pair for number, pair in enumerate(pairs, 1)}
    planes["hessian"] = [measured.for_all_parameters(direction.direction) for direction in directions]
    positions = np.linspace(-REACH, REACH, points)
    origin = [parameter.detach() for parameter in measured.model.parameters()]
    look = evaluation(measured.model, lambda: {"loss": float(objective.loss())})
    arrays = {"positions": positions}
    for name, (first, second) in planes.items():
        surface = grid(look, origin, first, second, positions.tolist(), positions.tolist())
        arrays[name] = surface.values["loss"].numpy()
    return values, arrays


def _unit(measured: MeasuredModel, generator: torch.Generator) -> list[Tensor]:
    direction = random_direction(measured.parameters, generator)
    length = math.sqrt(sum(float(tensor.square().sum()) for tensor in direction))
    return measured.for_all_parameters([tensor / length for tensor in direction])


def measure_run(run: RunDirectory, scale: str, with_start: bool, with_planes: bool) -> None:
    """Measure a run at its end and, if ``with_start``, before its first step."""
    config = {**configuration.thaw(run), "probe": {}}
    examples = run.config()["probe"]["eigenvalues"]["examples"]
    task, read = revive(run, config, run.checkpoint).task, RunConfig.of(config)
    for step in [0, task.step] if with_start else [task.step]:
        began = time.perf_counter()
        state = build_model(read, load_data(read)).state_dict() if step == 0 else None
        measured = MeasuredModel(task, examples, float64=True, state=state)
        points = POINTS[scale] if with_planes else None
        values, arrays = measure(measured, VECTORS[scale], points, config["seed"], step)
        options = {"vectors": VECTORS[scale], "examples": examples, "reach": REACH}
        seconds = time.perf_counter() - began
        run.measurements.write("slices", step, values, arrays, seconds, options)
        print(f"{run.run_id} at step {step}: {seconds:.1f} s", flush=True)


def main() -> None:
    """Measure every run of the study that has ended."""
    study = study_of_script("hessian_directions", __doc__)
    torch.set_num_threads(1)
    runs = study.runs
    shortest, first = runs["cell.budget.epochs"].min(), runs["seed"].min()
    for _, row in runs[runs["state"] == "done"].iterrows():
        with_start, with_planes = row["cell.budget.epochs"] == shortest, row["seed"] == first
        measure_run(study.plan.directory(row["run_id"]), study.scale or "laptop", with_start, with_planes)


if __name__ == "__main__":
    main()
