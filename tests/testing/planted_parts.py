"""A model, a dataset and a probe each with one fault, and the clean ones that they are made from."""

import itertools

import numpy as np
import torch
from torch import nn

from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.probes.base import Measurement, Probe


class CleanModel(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Tanh())
        self.head = nn.Linear(16, data.outputs)

    def forward(self, inputs):
        return self.head(self.body(inputs))


class MeanOfTheBatch(CleanModel):
    """It scales by a mean over whatever passes at once, which is a micro-batch."""

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs * (1 + outputs.detach().mean()) if self.training else outputs


class CountsPasses(CleanModel):
    """An attribute that no checkpoint holds scales the outputs."""

    passes = 0

    def forward(self, inputs):
        self.passes += self.training
        return super().forward(inputs) * (1 + 0.01 * self.passes)


class SinglePrecision(CleanModel):
    def forward(self, inputs):
        return super().forward(inputs.float())


class Detached(CleanModel):
    """Nothing reaches the weights but those of the head, whose sign is wrong."""

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs.detach() - (outputs - outputs.detach())


def clean_data(data_dir, draws=0, train=200):
    generator = np.random.default_rng(draws)
    labels = {"train": train, "validation": 32, "test": 32}
    splits = {}
    for name, examples in labels.items():
        targets = generator.integers(3, size=examples)
        inputs = generator.normal(size=(examples, 6)) + 2 * np.eye(6)[targets]
        splits[name] = Split(torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets))
    return RawData(**splits, spec=DataSpec("table", (6,), 3))


TIMES = itertools.count()


def changing_data(data_dir):
    """Others at every load."""
    return clean_data(data_dir, draws=next(TIMES))


def fewer_data(data_dir):
    return clean_data(data_dir, train=150)


class CleanProbe(Probe):
    def measure(self, context):
        return Measurement({"norm": float(sum(weight.detach().norm() for weight in context.task.model.parameters()))})


class MovesTheWeights(CleanProbe):
    def measure(self, context):
        with torch.no_grad():
            next(context.task.model.parameters()).mul_(1.001)
        return super().measure(context)


class LeavesEvalMode(CleanProbe):
    def measure(self, context):
        context.task.model.eval()
        return super().measure(context)


class Raises(CleanProbe):
    def measure(self, context):
        raise ZeroDivisionError("by nothing")


class RemembersInVain(CleanProbe):
    """What it needs of earlier measurements is not in its state."""

    taken = 0

    def measure(self, context):
        self.taken += 1
        return Measurement({"taken": self.taken})
