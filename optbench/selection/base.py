"""The base class of selections: when a subset is chosen, how large it is, and what has been chosen so far."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optbench import randomness
from optbench.selection.population import Population


class Coreset(NamedTuple):
    """A weighted subset: ``indices`` (k,) of training examples, ``weights`` (k,) of mean 1, float64.

    first_sample: the sample of training from which on batches are drawn from it. number: of the selection, from 0.
    """

    indices: Tensor
    weights: Tensor
    first_sample: int
    number: int


class Selection(ABC):
    """Chooses a weighted subset of the training set every so many steps, at the weights that the model then has.

    Each chosen example stands for a number m of examples, itself among them, and these numbers sum to the size n of the training
    set. Its weight in the loss is m k / n for k chosen examples: weights have mean 1, so that the learning rate keeps its
    meaning. An epoch stays n samples, so that a subset of a tenth is seen ten times in one.

    fraction: of the examples of each class, rounded, but at least one. every: steps between two selections, the first before
    the first step. per_class: False to choose from all examples at once. seed: of all draws.

    current: the subset from which batches are drawn. selected: every example that has been in a subset, a mask (n,). seconds: of
    all selections. passes, products: see `Population`.
    """

    def __init__(self, fraction: float, every: int, per_class: bool = True, seed: int = 0) -> None:
        self.fraction, self.every, self.per_class, self.seed = fraction, max(every, 1), per_class, seed
        self.current: Coreset | None = None
        self.selected: Tensor | None = None
        self.number = self.passes = self.products = 0
        self.seconds = 0.0

    def due(self, step: int) -> bool:
        """True if a subset is chosen before ``step``."""
        return step % self.every == 0

    def check(self, model: nn.Module) -> None:  # noqa: B027 - most selections need nothing of a model
        """Raise UserError for a model with which it cannot work."""

    def counts(self, labels: Tensor) -> list[tuple[Tensor, int]]:
        """The indices of each group of examples that is chosen from by itself, and the number of examples to choose."""
        if not self.per_class:
            return [(torch.arange(len(labels)), self._count(len(labels)))]
        groups = [(labels == each).nonzero()[:, 0] for each in labels.unique()]
        return [(members, self._count(len(members))) for members in groups]

    def _count(self, size: int) -> int:
        return min(max(round(self.fraction * size), 1), size)

    def select(self, population: Population, first_sample: int) -> Coreset:
        """Choose the next subset, from which samples from ``first_sample`` on are drawn."""
        chosen = self._choose(population)
        indices, sizes = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        weights = sizes.double() * (len(indices) / population.size)
        self.current = Coreset(indices, weights, first_sample, self.number)
        if self.selected is None:
            self.selected = torch.zeros(population.size, dtype=torch.bool)
        self.selected[indices] = True
        self.number += 1
        self.passes += population.passes
        self.products += population.products
        return self.current

    @abstractmethod
    def _choose(self, population: Population) -> list[tuple[Tensor, Tensor]]:
        """For each group the indices of its chosen examples, and how many examples each stands for."""

    def values(self) -> dict[str, float]:
        """The costs of all selections so far, and the number of different examples in them, for rows and summaries."""
        distinct = 0 if self.selected is None else int(self.selected.sum())
        return {
            "seconds_selection": self.seconds,
            "selections": self.number,
            "selection_passes": self.passes,
            "selection_products": self.products,
            "distinct_examples": distinct,
        }

    def state_dict(self) -> dict[str, Any]:
        """All state on which later steps depend, as tensors and plain values."""
        return {
            "current": None if self.current is None else tuple(self.current),
            "selected": self.selected,
            **{name: getattr(self, name) for name in ("number", "passes", "products", "seconds")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.current = None if state["current"] is None else Coreset(*state["current"])
        self.selected = state["selected"]
        for name in ("number", "passes", "products", "seconds"):
            setattr(self, name, state[name])


class RandomSubset(Selection):
    """Examples drawn at random without replacement, each of which stands for n_g / k_g examples of its group g.

    The draws are functions of (seed, number of the selection, group). The baseline of Mirzasoleiman, Bilmes & Leskovec 2020.
    """

    def _choose(self, population: Population) -> list[tuple[Tensor, Tensor]]:
        found = []
        labels = population.labels if self.per_class else torch.zeros(population.size)
        for group, (members, count) in enumerate(self.counts(labels)):
            places = randomness.permutation(self.seed, f"random subset of group {group}", self.number, len(members))
            found.append((members[places[:count]], torch.full((count,), len(members) / count, dtype=torch.float64)))
        return found
