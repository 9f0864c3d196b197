"""Problems of a few numbers on which the steps of a method were computed apart from its code, in float64."""

import torch
from torch import nn

from optbench.objective import Network, Objective

# The gradients of two layers W ↦ ½‖W A - B‖², W (2, 3).
START = [[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]]
A = [[1, 0.5, 0], [0.2, 1, -0.3], [0, 0.4, 1]]
B = [[1, 0, -1], [0.5, 1, 0]]
START4 = [[0.5, -0.3, 0.2, 0.4], [0.1, 0.4, -0.6, -0.2]]
A4 = [[1, 0.5, 0, 0.1], [0.2, 1, -0.3, 0], [0, 0.4, 1, 0.2], [0.3, 0, -0.1, 1]]
B4 = [[1, 0, -1, 0.5], [0.5, 1, 0, -0.5]]


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def valley(point, shift=0.0):
    """(1 - x)² + 10 (y + shift - x²)²."""
    x, y = point
    return (1 - x) ** 2 + 10 * (y + shift - x**2) ** 2


def descend(optimizer, loss, steps):
    """``steps`` updates by closure on loss(step), step from 0; returns the losses that the optimizer returned."""
    found = []
    for step in range(steps):

        def closure(step=step):
            optimizer.zero_grad()
            value = loss(step)
            value.backward()
            return value.detach()

        found.append(optimizer.step(closure))
    return found


def on_valley(make, steps, start=(-0.5, 0.8), batches=None):
    """The point after ``steps`` updates of make([parameter]); ``batches``: the scale and the shifts of each."""
    point = nn.Parameter(numbers(start))
    optimizer = make([point])

    def loss(step):
        if batches is None:
            return valley(point)
        scale, shifts = batches
        return scale * valley(point, shifts[step % len(shifts)])

    descend(optimizer, loss, steps)
    return point.detach()


def on_matrix(make, steps, alternating=0.0, start=START, a=A, b=B):
    """The entries of W, row by row, after ``steps`` updates of make([W]) with B (1 + ``alternating`` (-1)^k), k from 1."""
    weight = nn.Parameter(numbers(start))
    optimizer = make([weight])
    descend(
        optimizer,
        lambda step: 0.5 * (weight @ numbers(a) - numbers(b) * (1 + alternating * (-1) ** (step + 1))).square().sum(),
        steps,
    )
    return weight.detach().flatten()


class Point(nn.Module):
    """A model whose output for each example is the same two weights."""

    def __init__(self, start):
        super().__init__()
        self.point = nn.Parameter(numbers(start))

    def forward(self, inputs):
        return self.point.expand(len(inputs), 2)


def on_objective(make, steps, start=(0.8, 0.2)):
    """As `on_valley`, with an `Objective` as the closure; make gets the model."""
    model = Point(start)
    optimizer = make(model)
    network = Network(model)
    for _ in range(steps):
        inputs = torch.zeros(1, 1, dtype=torch.float64)
        found = Objective(network, lambda outputs, _: valley(outputs[0]), inputs, torch.zeros(1))
        optimizer.step(found)
        found.finish()
    return model.point.detach()


def assert_is(found, *expected, tolerance=1e-11):
    torch.testing.assert_close(found, numbers(expected), rtol=0, atol=tolerance)
