"""CRAIG: the subset whose weighted gradient is nearest to that of all examples."""

from typing import Any

import torch
from torch import Tensor

from optbench.selection.base import Selection
from optbench.selection.facility_location import facility_location
from optbench.selection.population import Population


class Craig(Selection):
    """Facility location on the gradients of single examples in the outputs, g_i, a class at a time.

    Every example is represented by the nearest chosen one, and m_j counts those that j represents, so that

        |sum_i g_i - sum_j m_j g_j| <= sum_i min_j |g_i - g_j|,

    which the greedy algorithm makes small (see `facility_location`). The gradients in the outputs stand for those in the
    weights, as in the authors' code, whose similarity is c - |g_i - g_j| with Euclidean distances and whose weights have mean 1.

    Source: Mirzasoleiman, Bilmes & Leskovec 2020, "Coresets for data-efficient training of machine learning models" (arXiv
    1906.01827), and the authors' code.
    """

    #: At the last selection: the sum over all examples of the distance to the nearest chosen one, which bounds the error.
    bound: float = float("nan")

    def _choose(self, population: Population) -> list[tuple[Tensor, Tensor]]:
        features = self.features(population)
        labels = population.labels if self.per_class else torch.zeros(population.size)
        found, self.bound = [], 0.0
        for members, count in self.counts(labels):
            subset = facility_location(features[members], count)
            found.append((members[subset.indices], subset.sizes))
            self.bound += subset.distance
        return found

    def features(self, population: Population) -> Tensor:
        """The points between which distances are taken, (n, d), float64."""
        return population.output_gradients()

    def values(self) -> dict[str, Any]:
        """The values of `Selection`, and the bound of the last selection."""
        return {**super().values(), "selection_bound": self.bound}

    def state_dict(self) -> dict[str, Any]:
        """The state of `Selection`, and the bound."""
        return {**super().state_dict(), "bound": self.bound}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        super().load_state_dict(state)
        self.bound = state["bound"]
