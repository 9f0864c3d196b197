"""Averages of estimates of a Hessian's diagonal over selections."""

from typing import Any

import torch
from torch import Tensor

AVERAGES = ("mean_abs", "rms")


class CurvatureAverage:
    """An average of estimates D_1, D_2, ... of a diagonal, which forgets, without bias towards its start.

    With weights proportional to decay^(t - s) of D_s, normalized to sum 1,

        mean_abs    |mean of D|
        rms         (mean of D ∘ D)^(1/2).

    Of one estimate z ∘ H z with random signs z, the mean of the square of entry i is H_ii^2 + sum_(j != i) H_ij^2, the squared
    norm of row i of H. So ``rms`` converges to that norm and not to |H_ii|, however many estimates there are; ``mean_abs``
    converges to |H_ii|.
    """

    def __init__(self, average: str = "mean_abs", decay: float = 0.9) -> None:
        if average not in AVERAGES:
            raise ValueError(f"average={average}: must be one of {', '.join(AVERAGES)}")
        self.average, self.decay = average, decay
        self._sum: Tensor | None = None
        self._weight = 0.0

    def update(self, estimate: Tensor) -> Tensor:
        """Add an estimate; returns the average, not negative."""
        value = estimate.square() if self.average == "rms" else estimate
        before = torch.zeros_like(value) if self._sum is None else self._sum
        self._sum = self.decay * before + (1 - self.decay) * value
        self._weight = self.decay * self._weight + (1 - self.decay)
        mean = self._sum / self._weight
        return mean.sqrt() if self.average == "rms" else mean.abs()

    def state_dict(self) -> dict[str, Any]:
        """The sum and its weight."""
        return {"sum": self._sum, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._sum, self._weight = state["sum"], state["weight"]
