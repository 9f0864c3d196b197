"""What a product with a second-derivative matrix costs, in gradients: with the graph kept, and with it built every time.

    python benchmarks/products.py [--rounds 15] [--device cpu|cuda]

A gradient is a call of the same objective: one forward and one backward pass. Everything takes turns within one process,
so that a drift of the machine's speed meets all alike; a number is the median over the rounds of each round's own ratio.
"kept": on a graph that an earlier product has recorded, as in conjugate gradients or Lanczos. "rebuilt": the first product
after the parameters have changed. J v comes from a recorded J^T u, or through dual numbers (forward mode).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from optbench.losses import CrossEntropy
from optbench.models.layers import BatchNorm
from optbench.models.resnet import ResidualBlock, basic, projection
from optbench.models.shapes import convolution
from optbench.objective import Network, Objective


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


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small conv net, batch 256": (small_conv_net, (256, 1, 28, 28)),
    "ResNet-18 of width 8, batch 64": (resnet18, (64, 3, 32, 32)),
}


def measured(
    build: Callable[[], nn.Module], shape: tuple[int, ...], rounds: int, device: torch.device
) -> dict[str, float]:
    """The median cost of every product in gradients; under "seconds" that of a gradient."""
    torch.manual_seed(0)
    network = Network(build().to(device))
    inputs, targets = torch.randn(shape, device=device), torch.randint(10, shape[:1], device=device)
    kept, forward, fresh = (Objective(network, CrossEntropy(), inputs, targets) for _ in range(3))
    vector = [torch.randn_like(parameter) for parameter in network.parameters]

    def rebuilt(product: Callable[[list[torch.Tensor]], object]) -> None:
        product(vector)
        fresh.finish()

    loss = CrossEntropy()
    for _ in range(2):
        kept.hvp(vector), kept.ggnvp(vector), forward.vjp(forward.outputs())
    # Graphs are an objective's own affair; here both ways to J v are wanted, not the one that it would choose.
    graph = kept._graph(0, kept._parts[0])

    def hessian_product(outputs: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return loss.output_hessian_product(outputs, targets, directions)

    actions: dict[str, Callable[[], object]] = {
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
    # On the CPU its own time, which other processes disturb less.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    timed: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 2):
        for name, action in actions.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = clock()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:  # the first rounds warm up
                timed[name].append(clock() - start)
    gradients = timed.pop("gradient")
    ratios = {
        name: statistics.median(one / other for one, other in zip(times, gradients, strict=True))
        for name, times in timed.items()
    }
    return ratios | {"seconds": statistics.median(gradients)}


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of second-derivative products, in gradients")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        name: measured(build, shape, options.rounds, torch.device(options.device))
        for name, (build, shape) in CASES.items()
    }
    print(f"torch {torch.__version__}, {options.device}, one thread, median of {options.rounds} rounds\n")
    print("| product | " + " | ".join(found) + " |")
    print("| --- |" + " ---: |" * len(found))
    for name in next(iter(found.values())):
        print(
            f"| {name} | "
            + " | ".join(f"{numbers[name]:.{3 if name == 'seconds' else 2}f}" for numbers in found.values())
            + " |"
        )


if __name__ == "__main__":
    main()
