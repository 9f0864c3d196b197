"""Schedules that never rise, each a closed form of the step t on a horizon of T steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optbench.errors import UserError
from optbench.schedules.base import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """The factor 1 at every step."""

    horizon: int

    def _factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """Multiplied by ``gamma`` every ``every`` steps of the run: gamma^floor((t + elapsed) / every), torch's StepLR.

    elapsed: the number of steps of the run before step 0, such as those of a warm-up.
    """

    horizon: int
    every: int
    gamma: float = 0.1
    elapsed: int = 0

    def _factor(self, step: int) -> float:
        return self.gamma ** ((step + self.elapsed) // max(self.every, 1))

    def after_warmup(self, steps: int) -> "Step":
        """The same schedule, with drops at multiples of ``every`` steps counted from the start of the run."""
        return replace(self, elapsed=self.elapsed + steps)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiplied by ``gamma`` at every milestone: gamma^#{milestones <= t}, torch's MultiStepLR."""

    horizon: int
    milestones: Sequence[int]
    gamma: float = 0.1

    def _factor(self, step: int) -> float:
        return self.gamma ** sum(milestone <= step for milestone in self.milestones)

    def after_warmup(self, steps: int) -> "MultiStep":
        """The same schedule, with milestones counted from the start of the run."""
        return replace(self, milestones=tuple(milestone - steps for milestone in self.milestones))


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiplied by ``gamma`` over every ``every`` steps, a little at each: gamma^(t / every).

    With every=1 this is torch's ExponentialLR.
    """

    horizon: int
    gamma: float = 0.95
    every: int = 1

    def _factor(self, step: int) -> float:
        return float(self.gamma ** (step / max(self.every, 1)))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final``: final + (1 - final) (1 + cos(pi t / T)) / 2.

    Loshchilov & Hutter 2017 (arXiv 1608.03983), equation 5 without restarts; torch's CosineAnnealingLR, which rises
    again after T.
    """

    horizon: int
    final: float = 0.0

    def _factor(self, step: int) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * step / self.horizon)) / 2


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of the remaining part of the run: final + (1 - final) (1 - t / T)^power.

    With final=0 this is torch's PolynomialLR; power 2 goes with LARS (You et al. 2017, arXiv 1708.03888).
    """

    horizon: int
    power: float = 2.0
    final: float = 0.0

    def _factor(self, step: int) -> float:
        return float(self.final + (1 - self.final) * (1 - step / self.horizon) ** self.power)


@dataclass(frozen=True)
class Linear(Schedule):
    """A line from ``initial`` to ``final`` over ``length`` steps (None: to the end of the run), then ``final``.

    torch's LinearLR.
    """

    horizon: int
    initial: float = 1.0
    final: float = 0.0
    length: int | None = None

    def _factor(self, step: int) -> float:
        length = self.horizon if self.length is None else max(self.length, 1)
        return self.initial + (self.final - self.initial) * min(step / length, 1.0)


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """1 for ``timescale`` = w steps of the run, then the inverse square root: min(1, sqrt(w / (t + elapsed + 1))).

    With timescale=None, w is the length of the warm-up, and the two together are min((t + 1) / w, sqrt(w / (t + 1)))
    (Vaswani et al. 2017, arXiv 1706.03762, equation 3, scaled to a peak of 1); without a warm-up it is 1 / sqrt(t + 1).

    elapsed: the number of steps of the run before step 0, such as those of a warm-up.
    """

    horizon: int
    timescale: int | None = None
    elapsed: int = 0

    def _factor(self, step: int) -> float:
        timescale = max(self.elapsed if self.timescale is None else self.timescale, 1)
        return min(1.0, math.sqrt(timescale / (step + self.elapsed + 1)))

    def after_warmup(self, steps: int) -> "InverseSqrt":
        """The same schedule, with steps counted from the start of the run."""
        return replace(self, elapsed=self.elapsed + steps)

    def warmup_target(self) -> float:
        """The factor one step before this schedule's first step: the end of the warm-up in the paper's formula."""
        return self._factor(-1) if self.elapsed else self(0)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """1 / (1 + t / timescale), the decay of stochastic approximation (Robbins & Monro 1951)."""

    horizon: int
    timescale: int

    def _factor(self, step: int) -> float:
        return 1 / (1 + step / max(self.timescale, 1))


@dataclass(frozen=True)
class Trapezoid(Schedule):
    """Constant, then a cool-down to ``final`` over the last ``cooldown`` = d steps: "warm-up, stable, decay" (WSD).

    With z = max(0, t - (T - d)) / d the factor is final + (1 - final) s(z), where s(z) is
    linear: 1 - z; cosine: (1 + cos(pi z)) / 2; sqrt: 1 - sqrt(z).
    Trapezoid: Xing et al. 2018 (arXiv 1802.08770); WSD: Hu et al. 2024 (arXiv 2404.06395); 1 - sqrt: Hägele et al. 2024
    (arXiv 2405.18392).

    Raises UserError if the cool-down is longer than the horizon.
    """

    horizon: int
    cooldown: int
    shape: Literal["linear", "cosine", "sqrt"] = "linear"
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.cooldown > self.horizon:
            raise UserError(
                f"schedule.cooldown={self.cooldown} steps: must be at most the {self.horizon} steps that the run has "
                "after its warm-up"
            )

    def _factor(self, step: int) -> float:
        into = step - (self.horizon - self.cooldown)
        if into <= 0:
            return 1.0
        part = into / self.cooldown
        if self.shape == "linear":
            left = 1 - part
        elif self.shape == "cosine":
            left = (1 + math.cos(math.pi * part)) / 2
        else:
            left = 1 - math.sqrt(part)
        return self.final + (1 - self.final) * left


@dataclass(frozen=True)
class Rex(Schedule):
    """Reflected exponential: (1 - z) / (1/2 + (1 - z) / 2) with z = t / T.

    Chen, Wolfe & Kyrillidis 2022 (arXiv 2107.04197).
    """

    horizon: int

    def _factor(self, step: int) -> float:
        left = 1 - step / self.horizon
        return left / (0.5 + 0.5 * left)
