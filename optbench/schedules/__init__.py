"""Schedules of the learning rate: the factor on the base learning rate at every step of a run (no torch).

    schedule = Warmup(Cosine(horizon=950), steps=50)
    schedule(0)  # 0.02: the learning rate of step 0 is 0.02 times the base learning rate

A new schedule is one dataclass derived from `Schedule`, and one file in conf/schedule that names it as its `_target_`.
"""

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

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

_NOT_OPTIONS = ("_target_", "name", "info", "warmup", "warmup_kind")


def build(options: Mapping[str, Any], horizon: int, batch: int | None = None) -> Schedule:
    """The schedule of a run of ``horizon`` steps, warm-up included.

    options: a composed choice of the group `schedule` whose durations are in steps. The schedule after the warm-up has
    what the warm-up leaves of the horizon; milestones stay where they are in the run. batch: the run's batch at step 0,
    which a growing batch with a maximum needs.

    Raises UserError if the warm-up takes the whole run.
    """
    warmup = int(options.get("warmup", 0))
    if warmup >= horizon:
        raise UserError(f"schedule.warmup={warmup} steps: must be shorter than the run, which has {horizon} steps")
    of_its_own = {name: value for name, value in options.items() if name not in _NOT_OPTIONS}
    target: Callable[..., Schedule] = pkgutil.resolve_name(options["_target_"])
    if target is BatchGrowth:
        of_its_own["batch"] = batch
    schedule = target(horizon=horizon - warmup, **of_its_own)
    if warmup == 0:
        return schedule
    return Warmup(schedule.after_warmup(warmup), warmup, options.get("warmup_kind", "linear"))
