"""Measure the cost of second-order methods: products with curvature matrices in gradients, K-FAC and peers in SGD steps.

    python benchmarks/second_order.py [--rounds 15] [--device cpu|cuda] [--output benchmarks/second_order.md]

All actions alternate within one process, so that a drift of the machine's speed affects all equally; a number is the median
over the rounds of each round's own ratio. A gradient is a call of the objective: one forward and one backward pass. An SGD
step is that of a hand-written loop: forward, backward, torch's SGD with momentum. Peers that can be imported are measured as
well (``second_order_peers.py``).
"""

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from second_order_peers import PEERS, Actions
from torch import Tensor, nn

from optbench.models.layers import BatchNorm
from optbench.models.resnet import ResidualBlock, basic, projection
from optbench.models.shapes import convolution
from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.optimizers.ekfac import EKFAC
from optbench.optimizers.kfac import KFAC
from optbench.provenance import environment


def small_conv_net() -> nn.Module:
    """Two convolutions and two linear layers for images of 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def resnet18(width: int = 8) -> nn.Module:
    """ResNet-18 for images of 32 x 32 with ``width`` channels in its first stage instead of 64."""
    layers: list[nn.Module] = [convolution(3, width, 3), BatchNorm(width), nn.ReLU()]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(ResidualBlock(basic(inputs, outputs, stride), projection(inputs, outputs, stride)))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
CASES: dict[str, Case] = {
    "small conv net, batch 256": (small_conv_net, (256, 1, 28, 28)),
    "ResNet-18 of width 8, batch 64": (resnet18, (64, 3, 32, 32)),
}
# A step takes seconds here, so that there are few rounds, and only the two methods that invert by Cholesky factors.
WIDE: dict[str, Case] = {"ResNet-18, batch 64": (lambda: resnet18(64), (64, 3, 32, 32))}
WIDE_NAMES = ("optbench K-FAC", "ASDL")
# K-FAC's default periods, for its average cost: factors every 10 steps, inverses every 100.
FACTOR_PERIOD, INVERSE_PERIOD = 10, 100
LEARNING_RATE = 1e-4  # so small that the network hardly changes
Times = dict[str, list[float]]


def timed(actions: Actions, rounds: int, device: torch.device) -> Times:
    """Seconds of every action in every round."""
    # On the CPU the process's own time, which other processes disturb less.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    found: Times = {name: [] for name in actions}
    for number in range(rounds + 2):
        for name, action in actions.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = clock()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:  # the first rounds warm up
                found[name].append(clock() - start)
    return found


def ratio(times: list[float], units: list[float]) -> float:
    """The median over the rounds of each round's own ratio."""
    return statistics.median(one / other for one, other in zip(times, units, strict=True))


def batch_of(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images and labels, which cost as much as real ones."""
    return torch.randn(shape, device=device), torch.randint(10, shape[:1], device=device)


def products(model: nn.Module, inputs: Tensor, targets: Tensor) -> Actions:
    """A gradient, and every product with a kept graph and with a graph built every time."""
    network, loss = Network(model), CrossEntropy()
    kept, forward, fresh = (Objective(network, loss, inputs, targets) for _ in range(3))
    vector = [torch.randn_like(parameter) for parameter in network.parameters]

    def rebuilt(product: Callable[[list[Tensor]], object]) -> None:
        product(vector)
        fresh.finish()

    for _ in range(2):
        kept.hvp(vector), kept.ggnvp(vector), forward.vjp(forward.outputs())
    # Uses the objective's private graph, to measure both ways to J v and not only the one that it would choose.
    graph = kept._graph(0, kept._parts[0])

    def hessian_product(outputs: Tensor, directions: Tensor) -> Tensor:
        return loss.output_hessian_product(outputs, targets, directions)

    return {
        "gradient": lambda: fresh(),
        "hvp, kept": lambda: kept.hvp(vector),
        "hvp, rebuilt": lambda: rebuilt(fresh.hvp),
        "ggnvp, kept": lambda: kept.ggnvp(vector),
        "ggnvp, rebuilt": lambda: rebuilt(fresh.ggnvp),
        "ggnvp, kept, J v recorded": lambda: graph.vjp(hessian_product(graph.outputs.detach(), graph.jvp(vector))),
        "ggnvp, kept, J v by dual numbers": lambda: forward.vjp(
            hessian_product(forward.outputs(), forward.jvp(vector))
        ),
        "jvp, recorded": lambda: graph.jvp(vector),
        "jvp, dual numbers": lambda: forward.jvp(vector),
        "vjp, kept": lambda: kept.vjp(kept.outputs()),
        "quadratic of 2 vectors": lambda: fresh.quadratic([vector, vector]),
    }


def sgd_step(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], object]:
    """One step of a hand-written loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def ours(kind: type[KFAC], model: nn.Module, inputs: Tensor, targets: Tensor) -> Actions:
    """The steps of optbench's K-FAC or EKFAC."""
    network = Network(model)
    optimizer = kind(model, lr=LEARNING_RATE, factor_period=FACTOR_PERIOD, inverse_period=INVERSE_PERIOD)

    def step(number: int) -> None:
        objective = Objective(network, CrossEntropy(), inputs, targets)
        optimizer.steps = number  # determines the due updates
        optimizer.step(objective)
        objective.finish()

    def invert() -> None:
        objective = Objective(network, CrossEntropy(), inputs, targets)
        if isinstance(optimizer, EKFAC):
            optimizer._renew(objective)
        else:
            optimizer.factors.invert(objective.execution, optimizer.damping**0.5, optimizer.inverse)

    step(0)
    return {
        "precondition only": lambda: step(1),
        "with factors": lambda: step(2 * FACTOR_PERIOD),  # the third update, after which nothing is inverted
        "inverse update": invert,
    }


OURS: dict[str, type[KFAC]] = {"optbench K-FAC": KFAC, "optbench EKFAC": EKFAC}


def contenders(
    model: nn.Module, inputs: Tensor, targets: Tensor, names: Sequence[str]
) -> tuple[dict[str, Actions], list[str]]:
    """The steps of optbench and of each peer on copies of ``model``, and lines about peers that are left out."""
    found = {name: ours(kind, copy.deepcopy(model), inputs, targets) for name, kind in OURS.items() if name in names}
    left_out = []
    for name in (name for name in PEERS if name in names):
        given = (copy.deepcopy(model), inputs, targets, FACTOR_PERIOD, INVERSE_PERIOD, LEARNING_RATE)
        try:
            found[name] = PEERS[name](*given)
        except ImportError as error:
            left_out.append(f"{name} is not measured: {error}.")
    return found, left_out


def amortized(numbers: dict[str, float]) -> float | None:
    """The average cost of a step at the default periods; None if a part is unknown."""
    if len(numbers) < 3:
        return None
    plain, factors, inverse = numbers["precondition only"], numbers["with factors"], numbers["inverse update"]
    return plain + (factors - plain) / FACTOR_PERIOD + inverse / INVERSE_PERIOD


def table_of_products(rounds: int, device: torch.device) -> list[str]:
    """Lines of a table: every product in gradients, on both networks."""
    columns = []
    for build, shape in CASES.values():
        torch.manual_seed(0)
        times = timed(products(build().to(device), *batch_of(shape, device)), rounds, device)
        gradients = times.pop("gradient")
        columns.append({name: f"{ratio(each, gradients):.2f}" for name, each in times.items()})
        columns[-1]["a gradient, milliseconds"] = f"{statistics.median(gradients) * 1e3:.1f}"
    lines = ["| product, in gradients | " + " | ".join(CASES) + " |", "| --- |" + " ---: |" * len(CASES)]
    return lines + [f"| {name} | " + " | ".join(column[name] for column in columns) + " |" for name in columns[0]]


def table_of_steps(cases: dict[str, Case], names: Sequence[str], rounds: int, device: torch.device) -> list[str]:
    """Lines of a table for each network: the cost of the steps of each contender in SGD steps."""
    kinds = ("precondition only", "with factors", "inverse update")
    lines: list[str] = []
    for title, (build, shape) in cases.items():
        torch.manual_seed(0)
        model, (inputs, targets) = build().to(device), batch_of(shape, device)
        found, left_out = contenders(model, inputs, targets, names)
        actions = {(name, kind): action for name, steps in found.items() for kind, action in steps.items()}
        named = {f"{name}: {kind}": action for (name, kind), action in actions.items()}
        times = timed({"SGD": sgd_step(copy.deepcopy(model), inputs, targets), **named}, rounds, device)
        lines += ["", f"| {title}, in SGD steps | {' | '.join(kinds)} | amortized |", "| --- |" + " ---: |" * 4]
        for name, steps in found.items():
            numbers = {kind: ratio(times[f"{name}: {kind}"], times["SGD"]) for kind in steps}
            whole = [*(numbers.get(kind) for kind in kinds), amortized(numbers)]
            lines.append(f"| {name} | " + " | ".join("" if each is None else f"{each:.2f}" for each in whole) + " |")
        seconds = statistics.median(times["SGD"])
        lines += ["", " ".join([f"An SGD step takes {seconds * 1e3:.1f} ms; {rounds} rounds.", *left_out])]
    return lines


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--wide-rounds", type=int, default=2, help="0 leaves the full ResNet-18 out")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if given.device == "cuda" else f"{environment.processor()}, one thread"
    lines = [
        f"Measured on {name}; torch {torch.__version__}, Python {platform.python_version()}; "
        f"medians of {given.rounds} interleaved rounds.",
        "",
        *table_of_products(given.rounds, device),
        *table_of_steps(CASES, [*OURS, *PEERS], given.rounds, device),
    ]
    if given.wide_rounds:
        lines += table_of_steps(WIDE, WIDE_NAMES, given.wide_rounds, device)
    print("\n".join(lines))
    if given.output is not None:
        given.output.write_text("\n".join(["# The cost of second-order methods", "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
