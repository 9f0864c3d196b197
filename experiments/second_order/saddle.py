"""Saddle-free and damped Newton from a saddle: `python experiments/second_order/saddle.py [--seeds 10] [--data-dir data]`.

Writes results/second_order/saddle.csv (the end of every run), saddle_curves.csv (medians along the runs) and saddle.png and .pdf.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import second_order_charts
import torch
from problems import Method, Problem, Row, best_trial, small_images, train
from torch import Tensor
from torch.func import functional_call, hessian

STEPS = 50
EVERY = 1  # steps of a Newton method between Hessians
METHODS = (
    Method("saddle-free Newton", "saddle_free", STEPS, {"subspace": "dense"}, ("learning_rate",)),
    Method("damped Newton", "damped_newton", STEPS, {"subspace": "dense"}, ("learning_rate",)),
    Method("momentum SGD", "momentum", 20 * STEPS, {}, ("learning_rate", "momentum")),
)
# An eigenvalue counts as negative if it is below minus this share of the largest absolute value.
NEGATIVE = 1e-6


def dense_hessian(problem: Problem) -> Tensor:
    """The Hessian of the loss by torch.func, which shares no code with the optimizers' products."""
    parameters = {name: parameter.detach() for name, parameter in problem.model.named_parameters()}
    sizes = [parameter.numel() for parameter in parameters.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        named = {n: part.view_as(p) for (n, p), part in zip(parameters.items(), parts, strict=True)}
        return problem.loss(functional_call(problem.model, named, (problem.inputs,)), problem.targets)

    matrix: Tensor = hessian(loss)(torch.cat([parameter.flatten() for parameter in parameters.values()]))
    return matrix


def curvature(problem: Problem, due: Callable[[int], bool]) -> Callable[[int], Row]:
    """Measure, at steps that are ``due``, the ends of the spectrum, the share of negative eigenvalues, and the gradient."""

    def measure(step: int) -> Row:
        if not due(step):
            return {}
        eigenvalues = torch.linalg.eigvalsh(dense_hessian(problem))
        bound = NEGATIVE * float(eigenvalues.abs().max())
        loss = problem.loss(problem.model(problem.inputs), problem.targets)
        gradients = torch.autograd.grad(loss, list(problem.model.parameters()))
        return {
            "smallest_eigenvalue": float(eigenvalues[0]),
            "largest_eigenvalue": float(eigenvalues[-1]),
            "negative_share": float((eigenvalues < -bound).double().mean()),
            "gradient_norm": float(torch.cat([gradient.flatten() for gradient in gradients]).norm()),
        }

    return measure


def main() -> None:
    """Tune on separate seeds, train on ten others, write tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--results-dir", default="results")
    given = parser.parse_args()
    rows = []

    def make(seed: int) -> Problem:
        return small_images(seed, given.data_dir)

    for method in METHODS:
        trial = best_trial(method, make, given.trials, lambda problem, rows: problem.total(), seeds=1)
        print(method.name, "trial", trial, method.options(trial), flush=True)
        every = EVERY * method.steps // STEPS
        for seed in range(given.seeds):
            problem = make(seed)
            measure = curvature(problem, lambda step, every=every: step % every == 0)  # type: ignore[misc]
            run = train(method, problem, seed, method.options(trial), measure)
            rows += [
                row | {"method": method.name, "seed": seed, "trial": trial} for row in run if row["step"] % every == 0
            ]
    table = pd.DataFrame(rows)
    folder = Path(given.results_dir) / "second_order"
    folder.mkdir(parents=True, exist_ok=True)
    ends = table.groupby(["method", "seed"], sort=False).tail(1)
    ends.to_csv(folder / "saddle.csv", index=False, float_format="%.6g")
    measured = ["total", "gradient_norm", "smallest_eigenvalue", "largest_eigenvalue", "negative_share", "seconds"]
    medians = table.groupby(["method", "step"], sort=False)[measured].median().reset_index()
    medians.to_csv(folder / "saddle_curves.csv", index=False, float_format="%.6g")
    second_order_charts.write(second_order_charts.saddle(table, STEPS), folder)
    print(ends.groupby("method", sort=False)[measured].describe(percentiles=[0.5]).T.to_string())


if __name__ == "__main__":
    main()
