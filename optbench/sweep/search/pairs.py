"""The pairs of settings that a search compares, and the verdict on each from the seeds that have ended.

A setting is one combination of the values of all axes but ``seed``. Two settings are compared by their difference at the same
seed, over the longest prefix of the seeds, in the order of the axis, of which both runs have ended. The verdict depends on the
shortest prefix that decides alone, not on the order in which runs end, nor on seeds that come later.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import Literal

import numpy as np

from optbench.analysis.statistics.sequential import FIRST, Rule, Verdict, correlation, state, verdict
from optbench.analysis.statistics.shares import fisher_exact
from optbench.analysis.statistics.survival import Times, logrank
from optbench.sweep.search.method import Grid, Pick, Problem, Seen

SEED = "seed"
Ended = Literal["better", "worse", "within", "undecided", "failed"]


@dataclass(frozen=True)
class Setting:
    """One combination of the values of all axes but the seed; ``name`` tells it from the others."""

    name: str
    grid: str
    cell: tuple[tuple[str, str], ...]

    def pick(self, seed: str) -> Pick:
        """Its run with this seed."""
        return Pick({**dict(self.cell), SEED: seed}, self.grid)


def settings(problem: Problem) -> list[Setting]:
    """All settings, in the order of the grids and of their axes, the last axis fastest."""
    cells = [
        (grid.name, tuple(zip(axes, values, strict=True)))
        for grid in problem.grids
        for axes in [[axis for axis in grid.axes if axis != SEED]]
        for values in product(*(grid.axes[axis] for axis in axes))
    ]
    axes = dict.fromkeys(axis for grid in problem.grids for axis in grid.axes if axis != SEED)
    # An axis that another grid lacks tells its cells apart, too.
    varying = [
        axis for axis in axes if len({value for grid in problem.grids for value in grid.axes.get(axis, (None,))}) > 1
    ]
    names = [_name(cell, varying) for _, cell in cells]
    # Two grids may differ in words that are no axes.
    clear = len({*names}) == len(names)
    return [
        Setting(name if clear else f"{grid} {name}".strip(), grid, cell)
        for name, (grid, cell) in zip(names, cells, strict=True)
    ]


def count_settings(grid: Grid) -> int:
    """The number of settings of a grid."""
    return grid.size // max(len(grid.axes.get(SEED, ())), 1)


def common_seeds(problem: Problem) -> list[str]:
    """The seeds that all grids have, in the order of the first grid."""
    first, *others = [grid.axes.get(SEED, ()) for grid in problem.grids]
    return [seed for seed in first if all(seed in other for other in others)]


def _name(cell: Sequence[tuple[str, str]], varying: Sequence[str]) -> str:
    spoken = [(axis, value) for axis, value in cell if axis in varying]
    if len(varying) == 1:
        return "".join(value for _, value in spoken)
    return " ".join(f"{axis.rpartition('.')[2]}={value}" for axis, value in spoken)


@dataclass(frozen=True)
class Comparison:
    """One pair of settings after the first seeds.

    runs: those of both settings for each seed of the prefix, in order; None where an experiment excludes the cell. rule: with
    alpha shared among all pairs, in units of the values times ``scale``. higher: a larger value is better. times: values are
    times to a target.
    """

    first: Setting
    second: Setting
    runs: tuple[tuple[Seen | None, Seen | None], ...]
    rule: Rule
    higher: bool
    scale: float = 1.0
    times: bool = False

    @property
    def _arms(self) -> tuple[list[Seen | None], list[Seen | None]]:
        return [first for first, _ in self.runs], [second for _, second in self.runs]

    @cached_property
    def known(self) -> list[tuple[Seen, Seen]]:
        """The pairs of runs that both have an outcome: a diverged run has one, a failed run has none."""
        return [(a, b) for a, b in self.runs if a and b and "failed" not in (a.state, b.state)]

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on "first minus second", positive if the first is larger, with diverged runs at the value of chance."""
        known = self.known[: self.rule.maximum]
        sign = 1 if self.higher else -1
        if not self._moving(known):
            found = verdict(sign * self._differences(known), self.rule)
        else:
            # The differences depend on the number of seeds, so that each number is looked at by itself.
            for n in range(min(FIRST, len(known)), len(known) + 1):
                found = state(sign * self._differences(known[:n]), self.rule)
                if found.outcome != "undecided":
                    break
        return self._oriented(found, known[: found.n])

    def after(self, n: int) -> Verdict:
        """The state after ``n`` differences, whatever was decided before."""
        known = self.known[:n]
        sign = 1 if self.higher else -1
        return self._oriented(state(sign * self._differences(known), self.rule), known)

    @property
    def outcome(self) -> Ended:
        """That of the verdict; "failed" if no run of one of the settings had an outcome at the first seeds."""
        if any([run and run.state for run in arm[:FIRST]] == ["failed"] * FIRST for arm in self._arms):
            return "failed"
        return self.verdict.outcome

    @property
    def trained(self) -> Verdict:
        """The state of the difference over the seeds at which neither run diverged, up to the seed of the verdict."""
        known = [(a, b) for a, b in self.known[: self.verdict.n] if "diverged" not in (a.state, b.state)]
        sign = 1 if self.higher else -1
        return self._oriented(state(sign * self._differences(known), self.rule), known)

    @property
    def failures(self) -> tuple[int, int]:
        """The runs of each setting that diverged or failed, at the seeds of the prefix."""
        first, second = (
            sum(run is not None and run.state in ("diverged", "failed") for run in arm) for arm in self._arms
        )
        return first, second

    @property
    def failures_p(self) -> float:
        """The p-value of Fisher's exact test that both fail equally often, at the present number of runs."""
        first, second = (sum(run is not None for run in arm) for arm in self._arms)
        return fisher_exact(self.failures, (first, second))

    def reached(self) -> tuple[int, int, float]:
        """The runs of each setting that reached the target, and the p-value of the log-rank test; up to the verdict's seed."""
        pairs = self.known[: self.verdict.n]
        arms = [[_time(pair[k]) for pair in pairs] for k in (0, 1)]
        first, second = (Times.of([time for time, _ in arm], [there for _, there in arm]) for arm in arms)
        return int(first.reached.sum()), int(second.reached.sum()), logrank(first, second)[1]

    def _oriented(self, found: Verdict, pairs: Sequence[tuple[Seen, Seen]]) -> Verdict:
        """With the sign of "first minus second", and the correlation of the runs that trained."""
        trained = [(a.value, b.value) for a, b in pairs if a.value is not None and b.value is not None]
        rho = correlation([a for a, _ in trained], [b for _, b in trained])
        if self.higher:
            return replace(found, rho=rho)
        return replace(found, estimate=-found.estimate, low=-found.high, high=-found.low, rho=rho)

    def _moving(self, pairs: Sequence[tuple[Seen, Seen]]) -> bool:
        if self.times:
            return any(not there for pair in pairs for _, there in map(_time, pair))
        return any(run.value is None and run.first is None for pair in pairs for run in pair)

    def _differences(self, pairs: Sequence[tuple[Seen, Seen]]) -> np.ndarray:
        values = self._capped(pairs) if self.times else self._at_chance(pairs)
        return self.scale * np.array([a - b for a, b in values], dtype=float)

    def _capped(self, pairs: Sequence[tuple[Seen, Seen]]) -> list[tuple[float, float]]:
        """min(T, horizon): the horizon is the least time at which a run ended without reaching the target."""
        times = [[_time(run) for run in pair] for pair in pairs]
        ends = [time for pair in times for time, there in pair if not there and time < math.inf]
        horizon = min(ends) if ends else max((time for pair in times for time, there in pair if there), default=0.0)
        return [(min(a, horizon), min(b, horizon)) for (a, _), (b, _) in times]

    def _at_chance(self, pairs: Sequence[tuple[Seen, Seen]]) -> list[tuple[float, float]]:
        """The values; for a diverged run the one before the first step, or the worst one of these pairs if it is unknown."""
        values = [run.value for pair in pairs for run in pair if run.value is not None]
        worst = (min if self.higher else max)(values, default=0.0)

        def value(run: Seen) -> float:
            return next(number for number in (run.value, run.first, worst) if number is not None)

        return [(value(a), value(b)) for a, b in pairs]


def _time(run: Seen) -> tuple[float, bool]:
    """The time of a run, and whether it reached the target."""
    return (math.inf, False) if run.value is None else (run.value, not run.censored)


def compared(
    problem: Problem, seen: Sequence[Seen], rule: Rule, which: Literal["all", "first"], scale: float, times: bool
) -> list[Comparison]:
    """All pairs of settings, or those of the first setting with each other one; alpha is shared equally among them."""
    every = settings(problem)
    pairs = list(combinations(every, 2)) if which == "all" else [(every[0], other) for other in every[1:]]
    rule = replace(rule, alpha=rule.alpha / len(pairs))
    seeds = common_seeds(problem)[: rule.maximum]
    results = {each.pick.key: each for each in seen}
    runs = {setting: [results.get(setting.pick(seed).key) for seed in seeds] for setting in every}
    higher = problem.higher and not times
    return [
        Comparison(first, second, _prefix(runs[first], runs[second]), rule, higher, scale, times)
        for first, second in pairs
    ]


def _prefix(first: Sequence[Seen | None], second: Sequence[Seen | None]) -> tuple[tuple[Seen | None, Seen | None], ...]:
    """The pairs up to the first seed whose runs have not both ended; None for a cell that was passed over."""
    reach = min(max((place + 1 for place, run in enumerate(arm) if run), default=0) for arm in (first, second))
    found = []
    for pair in zip(first[:reach], second[:reach], strict=True):
        if any(run is not None and run.state in ("waiting", "paused") for run in pair):
            break
        found.append(pair)
    return tuple(found)
