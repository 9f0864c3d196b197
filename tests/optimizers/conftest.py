import io

import numpy as np
import pytest
import torch
from torch import nn

from optbench.config import read_choice


class Problem:
    """½‖tanh(XW + b) - Y‖² over five fixed batches, with its gradient written by hand in NumPy (float64)."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self.inputs = draw.normal(size=(5, 4, 3))
        self.targets = draw.uniform(-1, 1, size=(5, 4, 2))
        self.start = {"weight": draw.normal(size=(3, 2)), "bias": draw.normal(size=2)}

    def gradients(self, values, step):
        inputs, targets = self.inputs[step % 5], self.targets[step % 5]
        outputs = np.tanh(inputs @ values["weight"] + values["bias"])
        errors = (outputs - targets) * (1 - outputs**2)
        return {"weight": inputs.T @ errors, "bias": errors.sum(0)}

    def model(self, dtype=torch.float64):
        model = nn.Module()
        for name, value in self.start.items():
            model.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=dtype)))
        return model

    def loss(self, model, step):
        inputs, targets = (
            torch.as_tensor(data[step % 5], dtype=model.bias.dtype) for data in (self.inputs, self.targets)
        )
        return 0.5 * (torch.tanh(inputs @ model.weight + model.bias) - targets).square().sum()

    def train(self, model, optimizer, steps, first=0):
        """``steps`` updates by closure; returns the losses that the optimizer returned."""
        losses = []
        for step in range(first, first + steps):

            def closure(step=step):
                optimizer.zero_grad()
                loss = self.loss(model, step)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure))
        return losses

    def solve(self, update, steps):
        """The weights after ``steps`` of values[name] -= update(name, value, gradient, memory, t), t from 1."""
        values = {name: value.copy() for name, value in self.start.items()}
        memory = {name: {} for name in values}
        for step in range(steps):
            gradients = self.gradients(values, step)
            for name in values:
                values[name] -= update(name, values[name], gradients[name], memory[name], step + 1)
        return values


@pytest.fixture
def problem():
    return Problem()


@pytest.fixture
def choice():
    """conf/optimizer/NAME.yaml as a dict, with options overridden."""

    def load(name, /, **overrides):
        config = read_choice("optimizer", name)
        assert overrides.keys() <= config["info"]["schema"].keys()
        return {**config, **overrides}

    return load


@pytest.fixture
def through_a_file():
    """A state dict as a checkpoint returns it."""

    def copy(state):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    return copy


@pytest.fixture
def assert_close():
    def check(model, expected, rtol=1e-9, atol=1e-12):
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(model, name).detach().numpy(), value, rtol=rtol, atol=atol, err_msg=name)

    return check
