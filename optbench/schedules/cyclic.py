"""Schedules that rise and fall: restarts, triangles and one cycle."""

import math
from dataclasses import dataclass

from optbench.schedules.base import Schedule


def _place_in_cycle(step: int, horizon: int, cycles: int, multiplier: int, period: int | None) -> tuple[int, float]:
    """The number of the cycle that contains ``step`` (from 0), and the part of it that has passed, in [0, 1).

    Every cycle is ``multiplier`` times as long as the one before. The first takes ``period`` steps; if that is None, its
    length is such that ``cycles`` cycles fill the horizon.
    """
    # Lengths are in units of 1/scale steps, so that they are integers and no cycle starts a step late by rounding.
    if period is None:
        scale, length = sum(multiplier**cycle for cycle in range(cycles)), horizon
    else:
        scale, length = 1, max(period, 1)
    position = step * scale
    if multiplier == 1:
        return position // length, position % length / length
    cycle = 0
    while position >= length:
        position, length, cycle = position - length, length * multiplier, cycle + 1
    return cycle, position / length


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half a cosine from 1 to ``final``, repeated: "SGDR" (Loshchilov & Hutter 2017, arXiv 1608.03983).

    With z the part of the current cycle that has passed: final + (1 - final) (1 + cos(pi z)) / 2, equation 5 there.
    Either ``cycles`` cycles fill the run, or the first takes ``period`` steps; each is ``multiplier`` times as long as
    the one before. With ``period`` this is torch's CosineAnnealingWarmRestarts(T_0=period, T_mult=multiplier).
    """

    horizon: int
    cycles: int = 4
    multiplier: int = 1
    period: int | None = None
    final: float = 0.0

    def _factor(self, step: int) -> float:
        # Step T may be a restart; the last step of the run is T - 1.
        step = min(step, self.horizon - 1)
        _, part = _place_in_cycle(step, self.horizon, self.cycles, self.multiplier, self.period)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class Triangular(Schedule):
    """A line up and a line down in every cycle, between ``minimum`` and 1 (Smith 2017, arXiv 1506.01186).

    minimum + (1 - minimum) amplitude_decay^c h(z), where c is the number of the cycle, z the part of it that has
    passed, and h(z) = z / rise up to z = rise, then (1 - z) / (1 - rise). An amplitude_decay of 1/2 is the paper's
    "triangular2". Either ``cycles`` cycles fill the run, or each takes ``period`` steps; with ``period`` this is
    torch's CyclicLR.
    """

    horizon: int
    cycles: int = 4
    period: int | None = None
    rise: float = 0.5
    minimum: float = 0.1
    amplitude_decay: float = 1.0

    def _factor(self, step: int) -> float:
        # Step T may be in the next cycle; the last step of the run is T - 1.
        step = min(step, self.horizon - 1)
        cycle, part = _place_in_cycle(step, self.horizon, self.cycles, 1, self.period)
        height = part / self.rise if part <= self.rise else (1 - part) / (1 - self.rise)
        return self.minimum + (1 - self.minimum) * self.amplitude_decay**cycle * height


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rises to the base learning rate and falls far below the start; the momentum moves in the opposite direction.

    The factor goes from 1 / initial_divisor up to 1 in rise T - 1 steps, and down to 1 / (initial_divisor
    final_divisor) at step T - 1, each along half a cosine; the momentum from ``maximum_momentum`` to
    ``minimum_momentum`` and back. Smith & Topin 2017 (arXiv 1708.07120), in the form of torch's OneCycleLR, whose
    max_lr is our base learning rate.
    """

    horizon: int
    rise: float = 0.3
    initial_divisor: float = 25.0
    final_divisor: float = 1.0e4
    cycle_momentum: bool = True
    minimum_momentum: float = 0.85
    maximum_momentum: float = 0.95

    def _anneal(self, step: int, start: float, peak: float, end: float) -> float:
        top, last = max(self.rise * self.horizon - 1, 0.0), self.horizon - 1
        step = min(max(step, 0), last)
        if step < top:
            return peak + (start - peak) * (1 + math.cos(math.pi * step / top)) / 2
        part = (step - top) / (last - top) if last > top else 0.0
        return end + (peak - end) * (1 + math.cos(math.pi * part)) / 2

    def _factor(self, step: int) -> float:
        initial = 1 / self.initial_divisor
        return self._anneal(step, initial, 1.0, initial / self.final_divisor)

    def momentum(self, step: int) -> float | None:
        """The momentum at ``step``; None if it is not cycled."""
        if not self.cycle_momentum:
            return None
        return self._anneal(step, self.maximum_momentum, self.minimum_momentum, self.maximum_momentum)
