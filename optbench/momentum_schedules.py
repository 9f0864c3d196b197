"""Schedules of the momentum: its value at every step of a run, or None to leave it as it is (no torch)."""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MomentumSchedule = Callable[[int], float | None]


@dataclass(frozen=True)
class Sutskever:
    """A momentum that grows towards ``maximum``, and is lower again at the end.

    mu_t = min(1 - 2^(-1 - log2(floor(t / period) + 1)), maximum) = min(1 - 0.5 / (floor(t / period) + 1), maximum),
    Sutskever et al. 2013 ("On the importance of initialization and momentum in deep learning"), equation 5. In the last
    ``final_steps`` steps of the horizon (0: never) it is at most ``final``: the schedule only ever lowers it there, so
    that a maximum of 0 stays plain SGD.
    """

    horizon: int
    maximum: float = 0.99
    period: int = 250
    final: float = 0.9
    final_steps: int = 1000

    def __call__(self, step: int) -> float | None:
        """The momentum at ``step``, counted from 0."""
        step = max(step, 0)
        momentum = min(1 - 0.5 / (step // max(self.period, 1) + 1), self.maximum)
        return min(momentum, self.final) if step >= self.horizon - self.final_steps else momentum


def build(options: Mapping[str, Any], horizon: int) -> MomentumSchedule | None:
    """The momentum schedule of a run of ``horizon`` steps; None for none, which leaves the momentum to others.

    options: a composed choice of the group `momentum_schedule` whose durations are in steps.
    """
    if "_target_" not in options:
        return None
    of_its_own = {name: value for name, value in options.items() if name not in ("_target_", "name", "info")}
    target: Callable[..., MomentumSchedule] = pkgutil.resolve_name(options["_target_"])
    return target(horizon=horizon, **of_its_own)
