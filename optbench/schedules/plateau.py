"""A learning rate that drops when the validation loss stops improving."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from optbench.schedules.base import Schedule


@dataclass
class Plateau(Schedule):
    """Multiplied by ``factor`` after more than ``patience`` evaluations in a row without improvement.

    A metric m improves on the best b so far if m < b (1 - threshold) (threshold_mode "rel") or m < b - threshold
    ("abs"); with mode "max", m > b (1 + threshold) or m > b + threshold. After a drop, ``cooldown`` evaluations are not
    counted. The factor never falls below ``minimum``. The rule of torch's ReduceLROnPlateau, without its eps (which
    ignores drops of less than 1e-8 in the learning rate itself).
    """

    horizon: int
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1.0e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    minimum: float = 0.0
    _current: float = field(default=1.0, init=False)
    _best: float = field(default=math.inf, init=False)
    _without_improvement: int = field(default=0, init=False)
    _cooling: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._best = math.inf if self.mode == "min" else -math.inf

    def _factor(self, step: int) -> float:
        return self._current

    def _improves(self, metric: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            bound = self._best * (1 + sign * self.threshold)
        else:
            bound = self._best + sign * self.threshold
        return metric < bound if self.mode == "min" else metric > bound

    def observe(self, metric: float) -> None:
        """Count an evaluation, and drop the factor after more than ``patience`` of them without improvement."""
        if self._improves(metric):
            self._best, self._without_improvement = metric, 0
        else:
            self._without_improvement += 1
        if self._cooling > 0:
            self._cooling, self._without_improvement = self._cooling - 1, 0
        if self._without_improvement > self.patience:
            self._current = max(self._current * self.factor, self.minimum)
            self._cooling, self._without_improvement = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """The current factor, the best metric so far, and the two counters."""
        return {
            "current": self._current,
            "best": self._best,
            "without_improvement": self._without_improvement,
            "cooling": self._cooling,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from ``state_dict``."""
        self._current, self._best = float(state["current"]), float(state["best"])
        self._without_improvement, self._cooling = int(state["without_improvement"]), int(state["cooling"])
