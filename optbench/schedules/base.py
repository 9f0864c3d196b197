"""The base class of all schedules of the learning rate, and the warm-up that may precede a schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SpectrumRequest:
    """A request for ``steps`` Lanczos steps on the Hessian of the training loss over ``examples`` examples."""

    examples: int
    steps: int


class Schedule:
    """The factor on the base learning rate at every step t = 0, 1, ... of a run of ``horizon`` steps.

    A subclass is a dataclass with ``horizon`` first and its options after it, all durations in steps, and computes the
    factor in ``_factor``. After the horizon a schedule keeps its last value, so that the learning rate does not rise again
    in a run that lasts a little longer.
    """

    horizon: int

    def __call__(self, step: int) -> float:
        """The factor at ``step``, counted from 0."""
        return self._factor(min(max(step, 0), self.horizon))

    def _factor(self, step: int) -> float:
        """The factor at ``step``, which is in 0 .. horizon."""
        raise NotImplementedError

    def after_warmup(self, steps: int) -> "Schedule":
        """This schedule, shifted so that its step 0 is step ``steps`` of the run.

        Options that are positions in the run, such as milestones, keep their place in the run.
        """
        return self

    def warmup_target(self) -> float:
        """The factor that a warm-up reaches in its last step."""
        return self(0)

    def momentum(self, step: int) -> float | None:
        """The momentum (or beta1) at ``step``; None if the schedule leaves it to the optimizer."""
        return None

    def batch_factor(self, step: int) -> float:
        """The factor on the run's batch at ``step``; 1 unless the schedule grows the batch."""
        return 1.0

    def base_learning_rate(self, step: int) -> float | None:
        """The learning rate that the factor multiplies at ``step``, if the schedule learns it; None for the optimizer's own."""
        return None

    def needs_spectrum(self, step: int) -> SpectrumRequest | None:
        """The measurement needed before ``step``, whose result goes to ``observe_spectrum``; None if none is needed."""
        return None

    def observe_spectrum(self, values: Sequence[float], weights: Sequence[float]) -> None:
        """Use the requested Ritz values, and the weight of the random start along each."""

    def observe(self, metric: float) -> None:
        """Use ``metric`` (the validation loss), which the bench passes after every evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """The state learned from observations, in plain numbers; empty for a closed form."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from ``state_dict``."""


# An exponential warm-up 1 - exp(-t / tau) with tau = steps / 5 reaches 1 - exp(-5) = 0.993 at its end.
_TIME_CONSTANTS = 5.0


@dataclass(frozen=True)
class Warmup(Schedule):
    """``steps`` steps of warm-up, and then another schedule: ramp(t) f(0) for t < w = steps, f(t - w) from there on.

    linear: ramp(t) = (t + 1) / w, per step (Goyal et al. 2017, arXiv 1706.02677, section 2.2).
    exponential: ramp(t) = (1 - exp(-(t + 1) / tau)) / (1 - exp(-w / tau)) with tau = w / 5, after Ma & Yarats 2021
    (arXiv 1910.04209). Their ramp has no denominator and never ends; this one reaches exactly 1, so that the schedule follows
    without a jump.

    f(0) is 1 for every schedule that starts at the base learning rate; for `InverseSqrt`, which starts just below it, the
    ramp also ends at 1.
    """

    after: Schedule
    steps: int
    kind: Literal["linear", "exponential"] = "linear"

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """The steps of the warm-up and of the schedule after it."""
        return self.steps + self.after.horizon

    def __call__(self, step: int) -> float:
        """The factor at ``step``, counted from 0."""
        step = max(step, 0)
        if step >= self.steps:
            return self.after(step - self.steps)
        return self._ramp((step + 1) / self.steps) * self.after.warmup_target()

    def _ramp(self, part: float) -> float:
        if self.kind == "linear":
            return part
        return math.expm1(-_TIME_CONSTANTS * part) / math.expm1(-_TIME_CONSTANTS)

    def momentum(self, step: int) -> float | None:
        """The momentum of the schedule after the warm-up; during the warm-up its first value."""
        return self.after.momentum(max(step - self.steps, 0))

    def batch_factor(self, step: int) -> float:
        """The batch factor of the schedule after the warm-up, whose milestones may lie within the warm-up."""
        return self.after.batch_factor(step - self.steps)

    def base_learning_rate(self, step: int) -> float | None:
        """The base learning rate of the schedule after the warm-up, which the ramp multiplies."""
        return self.after.base_learning_rate(step - self.steps)

    def needs_spectrum(self, step: int) -> SpectrumRequest | None:
        """The request of the schedule after the warm-up, which may also come during the warm-up."""
        return self.after.needs_spectrum(step - self.steps)

    def observe_spectrum(self, values: Sequence[float], weights: Sequence[float]) -> None:
        """Passed on to the schedule after the warm-up."""
        self.after.observe_spectrum(values, weights)

    def observe(self, metric: float) -> None:
        """Passed on to the schedule after the warm-up."""
        self.after.observe(metric)

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedule after the warm-up."""
        return self.after.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from ``state_dict`` in the schedule after the warm-up."""
        self.after.load_state_dict(state)
