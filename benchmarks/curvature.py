"""Measure the cost of 30 Lanczos steps in gradients, and the share of Lanczos' own arithmetic.

    python benchmarks/curvature.py [--steps 30] [--examples 512] [--device cpu|cuda]

The Hessian of ResNet-18 of width 8 (images of 32 x 32) over 512 examples, float32, one start vector, from a graph that is
not yet built. A gradient is one forward and one backward pass of the same examples. "one pass": all examples pass through the
model together. "kept parts": they pass in micro-batches of 128 whose graphs are all kept (``Execution(micro_batch=128,
graphs=None)``), which takes the memory of one pass and uses the processor's caches better. This cost is given in gradients of one
pass, which is the price of training, and in gradients with the same micro-batches. After every product one gradient of each kind
is timed in the same process, so that a drift of the machine's speed affects all equally; a cost is the sum over the steps of each
step's own ratio. Own arithmetic: the share of the process without its products.
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from second_order import resnet18
from torch import Tensor

from optbench.curvature.lanczos import lanczos
from optbench.curvature.operators import operator
from optbench.models.layers import set_norm_batch
from optbench.objective import Network, Objective
from optbench.objective.execution import Execution
from optbench.objective.losses import CrossEntropy

PART = 128


def clocked(action: Callable[[], object], device: torch.device) -> float:
    """The seconds of ``action``; on the CPU the process's own time, which other processes disturb less."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measured(
    steps: int, examples: int, micro_batch: int | None, training: bool, device: torch.device
) -> dict[str, float]:
    """The cost of ``steps`` Lanczos steps in gradients of one pass and of its own parts, and the share of its own arithmetic."""
    torch.manual_seed(0)
    model = resnet18().to(device).train(training)
    set_norm_batch(model, PART)
    network = Network(model)
    inputs, targets = torch.randn(examples, 3, 32, 32, device=device), torch.randint(10, (examples,), device=device)

    def objective(micro_batch: int | None) -> Objective:
        return Objective(network, CrossEntropy(), inputs, targets, Execution(device, micro_batch, graphs=None))

    references = {"one pass": objective(None)}
    if micro_batch is not None:
        references["own parts"] = objective(micro_batch)
    for _ in range(2):
        for reference in references.values():
            reference()
    warm = operator(objective(micro_batch))
    warm(warm.random_vectors(1, torch.Generator())[0])
    del warm
    hessian = operator(objective(micro_batch))
    products: list[float] = []
    gradients: dict[str, list[float]] = {name: [] for name in references}
    between = 0.0

    def product(vector: Tensor) -> Tensor:
        nonlocal between
        images: list[Tensor] = []

        def timed() -> None:
            products.append(clocked(lambda: images.append(hessian(vector)), device))
            with torch.enable_grad():  # Lanczos has switched gradients off
                for name, reference in references.items():
                    gradients[name].append(clocked(reference, device))

        between += clocked(timed, device)
        return images[0]

    start = hessian.random_vectors(1, torch.Generator().manual_seed(1), "gaussian")[0]
    whole = clocked(lambda: lanczos(product, start, steps).ritz(1, 1), device)
    arithmetic = whole - between
    found = {}
    for name, times in gradients.items():
        ratios = sum(one / other for one, other in zip(products, times, strict=True))
        found[f"cost in gradients, {name}"] = ratios * (1 + arithmetic / sum(products))
    found["own arithmetic, %"] = 100 * arithmetic / (arithmetic + sum(products))
    found["first product, s"], found["later products, s"] = products[0], sum(products[1:]) / (len(products) - 1)
    found["gradient in one pass, s"] = sum(gradients["one pass"]) / len(products)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of Lanczos, in gradients")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        f"{'train' if training else 'eval'} mode, {'kept parts' if micro_batch else 'one pass'}": measured(
            options.steps, options.examples, micro_batch, training, torch.device(options.device)
        )
        for training in (False, True)
        for micro_batch in (PART, None)
    }
    print(
        f"torch {torch.__version__}, {options.device}, one thread, {options.steps} steps, {options.examples} examples\n"
    )
    print("| | " + " | ".join(found) + " |")
    print("| --- |" + " ---: |" * len(found))
    for name in next(iter(found.values())):
        cells = [f"{numbers[name]:.2f}" if name in numbers else "" for numbers in found.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
