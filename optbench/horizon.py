"""How long a run is: durations in steps, and the batch of every step (no torch).

Samples are the clock. Step t takes the samples ``first_sample(t) .. first_sample(t) + batch(t) - 1`` of an endless
stream of epochs, each a permutation of the training set; a batch may span two epochs, so that every batch is full.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.errors import UserError
from optbench.schema import Duration, OptionType


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one batch size."""

    first_step: int
    first_sample: int
    batch: int


class BatchPlan:
    """The batch of every step: constant, or growing at milestones given in samples.

    A milestone takes effect at the first step before which at least so many samples were consumed. Raises UserError for
    milestones that are not in ascending order.
    """

    def __init__(self, batch: int, milestones: Sequence[int] = (), batches: Sequence[int] = ()) -> None:
        if list(milestones) != sorted(milestones):
            raise UserError(
                f"schedule.milestones={list(milestones)} (in samples): must be in ascending order; "
                f"accepted: {sorted(milestones)}"
            )
        self.stages = [Stage(0, 0, batch)]
        for milestone, larger in zip(milestones, batches, strict=True):
            step = self.steps_for(milestone)
            self.stages.append(Stage(step, self.first_sample(step), larger))

    def _stage(self, step: int) -> Stage:
        for stage in reversed(self.stages):
            if step >= stage.first_step:
                return stage
        raise ValueError(f"step {step} is negative")

    def batch(self, step: int) -> int:
        """The global batch of ``step``."""
        return self._stage(step).batch

    def first_sample(self, step: int) -> int:
        """How many samples were consumed before ``step``."""
        stage = self._stage(step)
        return stage.first_sample + (step - stage.first_step) * stage.batch

    def steps_for(self, samples: float) -> int:
        """The least number of steps that consume at least ``samples``."""
        for stage in reversed(self.stages):
            if samples > stage.first_sample or stage.first_step == 0:
                return stage.first_step + math.ceil((samples - stage.first_sample) / stage.batch - 1e-9)
        raise ValueError(f"{samples} samples")

    @property
    def largest(self) -> int:
        """The largest batch of any stage."""
        return max(stage.batch for stage in self.stages)


@dataclass(frozen=True)
class Horizon:
    """The length of a run, and durations in its steps.

    plan: the batch of every step. examples: the size of the training set. steps: where the run ends.
    stretch: how many epochs an epoch of a duration lasts (regime adaptation, Hoffer et al. 2017: ceil(B / B0)).
    """

    plan: BatchPlan
    examples: int
    steps: int
    stretch: int = 1

    @classmethod
    def of(cls, budget: Mapping[str, Any], plan: BatchPlan, examples: int, stretch: int = 1) -> "Horizon":
        """The horizon of ``budget``: its steps, or else its samples, or else its epochs (times ``stretch``)."""
        if budget["steps"] is not None:
            steps = int(budget["steps"])
        elif budget["samples"] is not None:
            steps = plan.steps_for(budget["samples"])
        else:
            steps = plan.steps_for(budget["epochs"] * stretch * examples)
        return cls(plan, examples, max(steps, 1), stretch)

    def in_steps(self, value: int | str, stretch: bool = False) -> int:
        """A duration in steps; ``stretch`` applies the regime adaptation to epochs.

        Epochs and samples round up to the step that completes them, as the budget does; a percentage to the nearest.
        """
        duration = Duration.parse(value)
        if duration.unit == "steps":
            return int(duration.amount)
        if duration.unit == "%":
            return round(self.steps * duration.amount / 100)
        return self.plan.steps_for(in_samples(duration, self.examples, self.stretch if stretch else 1))

    def resolve(self, options: Mapping[str, Any], schema: Mapping[str, str], stretch: bool = False) -> dict[str, Any]:
        """A copy of ``options`` in which every duration is an int number of steps."""
        resolved = dict(options)
        for name, text in schema.items():
            kind = OptionType.parse(text)
            if kind.base == "duration" and resolved.get(name) is not None:
                value = resolved[name]
                resolved[name] = (
                    [self.in_steps(item, stretch) for item in value] if kind.is_list else self.in_steps(value, stretch)
                )
        return resolved

    def epoch(self, step: int) -> float:
        """How many passes over the training set are complete before ``step``."""
        return self.plan.first_sample(step) / self.examples


def in_samples(duration: Duration, examples: int, stretch: int = 1) -> float:
    """A duration of epochs or samples in samples."""
    if duration.unit == "samples":
        return duration.amount
    if duration.unit == "epochs":
        return duration.amount * examples * stretch
    raise ValueError(f"{duration}: must be in epochs or samples")
