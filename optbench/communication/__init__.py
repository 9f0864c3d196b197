"""Communication between the workers that share a batch: compressed gradients, or averages of weights."""

from collections.abc import Callable

from optbench.communication.base import Communication, Compressor, Shapes, dense_bytes
from optbench.communication.local import LocalSGD
from optbench.config.run_config import Choice
from optbench.config.targets import load_target

__all__ = ["OF_DATA", "Communication", "Compressor", "LocalSGD", "Shapes", "build", "dense_bytes"]

#: The options that say which examples a worker sees.
OF_DATA = ("shards",)


def build(choice: Choice, shapes: Shapes, seed: int) -> Communication | None:
    """Build a choice of the group `communication`, with durations in steps; None where workers send whole gradients.

    shapes: of the trained parameters, by name.
    """
    if choice.target is None:
        return None
    target: Callable[..., Communication] = load_target(choice, Communication)
    return target(shapes, seed=seed, **choice.without(*OF_DATA))
