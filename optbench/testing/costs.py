"""What a method costs: bytes of state a parameter, and the time of a step in that of SGD."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.randomness import generator
from optbench.testing import problem
from optbench.testing.outcomes import Found
from optbench.testing.session import tensors_of
from optbench.testing.subject import Subject

_SECONDS, _MOST = 2.0, 40


def memory(subject: Subject) -> Found:
    """Bytes that a checkpoint of the optimizer holds for every parameter of float32, which has four itself."""
    step, optimizer, model = _ready(subject.make)
    step()
    step()
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for _, tensor in tensors_of(optimizer.state_dict())
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Found({"bytes a parameter": sum(held.values()) / parameters})


def step_time(subject: Subject) -> Found:
    """The median time of a step, its evaluation included, over that of torch's SGD on the same batch; they take turns."""
    mine, _, _ = _ready(subject.make)
    sgd, _, _ = _ready(lambda model: torch.optim.SGD(model.parameters(), lr=0.01))
    times: tuple[list[float], list[float]] = ([], [])
    for step in (mine, sgd):  # what is allocated or compiled once
        for _ in range(3):
            step()
    begun = time.perf_counter()
    while len(times[0]) < 5 or (len(times[0]) < _MOST and time.perf_counter() - begun < _SECONDS):
        for step, kept in zip((mine, sgd), times, strict=True):
            before = time.perf_counter()
            step()
            kept.append(time.perf_counter() - before)
    medians = [statistics.median(each) for each in times]
    return Found({"of SGD's step": medians[0] / medians[1], "milliseconds": 1e3 * medians[0]})


def _ready(
    make: Callable[[nn.Module], torch.optim.Optimizer],
) -> tuple[Callable[[], Tensor], torch.optim.Optimizer, nn.Module]:
    """A function that takes a step on a network of 19,000 weights at batch 64, its optimizer and the network."""
    torch.manual_seed(0)
    model = problem.network(problem.Wide, torch.float32)
    draws = generator(0, "certified costs")
    inputs, targets = torch.randn(64, 64, generator=draws), torch.randint(10, (64,), generator=draws)
    network, optimizer = Network(model), make(model)

    def step() -> Tensor:
        objective = Objective(network, CrossEntropy(), inputs, targets)
        value: Tensor = optimizer.step(objective)  # type: ignore[arg-type, assignment]
        objective.finish()
        return value

    return step, optimizer, model
