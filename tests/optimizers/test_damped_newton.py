"""What sets damped Newton apart; what it shares with saddle-free Newton is tested there for both."""

import pytest
import torch
from torch import nn

from optbench.objective import Network, Objective
from optbench.objective.losses import SquaredError
from optbench.optimizers.damped_newton import DampedNewton
from optbench.optimizers.saddle_free_newton import SaddleFreeNewton


class Product(nn.Module):
    """outputs = inputs · u · v, the smallest network with a saddle: at u = v = 0."""

    def __init__(self, u, v):
        super().__init__()
        self.u, self.v = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (u, v))

    def forward(self, inputs):
        return inputs * self.u * self.v


def train(method, steps, **options):
    model = Product(0.1, 0.12)
    optimizer = method(model.parameters(), subspace="dense", **options)
    inputs = torch.ones(4, 1, dtype=torch.float64)
    losses = [
        optimizer.step(Objective(Network(model), SquaredError(), inputs, inputs)).item() for _ in range(steps + 1)
    ]
    return model, losses


def test_it_stops_at_the_saddle_that_the_other_leaves():
    """½ (1 - uv)²: the Hessian at the saddle is ((0, -1), (-1, 0)), the minima have uv = 1."""
    _, losses = train(SaddleFreeNewton, 12, damping_ladder=[0.0, 0.1])
    assert losses[-1] < 1e-6
    model, losses = train(DampedNewton, 12, damping_ladder=[0.0, 0.1])
    assert abs(model.u.item()) + abs(model.v.item()) < 0.25
    assert losses[-1] == pytest.approx(0.5, abs=0.02)


def test_damping_beyond_the_negative_curvature_makes_it_a_descent_again():
    _, losses = train(DampedNewton, 12, damping_ladder=[0.0, 0.1, 2.0])
    assert losses[-1] < 1e-6


def test_its_step_solves_the_damped_system():
    model = Product(0.7, -0.4)
    u, v, damping = 0.7, -0.4, 3.0
    error = 1 - u * v
    gradient = torch.tensor([-error * v, -error * u], dtype=torch.float64)
    second = torch.tensor([[v * v, u * v - error], [u * v - error, u * u]], dtype=torch.float64)
    expected = torch.tensor([u, v], dtype=torch.float64) - torch.linalg.solve(
        second + damping * torch.eye(2, dtype=torch.float64), gradient
    )
    inputs = torch.ones(3, 1, dtype=torch.float64)
    DampedNewton(model.parameters(), subspace="dense", damping_ladder=[damping]).step(
        Objective(Network(model), SquaredError(), inputs, inputs)
    )
    torch.testing.assert_close(torch.stack([model.u, model.v]).detach(), expected, rtol=0, atol=1e-12)
