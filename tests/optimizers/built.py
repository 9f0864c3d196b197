"""Optimizers of choices that a test has changed."""

from optbench import optimizers
from optbench.config import Choice
from optbench.testing.problem import HORIZON


def build(choice, model, learning_rate, seed=0):
    """The optimizer of the composed ``choice``, as a run builds it."""
    return optimizers.build(Choice.of("optimizer", choice).in_steps(HORIZON), model, learning_rate, seed)
