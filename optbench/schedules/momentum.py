"""Schedules of the momentum: its value at every step of a run, or None to leave it as it is (no torch)."""

from collections.abc import Callable
from dataclasses import dataclass

from optbench.config.run_config import Choice
from optbench.config.targets import load_target

MomentumSchedule = Callable[[int], float | None]


@dataclass(frozen=True)
class Sutskever:
    """A momentum that grows to ``maximum``, and is lowered at the end.

    mu_t = min(1 - 2^(-1 - log2(floor(t / period) + 1)), maximum) = min(1 - 0.5 / (floor(t / period) + 1), maximum),
    Sutskever et al. 2013 ("On the importance of initialization and momentum in deep learning"), equation 5. In the last
    ``final_steps`` steps of the horizon (0: never) it is at most ``final``: the schedule never raises it there, so that a
    maximum of 0 stays plain SGD.
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


@dataclass(frozen=True)
class Delayed:
    """The momentum ``first`` in the first ``first_steps`` steps, and ``then`` after them.

    That of the recurrent networks of Sutskever et al. 2013, section 4.
    """

    horizon: int
    first: float = 0.9
    first_steps: int = 1000
    then: float = 0.98

    def __call__(self, step: int) -> float | None:
        """The momentum at ``step``, counted from 0."""
        return self.first if step < self.first_steps else self.then


def build(choice: Choice, horizon: int) -> MomentumSchedule | None:
    """The momentum schedule of a run of ``horizon`` steps; None for momentum_schedule=none.

    choice: of the group `momentum_schedule`, with its durations in steps.
    """
    if choice.target is None:
        return None
    # A momentum schedule is any callable with one argument, the step.
    target: Callable[..., MomentumSchedule] = load_target(choice, Callable)  # type: ignore[arg-type]
    return target(horizon=horizon, **choice.options)
