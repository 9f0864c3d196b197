"""Measure the cost of communication between four simulated workers, and of activation checkpointing, in dense steps.

    python benchmarks/communication.py [--rounds 15] [--output benchmarks/communication.md]

All actions alternate within one process; a number is the median over the rounds of each round's own ratio of processor time. A
dense step is a step of optbench's objective and torch's SGD with momentum on the whole batch. The workers of one process pass
their shares through the network one after another.
"""

import argparse
import copy
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from second_order import CASES, LEARNING_RATE, batch_of, ratio, timed
from torch import Tensor, nn

from optbench.communication import Compressor
from optbench.communication.compressors import QSGD, Sign, TopK
from optbench.communication.power_sgd import PowerSGD
from optbench.models import checkpointing
from optbench.objective import Exchange, Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.provenance import environment

WORKERS = 4
CPU = torch.device("cpu")
COMPRESSORS: dict[str, Callable[..., Compressor]] = {
    "top_k, 1 %": TopK,
    "sign": Sign,
    "power_sgd, rank 1": lambda shapes, workers: PowerSGD(shapes, workers, rank=1),
    "power_sgd, rank 4": PowerSGD,
    "qsgd, 4 levels, error feedback": lambda shapes, workers: QSGD(shapes, workers, error_feedback=True),
}
# The net of 16 layers and the batch of the bound on activations.
LAYERS, WIDTH, BATCH = 16, 256, 64


class _Whole(Compressor):
    """Sends everything: the cost of passes and sums without compression."""

    def sent(self, name: str, tensor: Tensor, worker: int, step: int) -> Tensor:
        return tensor


def step_of(
    model: nn.Module, inputs: Tensor, targets: Tensor, make: Callable[..., Compressor] | None = None
) -> Callable[[], object]:
    """A step of SGD with momentum, dense or with the compressor that ``make`` makes."""
    network, optimizer = Network(model), torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    exchange = None
    if make is not None:
        compressor = make({name: each.shape for name, each in model.named_parameters()}, workers=WORKERS)
        exchange = Exchange(WORKERS, lambda gradients: compressor.exchange(gradients, 0))

    def step() -> None:
        objective = Objective(network, CrossEntropy(), inputs, targets, exchange=exchange)
        optimizer.step(objective)
        objective.finish()

    return step


def table_of_compressors(rounds: int) -> list[str]:
    """Lines of a table: a step with each compressor in dense steps, on both networks of the other benchmarks."""
    columns = []
    for build, shape in CASES.values():
        torch.manual_seed(0)
        model, (inputs, targets) = build(), batch_of(shape, CPU)
        makes: dict[str, Callable[..., Compressor] | None] = {
            "dense": None,
            "four shares, sent whole": partial(_Whole, error_feedback=False),
        }
        steps = {
            name: step_of(copy.deepcopy(model), inputs, targets, make)
            for name, make in {**makes, **COMPRESSORS}.items()
        }
        times = timed(steps, rounds, CPU)
        columns.append({name: f"{ratio(each, times['dense']):.2f}" for name, each in times.items() if name != "dense"})
    lines = [f"| {WORKERS} workers, in dense steps | " + " | ".join(CASES) + " |", "| --- |" + " ---: |" * len(CASES)]
    return lines + [f"| {name} | " + " | ".join(column[name] for column in columns) + " |" for name in columns[0]]


def table_of_segments(rounds: int) -> list[str]:
    """Lines of a table: the most bytes that are held, and the time of a gradient, by the number of segments."""
    torch.manual_seed(0)
    layers = [module for _ in range(LAYERS) for module in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    inputs, targets = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)
    models = {}
    for segments in (0, 2, 4, 8, 16):
        models[segments] = nn.Sequential(*copy.deepcopy(layers))
        checkpointing.divide(models[segments], segments)

    def gradient(model: nn.Module) -> Callable[[], object]:
        def evaluate() -> None:
            model.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()

        return evaluate

    times = timed({str(segments): gradient(model) for segments, model in models.items()}, rounds, CPU)
    held = {segments: most_bytes(model, inputs, segments) for segments, model in models.items()}
    lines = ["| segments | most bytes held | of no segments | time of a gradient |", "| ---: | ---: | ---: | ---: |"]
    return lines + [
        f"| {segments or 'none'} | {held[segments]:,} | {held[segments] / held[0]:.2f} | "
        f"{ratio(times[str(segments)], times['0']):.2f} |"
        for segments in models
    ]


def most_bytes(model: nn.Module, inputs: Tensor, segments: int) -> int:
    """The bytes that autograd keeps while the backward pass computes the largest of the segments anew."""
    kept = [
        checkpointing.kept_bytes(model, lambda: model(inputs), frozenset({number}))
        for number in range(max(segments, 1))
    ]
    return max(kept)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# The cost of communication and of activation checkpointing",
        "",
        f"`python benchmarks/communication.py` on {environment.processor()}, one thread; torch {torch.__version__}, Python "
        f"{platform.python_version()}; medians of {given.rounds} interleaved rounds, processor time.",
        "",
        "The workers of one process pass their shares through the network one after another. Errors are fed back, but in the "
        "first row.",
        "",
        *table_of_compressors(given.rounds),
        "",
        f"Activation checkpointing of {LAYERS} layers Linear({WIDTH}) and Tanh, batch {BATCH}:",
        "",
        *table_of_segments(given.rounds),
        "",
    ]
    print("\n".join(lines))
    if given.output is not None:
        given.output.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
