"""Measure the steps of SAM, Schedule-Free, Shampoo and SOAP in SGD steps, beside those of the pytorch-optimizer package.

    python benchmarks/first_order.py [--rounds 7] [--device cpu|cuda] [--wide-rounds 0] [--output benchmarks/first_order.md]

All methods alternate within one process on copies of one network, in blocks of ten steps: the period at which Shampoo and SOAP
renew their matrices, so that every block holds one renewal. A number is the median over the rounds of each round's own ratio. All
get the same closure. The package's Shampoo is the method of 2018 (sums, no graft), and renews its roots at every step by default.
"""

import argparse
import copy
import os
import platform
import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from second_order import CASES, WIDE, Case, batch_of, ratio, sgd_step, timed
from torch import Tensor, nn

from optbench import optimizers
from optbench.optimizers import zoo
from optbench.provenance import environment

STEPS = 10
LEARNING_RATE = 1e-4  # so small that the network hardly changes
# The name of a row, ours, and the package's by name and options.
Pair = tuple[Callable[[nn.Module], torch.optim.Optimizer], str, dict[str, Any]]
PAIRS: dict[str, Pair] = {
    "SAM": (lambda model: optimizers.SAM(model.parameters(), lr=LEARNING_RATE), "sam", {}),
    "Schedule-Free SGD": (
        lambda model: optimizers.ScheduleFreeSGD(model.parameters(), lr=LEARNING_RATE),
        "schedulefreesgd",
        {},
    ),
    "Schedule-Free AdamW": (
        lambda model: optimizers.ScheduleFreeAdamW(model.parameters(), lr=LEARNING_RATE),
        "schedulefreeadamw",
        {},
    ),
    "Shampoo": (lambda model: optimizers.Shampoo(model.parameters(), lr=LEARNING_RATE), "shampoo", {}),
    "Shampoo, both renew every 10 steps": (
        lambda model: optimizers.Shampoo(model.parameters(), lr=LEARNING_RATE),
        "shampoo",
        {"preconditioning_compute_steps": STEPS},
    ),
    "SOAP": (lambda model: optimizers.SOAP(model.parameters(), lr=LEARNING_RATE), "soap", {}),
}


def block(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """Ten steps of ``optimizer``."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.step(closure)  # type: ignore[arg-type]  # a closure may return a tensor, as torch's own do

    return steps


def of_package(model: nn.Module, name: str, options: dict[str, Any]) -> torch.optim.Optimizer:
    """The package's optimizer, as ``optimizer=zoo`` makes it, or by its class where that is refused."""
    if zoo.standing(name).refused is None:
        return zoo.from_model(model, name, lr=LEARNING_RATE, options=options)
    found: torch.optim.Optimizer = zoo.classes()[name](model.parameters(), lr=LEARNING_RATE, **options)
    return found


def table(cases: dict[str, Case], rounds: int, device: torch.device, names: list[str]) -> list[str]:
    """Lines of a table for each network: both implementations of each method in SGD steps, and their ratio."""
    lines: list[str] = []
    for title, (build, shape) in cases.items():
        torch.manual_seed(0)
        start, (inputs, targets) = build().to(device), batch_of(shape, device)
        sgd = sgd_step(copy.deepcopy(start), inputs, targets)
        actions: dict[str, Callable[[], object]] = {"SGD": lambda sgd=sgd: [sgd() for _ in range(STEPS)]}  # type: ignore[misc]
        for name in names:
            ours, peer, options = PAIRS[name]
            for who, make in (
                ("ours", ours),
                ("peer", lambda model, peer=peer, options=options: of_package(model, peer, options)),
            ):
                model = copy.deepcopy(start)
                actions[f"{name}: {who}"] = block(model, make(model), inputs, targets)
        times = timed(actions, rounds, device)
        lines += [
            "",
            f"| {title}, in SGD steps | optbench | pytorch-optimizer | optbench / pytorch-optimizer |",
            "| --- |" + " ---: |" * 3,
        ]
        for name in names:
            own, other = times[f"{name}: ours"], times[f"{name}: peer"]
            numbers = (ratio(own, times["SGD"]), ratio(other, times["SGD"]), ratio(own, other))
            lines.append(f"| {name} | " + " | ".join(f"{each:.2f}" for each in numbers) + " |")
        lines += [
            "",
            f"An SGD step takes {statistics.median(times['SGD']) / STEPS * 1e3:.1f} ms; {rounds} rounds of {STEPS} steps.",
        ]
    return lines


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wide-rounds", type=int, default=0, help="of the full ResNet-18; 0 leaves it out")
    parser.add_argument("--names", nargs="+", default=list(PAIRS), choices=list(PAIRS), metavar="NAME")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else f"{environment.processor()}, one thread"
    lines = [
        f"Measured on {name}; torch {torch.__version__}, pytorch-optimizer {version('pytorch-optimizer')}, "
        f"Python {platform.python_version()}; medians of {given.rounds} interleaved rounds.",
        *table(CASES, given.rounds, device, given.names),
    ]
    if given.wide_rounds:
        lines += table(WIDE, given.wide_rounds, device, given.names)
    print("\n".join(lines))
    if given.output is not None:
        given.output.write_text("\n".join(["# The cost of first-order methods", "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
