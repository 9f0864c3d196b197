"""A learning rate and a momentum learned during training, from extreme eigenvalues of the Hessian."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from optbench.schedules.base import Schedule, SpectrumRequest
from optbench.theory import HeavyBall, polyak

Variant = Literal["minimum", "median"]

# The smallest curvature that is used, relative to the largest: it keeps the momentum below 1.
SMALLEST = 1.0e-8


def heavy_ball_from_ritz(values: Sequence[float], weights: Sequence[float], variant: Variant) -> HeavyBall:
    """Polyak's learning rate and momentum for curvatures in [μ, A], estimated from Ritz pairs.

    values: t_i. weights: w_i, the squared components of a random start along each, which sum to 1. A = max |t_i|.

        minimum   μ = min |t_i|; while the largest weight exceeds 1/2, its pair is left out first: it stands for the many
                  directions of almost no curvature, to which the rate should not be adapted
        median    μ = median |t_i|

    and μ is at least 1e-8 A. Then η = (2/(√A + √μ))² and β = ((√A - √μ)/(√A + √μ))².

    Source: Granziol, Zohren, Roberts 2022 (arXiv 2006.09092), from the authors' code, with two corrections: there β is
    divided by (√A + μ)², and values are sorted without their weights.

    Raises ValueError for values that are all zero or not all finite.
    """
    sizes = [abs(value) for value in values]
    largest = max(sizes, default=0.0)
    if not largest > 0 or not all(map(math.isfinite, sizes)):
        raise ValueError(f"Ritz values {list(values)}: must be finite, and not all zero")
    if variant == "median":
        ordered = sorted(sizes)
        middle = len(ordered) // 2
        smallest = (ordered[middle] + ordered[~middle]) / 2
    else:
        pairs = sorted(zip(weights, sizes, strict=True))
        while len(pairs) > 1 and pairs[-1][0] > 0.5:
            pairs.pop()
        smallest = min(size for _, size in pairs)
    return polyak(largest, max(smallest, SMALLEST * largest))


@dataclass
class LanczosLearner(Schedule):
    """Sets Polyak's learning rate and momentum for the present Hessian every ``every`` steps, from step 0 of the run on.

    The Hessian is that of the training loss over the first ``examples`` training examples, a fixed random subset, without
    augmentation and in eval mode, with batch norm statistics computed anew. ``lanczos_steps`` Lanczos steps are taken from a
    random start, and ``heavy_ball_from_ritz`` computes the two numbers from their result. Both values stay fixed until the
    next measurement. The optimizer's own learning rate is not used: the factor of a warm-up, if there is one, multiplies the
    learned rate. The time of measuring is part of the method, and counted as training.

    Only for the heavy-ball method: Nesterov's momentum is not stable with these parameters, and a preconditioned method has
    other eigenvalues. The Hessian is that of the loss alone, without weight decay. The rate is close to the edge of
    stability on the subset; the Hessian of a small batch has a larger top eigenvalue, so that the run may diverge, the
    sooner the more often it measures. ``scale`` multiplies the rate.

    elapsed: the number of steps of the run before step 0, those of a warm-up.
    """

    horizon: int
    every: int
    variant: Variant = "minimum"
    examples: int = 1024
    lanczos_steps: int = 20
    scale: float = 1.0
    elapsed: int = 0
    _learned: HeavyBall | None = field(default=None, init=False)

    def _factor(self, step: int) -> float:
        return 1.0

    def needs_spectrum(self, step: int) -> SpectrumRequest | None:
        """A request at every ``every``-th step of the run; otherwise None."""
        due = (step + self.elapsed) % max(self.every, 1) == 0
        return SpectrumRequest(self.examples, self.lanczos_steps) if due else None

    def observe_spectrum(self, values: Sequence[float], weights: Sequence[float]) -> None:
        """Set the learning rate and momentum for these Ritz pairs; keep the old ones if they are all zero or not finite."""
        try:
            self._learned = heavy_ball_from_ritz(values, weights, self.variant)
        except ValueError:
            return  # the run has diverged, or its loss is flat

    def base_learning_rate(self, step: int) -> float | None:
        """η; None before the first measurement."""
        return None if self._learned is None else self.scale * self._learned.learning_rate

    def momentum(self, step: int) -> float | None:
        """β; None before the first measurement."""
        return None if self._learned is None else self._learned.momentum

    def after_warmup(self, steps: int) -> "LanczosLearner":
        """The same schedule, with measurements at steps counted from the start of the run."""
        return replace(self, elapsed=steps)

    def state_dict(self) -> dict[str, Any]:
        """The learning rate (before its scale), momentum and contraction; empty before the first measurement."""
        learned = self._learned
        if learned is None:
            return {}
        return {
            "learning_rate": learned.learning_rate,
            "momentum": learned.momentum,
            "contraction": learned.contraction,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from ``state_dict``."""
        self._learned = HeavyBall(**state) if state else None
