"""Schedules of the learning rate: the factor on the base learning rate at every step of a run (no torch).

    schedule = Warmup(Cosine(horizon=950), steps=50)
    schedule(0)  # 0.02: the learning rate of step 0 is 0.02 times the base learning rate

A new schedule is one dataclass derived from `Schedule`, and one file in conf/schedule that names it as its `_target_`.
"""

from collections.abc import Callable
from typing import Any

from optbench.config.run_config import Choice
from optbench.config.targets import load_target
from optbench.errors import UserError
from optbench.schedules.base import Schedule, Warmup
from optbench.schedules.batch_growth import BatchGrowth
from optbench.schedules.cyclic import CosineRestarts, OneCycle, Triangular
from optbench.schedules.decay import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    Polynomial,
    Rex,
    Step,
    Trapezoid,
)
from optbench.schedules.lanczos import LanczosLearner
from optbench.schedules.plateau import Plateau

__all__ = [
    "BatchGrowth",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InverseSqrt",
    "InverseTime",
    "LanczosLearner",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Plateau",
    "Polynomial",
    "Rex",
    "Schedule",
    "Step",
    "Trapezoid",
    "Triangular",
    "Warmup",
    "build",
]


def build(choice: Choice, horizon: int, batch: int | None = None) -> Schedule:
    """The schedule of a run of ``horizon`` steps, warm-up included.

    choice: of the group `schedule`, with its durations in steps. The schedule after the warm-up gets the rest of the
    horizon; milestones keep their place in the run. batch: the run's batch at step 0, which a growing batch with a maximum
    needs.

    Raises UserError if the warm-up takes the whole run.
    """
    warmup = int(choice.options.get("warmup", 0))
    if warmup >= horizon:
        raise UserError(f"schedule.warmup={warmup} steps: must be shorter than the run, which has {horizon} steps")
    given: dict[str, Any] = {**choice.without("warmup", "warmup_kind")}
    target: Callable[..., Schedule] = load_target(choice, Schedule)
    if target is BatchGrowth:
        given["batch"] = batch
    schedule = target(horizon=horizon - warmup, **given)
    if warmup == 0:
        return schedule
    return Warmup(schedule.after_warmup(warmup), warmup, choice.options.get("warmup_kind", "linear"))
