"""The length of a run: durations in steps, and the batch size of every step (no torch).

Samples are the clock. Step t takes the samples ``first_sample(t) .. first_sample(t) + batch(t) - 1`` of an endless
stream of epochs, each a permutation of the training set; a batch may span two epochs, so that every batch is full.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from optbench.config.schema import Duration, Growth
from optbench.errors import UserError

# Steps or samples of a run, and examples of a batch: far beyond what can be trained, and exact as floats.
MOST = 10**15


@dataclass(frozen=True)
class Stage:
    """A part of training with one batch size."""

    first_step: int
    first_sample: int
    batch: int


class BatchPlan:
    """The batch size of every step: constant, or growing at milestones given in samples.

    A milestone takes effect at the first step before which at least that many samples were consumed. Raises UserError if
    the milestones are not in ascending order.
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
        """The number of samples consumed before ``step``."""
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


class GrowingPlan(BatchPlan):
    """A batch that grows while a run trains, as its optimizer asks: stages are added at run time.

    batch: of the first step. multiple: every later batch is a multiple of it, so that it does not depend on the number of
    ranks. limit: the largest that may be asked for, in examples.
    """

    def __init__(self, batch: int, multiple: int, limit: int) -> None:
        super().__init__(batch)
        self._multiple, self._limit = multiple, limit // multiple * multiple

    def grow(self, step: int, wanted: int) -> None:
        """Let the batch be at least ``wanted`` from ``step`` on, which comes after all steps so far; it never shrinks."""
        batch = min(-(-wanted // self._multiple) * self._multiple, self._limit)
        if batch > self.batch(step):
            self.stages.append(Stage(step, self.first_sample(step), batch))

    @property
    def largest(self) -> int:
        """The largest batch that there may be."""
        return max(self._limit, super().largest)

    def state_dict(self) -> list[tuple[int, int, int]]:
        """The stages so far: first step, first sample, batch."""
        return [(stage.first_step, stage.first_sample, stage.batch) for stage in self.stages]

    def load_state_dict(self, state: Sequence[Sequence[int]]) -> None:
        """Continue from ``state_dict``."""
        self.stages = [Stage(*each) for each in state]


@dataclass(frozen=True)
class Budget:
    """The length of a run: ``steps``, or else ``samples``, or else ``epochs``; and the target that ends it early, if any."""

    steps: int | None
    samples: int | None
    epochs: float | None
    target: float | None
    target_metric: str
    stop_at_target: bool
    regime_adaptation: bool

    @classmethod
    def of(cls, choice: Mapping[str, Any]) -> "Budget":
        """Read a composed choice of the group `budget`."""
        return cls(**{field.name: choice[field.name] for field in fields(cls)})

    @property
    def limit(self) -> str:
        """The limit in effect: "steps", "samples" or "epochs"."""
        return next(unit for unit in ("steps", "samples", "epochs") if getattr(self, unit) is not None)


@dataclass(frozen=True)
class Horizon:
    """The length of a run, and durations in its steps.

    plan: the batch size of every step. examples: the size of the training set. steps: the last step of the run.
    stretch: the epochs that one epoch of a duration lasts (regime adaptation, Hoffer et al. 2017: ceil(B / B0)).

    Where the batch grows while the run trains, ``steps`` and durations in steps are those with the first batch, and ``samples``
    is the length of a run whose budget is not in steps.
    """

    plan: BatchPlan
    examples: int
    steps: int
    stretch: int = 1
    samples: float | None = None

    @classmethod
    def of(cls, budget: Budget, plan: BatchPlan, examples: int, stretch: int = 1) -> "Horizon":
        """The horizon of ``budget``: its steps, or else its samples, or else its epochs (times ``stretch``)."""
        unit = budget.limit
        given = getattr(budget, unit)
        amount = given * (stretch * examples if unit == "epochs" else 1)  # of steps or samples
        if amount > MOST:
            raise UserError(
                f"budget.{unit}={given}: longer than any training; accepted: at most {MOST:.0e} steps or samples"
            )
        steps = int(amount) if unit == "steps" else plan.steps_for(amount)
        grows = isinstance(plan, GrowingPlan) and unit != "steps"
        return cls(plan, examples, max(steps, 1), stretch, amount if grows else None)

    @property
    def last(self) -> int:
        """The last step of the run, with the batches that are known by now."""
        return self.steps if self.samples is None else max(self.plan.steps_for(self.samples), 1)

    def in_steps(self, duration: Duration, stretch: bool = False) -> int:
        """The steps of ``duration``; ``stretch`` applies the regime adaptation to epochs.

        Epochs and samples round up to the step that completes them, as the budget does; a percentage to the nearest.
        """
        if duration.unit == "steps":
            return int(duration.amount)
        if duration.unit == "%":
            return round(self.steps * duration.amount / 100)
        return self.plan.steps_for(in_samples(duration, self.examples, self.stretch if stretch else 1))

    def epoch(self, step: int) -> float:
        """The number of passes over the training set before ``step``, with fractions."""
        return self.plan.first_sample(step) / self.examples


@dataclass(frozen=True)
class Evaluations:
    """The steps at which a run is evaluated: the multiples of ``every`` in steps, or steps that grow by a factor.

    From step 1 on, each step of a growth is max(e + 1, floor(factor e)) after e: all steps first, and then a constant share of
    the time so far, so that a time to a target is known to that share.
    """

    every: int | Growth
    _grown: list[int] = field(default_factory=lambda: [0, 1], init=False, repr=False, compare=False)

    @classmethod
    def of(cls, run: Horizon, every: Duration | Growth) -> "Evaluations":
        """The evaluations of ``run``."""
        return cls(every if isinstance(every, Growth) else max(run.in_steps(every), 1))

    def from_step(self, step: int) -> int:
        """The first evaluation that is not before ``step``."""
        if isinstance(self.every, int):
            return -(-step // self.every) * self.every
        while self._grown[-1] < step:
            last = self._grown[-1]
            self._grown.append(max(last + 1, math.floor(self.every.factor * last)))
        return self._grown[bisect_left(self._grown, step)]

    def due(self, step: int) -> bool:
        """True if the run is evaluated at ``step``; step 0 is one."""
        return self.from_step(step) == step


def in_samples(duration: Duration, examples: int, stretch: int = 1) -> float:
    """A duration of epochs or samples in samples."""
    if duration.unit == "samples":
        return duration.amount
    if duration.unit == "epochs":
        return duration.amount * examples * stretch
    raise ValueError(f"{duration}: must be in epochs or samples")
