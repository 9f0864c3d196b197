"""Selection of weighted subsets of the training set, on which any optimizer trains."""

from collections.abc import Callable

from optbench.config.run_config import Choice
from optbench.config.targets import load_target
from optbench.selection.base import Selection
from optbench.selection.population import Population

__all__ = ["Population", "Selection", "build"]


def build(choice: Choice, seed: int) -> Selection | None:
    """Build a choice of the group `selection`, with durations in steps; None where training uses all examples."""
    if choice.target is None:
        return None
    target: Callable[..., Selection] = load_target(choice, Selection)
    return target(seed=seed, **choice.options)
