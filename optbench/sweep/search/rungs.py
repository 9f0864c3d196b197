"""Brackets of settings that compete at rungs, and how far the runs that were seen have taken them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from optbench.sweep.search.method import Grid, Pick, Problem, Seen

#: Axes with their values.
Words = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Bracket:
    """Settings that compete.

    fixed: the axes that they have in common. seeds: of every setting; one that is empty if there is no such axis.
    shares: of a run, at the rungs, ascending to 1. factor: one setting of so many goes on to the next rung. new_seeds: those of
    which the best setting is trained once the bracket is decided, and which decide nothing. always: settings that are, too.
    """

    grid: Grid
    fixed: Words
    settings: tuple[Words, ...]
    seeds: tuple[Words, ...]
    shares: tuple[float, ...]
    factor: int
    new_seeds: tuple[Words, ...] = ()
    always: tuple[Words, ...] = ()

    def quota(self, rung: int, settings: int) -> int:
        """The number of settings at a rung, from 0, of those that there are."""
        return max(1, math.floor(settings / float(self.factor) ** rung + 1e-9))

    def pick(self, setting: Words, seed: Words, until: int | None = None) -> Pick:
        """A run of a setting."""
        words = dict((*self.fixed, *setting, *seed))
        return Pick({axis: words[axis] for axis in self.grid.axes}, self.grid.name, until)

    def first_of_each_length(self) -> Iterator[Pick]:
        """A cell of each of its settings, without those that differ in the trial only, which changes no length."""
        known = set()
        for setting in self.settings:
            rest = tuple(pair for pair in setting if pair[0] != "trial")
            if rest not in known:
                known.add(rest)
                yield self.pick(setting, self.seeds[0])

    @property
    def name(self) -> str:
        """Its grid and the axes in common, as "grid=digits optimizer=adam"; empty without any."""
        return in_words((*((("grid", self.grid.name),) if self.grid.name else ()), *self.fixed))

    @property
    def title(self) -> str:
        """Its name in sentences, as "grid=digits optimizer=adam: "; empty for a bracket without a name."""
        return f"{self.name}: " if self.name else ""


class Standing:
    """The state of a bracket, by the runs that were seen.

    complete: of each rung that is complete, the settings that were compared, best first, with their values; lower is better.
    due: the runs that can be chosen now, each as far as it is to go. is_over: nothing is left to wait for.
    """

    def __init__(self, bracket: Bracket, problem: Problem, seen: Sequence[Seen]) -> None:
        self.bracket, self._problem = bracket, problem
        self._sign = -1 if problem.higher else 1
        self._known = {each.pick.key: each for each in seen if each.pick.grid == bracket.grid.name}
        self._seen = {
            (setting, seed): self._known.get(bracket.pick(setting, seed).key)
            for setting in bracket.settings
            for seed in bracket.seeds
        }
        self._asked = {run: -1 if each is None else self._rung(each) for run, each in self._seen.items()}
        self._goes_to = {
            setting: max(self._asked[setting, seed] for seed in bracket.seeds) for setting in bracket.settings
        }
        self.complete: list[list[tuple[float, Words]]] = []
        self.due: Iterable[Pick] = ()
        self.is_over = False
        self._walk()

    def _walk(self) -> None:
        """Go up the rungs to the first one at which something is due or awaited."""
        for rung in range(self._last + 1):
            owed = self._owed(rung)
            first = next(owed, None)
            if first is not None:
                self.due = (self._pick(run, rung) for run in chain([first], owed))
                return
            ranked = self._ranked(rung)
            if ranked is None:
                return
            self.complete.append(ranked)
        self.is_over = True

    def _owed(self, rung: int) -> Iterator[tuple[Words, Words]]:
        """The runs that are to go to ``rung`` and were not chosen for it."""
        for setting in self._members(rung):
            for seed in self.bracket.seeds if self._goes_to[setting] <= rung else ():
                seen = self._seen[setting, seed]
                if seen is None:
                    # Of a setting that was continued, an excluded seed is asked about again.
                    owed = self._problem.exists(self.bracket.pick(setting, seed))
                else:
                    owed = self._asked[setting, seed] < rung and seen.state not in ("diverged", "failed")
                if owed:
                    yield setting, seed

    def _members(self, rung: int) -> Sequence[Words]:
        """The settings that are to go to ``rung``: all to the first, and the best of each to the next."""
        if rung == 0:
            return self.bracket.settings
        ranked = self.complete[rung - 1]
        gone = [setting for _, setting in ranked if self._goes_to[setting] >= rung]
        best = ranked[: self.bracket.quota(rung, self._begun)]
        return [*gone, *(setting for value, setting in best if math.isfinite(value) and self._goes_to[setting] < rung)]

    def _pick(self, run: tuple[Words, Words], rung: int) -> Pick:
        pick = self.bracket.pick(*run)
        if rung == self._last:
            return pick
        return replace(pick, until=self._problem.rungs(pick, self.bracket.shares[:-1])[rung])

    @property
    def _last(self) -> int:
        return len(self.bracket.shares) - 1

    @property
    def _begun(self) -> int:
        """The number of settings that were chosen; of all, once the first rung is complete."""
        return sum(rung >= 0 for rung in self._goes_to.values())

    # ---- new seeds ----

    @property
    def best(self) -> Words | None:
        """The best setting at the end; None while the bracket is not decided, and if none trained to its end."""
        ranked = self.complete[-1] if self.is_over else []
        return ranked[0][1] if ranked and math.isfinite(ranked[0][0]) else None

    def unconfirmed(self) -> Iterator[Pick]:
        """The runs of new seeds that are not chosen yet, of the best setting and of those that are always confirmed.

        They decide nothing, so that the best setting stays what it is. A run that failed is not chosen again.
        """
        for pick in self._new_runs():
            if pick.key not in self._known and self._problem.exists(pick):
                yield pick

    @property
    def is_confirmed(self) -> bool:
        """True if the bracket is decided and no run of a new seed is chosen and has not ended."""
        new = (self._known.get(pick.key) for pick in self._new_runs())
        return self.is_over and not any(seen is not None and seen.state == "waiting" for seen in new)

    def _new_runs(self) -> Iterator[Pick]:
        """All runs of new seeds; none while the bracket is not decided."""
        best = [] if self.best is None else [self.best]
        for setting in dict.fromkeys([*best, *self.bracket.always]) if self.is_over else ():
            yield from (self.bracket.pick(setting, seed) for seed in self.bracket.new_seeds)

    def _new_values(self, setting: Words) -> list[float]:
        """The goal at the end of each run of a new seed that is done."""
        runs = (self._known.get(self.bracket.pick(setting, seed).key) for seed in self.bracket.new_seeds)
        return [seen.value for seen in runs if seen is not None and seen.state == "done" and seen.value is not None]

    # ---- values ----

    def _steps(self, seen: Seen, rung: int) -> int:
        """The steps after which a run is compared: its evaluation at this rung is the first one not before them."""
        return math.ceil(self.bracket.shares[rung] * seen.planned - 1e-9)

    def _compared_at(self, seen: Seen, rung: int) -> int:
        """The step of the evaluation at this rung, or of its end before."""
        least = self._steps(seen, rung)
        return next((step for step, _ in seen.evaluations if step >= least), seen.steps)

    def _rung(self, seen: Seen) -> int:
        """The rung to which a run was last asked to go."""
        until = seen.pick.until
        if until is None:
            return self._last
        if not seen.planned:  # it cannot run
            return 0
        return max(sum(self._steps(seen, rung) <= until for rung in range(self._last)) - 1, 0)

    def _value(self, run: tuple[Words, Words], rung: int) -> float | None:
        """The goal at ``rung``, infinity if the run diverged before, NaN if it failed before; None if it is not there yet."""
        seen, asked = self._seen[run], self._asked[run]
        if seen is None or (seen.state == "waiting" and asked <= rung):
            return None
        # A run that ended at an earlier rung goes on no further, and counts for its setting nevertheless.
        at = [value for step, value in seen.evaluations if asked >= rung and step >= self._steps(seen, rung)][:1]
        if seen.state == "done" and (rung == self._last or not at):  # it may have reached its target before the rung
            at = [math.inf if seen.value is None else seen.value]
        if at:
            return self._sign * at[0] if math.isfinite(at[0]) else math.inf
        return {"diverged": math.inf, "failed": math.nan}.get(seen.state)

    def _mean(self, setting: Words, rung: int) -> float | None:
        """The mean over its seeds at a rung; NaN if all failed, None if one is still missing."""
        runs = [(setting, seed) for seed in self.bracket.seeds]
        values = [self._value(run, rung) for run in runs if self._seen[run] is not None]
        valid = [value for value in values if value is not None and not math.isnan(value)]
        if None in values:
            return None
        return math.fsum(valid) / len(valid) if valid else math.nan

    def _ranked(self, rung: int) -> list[tuple[float, Words]] | None:
        """The settings that were compared at a rung, best first, without those that failed; None if the rung is not complete.

        A setting that has gone on, and whose evaluation here is not known, is before all others.
        """
        found = []
        for setting, goes_to in self._goes_to.items():
            if goes_to < rung:
                continue
            mean = self._mean(setting, rung)
            if mean is None and goes_to == rung:
                return None
            if mean is None or not math.isnan(mean):
                found.append((-math.inf if mean is None else mean, setting))
        return sorted(found, key=lambda each: each[0])  # stable: settings that tie stay in the order of the grid

    # ---- the answer ----

    def line(self) -> str:
        """The best setting of the last complete rung, or the number of those that have begun."""
        total, rungs = self._begun, self._last + 1
        if not self.complete:
            settings = len(self.bracket.settings)
            later = ", ".join(str(self.bracket.quota(rung, settings)) for rung in range(1, rungs))
            return f"{total} of {settings} settings begun" + (f", {later} of them will go on" if later else "")
        reached = [ranked for ranked in self.complete if ranked]
        place = "at the end" if len(reached) == rungs else f"at rung {len(reached)} of {rungs}"
        if not reached or reached[-1][0][0] == math.inf:
            return f"none of {total} settings is left {place}"
        value, setting = reached[-1][0]
        new = self._new_values(setting) if self.is_over else []
        mean = (
            f"; {math.fsum(new) / len(new):.4g} with {len(new)} new seed{'' if len(new) == 1 else 's'}" if new else ""
        )
        return f"{in_words(setting)} is the best of {total} settings, {self._sign * value:.4g} {place}{mean}"

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each setting at each complete rung."""
        for rung, ranked in enumerate(self.complete):
            for place, (value, setting) in enumerate(ranked, start=1):
                runs = [(setting, seed) for seed in self.bracket.seeds if self._seen[setting, seed] is not None]
                values = [self._value(run, rung) for run in runs]
                yield {
                    "bracket": self.bracket.name,
                    "setting": in_words(setting),
                    "rung": rung + 1,
                    "steps": max(
                        self._compared_at(seen, rung) for run in runs if (seen := self._seen[run]) is not None
                    ),
                    "value": self._sign * value if math.isfinite(value) else None,
                    "rank": place,
                    "promoted": self._goes_to[setting] > rung,
                    "seeds": len(runs),
                    "diverged": values.count(math.inf),
                    "failed": sum(each is not None and math.isnan(each) for each in values),
                }


def in_words(words: Words) -> str:
    """Axes with their values as on the command line: "batch=64 trial=3"."""
    return " ".join(f"{axis}={value}" for axis, value in words)
