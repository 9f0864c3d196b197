"""The schedule of a probe: a function of the step alone, so that a resumed run measures at the same steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: The options that every probe has, and their types.
SCHEDULE_OPTIONS = {
    "every": "duration > 0 or null",
    "at": "list of duration",
    "log_spaced": "int >= 1 or null",
    "start": "bool",
    "end": "bool",
    "on_divergence": "bool",
}


@dataclass(frozen=True)
class ProbeSchedule:
    """The steps of a run of ``steps`` steps at which a probe measures; a step is the number of updates before it.

    every: a period in steps. at: single steps. log_spaced: step 1, and this many steps in every factor of 10, rounded.
    start, end: before the first step, and at the end of the run (also an early one). on_divergence: when the run has diverged.
    """

    steps: int
    every: int | None = None
    at: tuple[int, ...] = ()
    log_spaced: int | None = None
    start: bool = False
    end: bool = False
    on_divergence: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any], steps: int) -> "ProbeSchedule":
        """Read the schedule from a probe's options, in which every duration is in steps."""
        given = {name: options[name] for name in SCHEDULE_OPTIONS}
        every = given["every"]
        return cls(steps, **{**given, "every": None if every is None else max(every, 1), "at": tuple(given["at"])})

    @cached_property
    def _single(self) -> list[int]:
        found = {*self.at}
        if self.start:
            found.add(0)
        if self.end:
            found.add(self.steps)
        if self.log_spaced is not None:
            exponent, step = 0, 1
            while step <= self.steps:
                found.add(step)
                exponent += 1
                step = round(10 ** (exponent / self.log_spaced))
        return sorted(step for step in found if step <= self.steps)

    @property
    def is_empty(self) -> bool:
        """True if no measurement is ever due."""
        return not (self._single or self.on_divergence or (self.every is not None and self.every <= self.steps))

    def due(self, step: int, ending: bool = False, diverged: bool = False) -> bool:
        """True if a measurement is due at ``step``; ``ending``, ``diverged``: the run ends there, or has diverged."""
        if diverged:
            return self.on_divergence
        periodic = self.every is not None and step > 0 and step % self.every == 0
        return periodic or step in self._single or (ending and self.end)

    def next(self, step: int) -> int | None:
        """The first step after ``step`` at which to measure, None if there is none."""
        found = [later for later in self._single if later > step][:1]
        if self.every is not None:
            found.append(step - step % self.every + self.every)
        return min(found, default=None)
