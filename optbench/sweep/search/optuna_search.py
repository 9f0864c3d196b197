"""Let a sampler of Optuna draw settings, and a pruner of Optuna stop runs early.

Akiba, Sano, Yanase, Ohta & Koyama 2019, "Optuna: a next-generation hyperparameter optimization framework", arXiv 1907.10902.

There is one Optuna study for each combination of the axes that are not searched. Seeds are replicas: a trial's value is the mean
over its seeds, infinitely bad if one of them diverged, and over those that did not fail. The studies are built anew from the
results at every choice, so that nothing is kept twice.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optbench.data import extras
from optbench.errors import UserError, nearest
from optbench.sweep.search.method import Answer, Choice, Grid, Options, Pick, Problem, Seen
from optbench.sweep.search.optuna_study import OptunaStudy, OptunaTrial, pause_after, pruners, samplers
from optbench.sweep.search.searched_options import ListedOption, Option, option

SEEDS = "seed"
# Draws in a row that give only settings which were tried before; after these, a study is over.
ATTEMPTS = 25


class OptunaSearch:
    """``search=optuna``; its options are described in conf/search/optuna.yaml."""

    needs_evaluations = True

    def check(self, problem: Problem, options: Options) -> None:
        """Raise UserError if Optuna is missing, and for an option or an axis that cannot be searched."""
        if missing := extras.lacking("optuna"):
            raise UserError(f"search=optuna: needs {', '.join(missing)}, not installed here; {extras.remedy('optuna')}")
        for what, known in (("sampler", samplers()), ("pruner", pruners())):
            if options[what] not in known:
                raise UserError(f"search.{what}={options[what]}: not one of Optuna's; {nearest(options[what], known)}")
        for grid in problem.grids:
            if "trial" in grid.axes:
                raise UserError(
                    "trial: search=optuna draws the settings itself; accepted: search.trials=N instead of an axis trial"
                )
        for search in _searches(problem, (), options):
            search.check()

    def choose(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Choice:
        """Continue every paused run that the pruner lets go on; then draw settings for the study that has the fewest."""
        searches = list(_searches(problem, seen, options))
        picks = [pick for search in searches for pick in search.continued()]
        asked = {search: len(search.trials) for search in searches}
        while len(picks) < options.round_size:
            unfinished = [search for search in searches if asked[search] < options["trials"]]
            if not unfinished:
                break
            search = min(unfinished, key=asked.__getitem__)
            drawn = search.draw()
            picks += drawn
            asked[search] = asked[search] + 1 if drawn else options["trials"]
        if picks or any(one.state == "waiting" for one in seen):
            return Choice(tuple(picks))
        return Choice(why=_why(searches, options["trials"]))

    def answer(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Answer:
        """The best trial of each study so far."""
        searches = [search for search in _searches(problem, seen, options) if search.trials]
        rows = tuple(search.row() for search in searches)
        ended = sum(row["ended"] for row in rows)
        found = [row for row in rows if row["best"] is not None]
        paused = sum(row["paused"] for row in rows)
        many = f"{len(rows)} searches, " if len(rows) > 1 else ""
        line = f"{many}{ended} of {options['trials'] * max(len(rows), 1)} trials ended"
        line += f", {paused} paused" if paused else ""
        if found:
            best = (max if problem.higher else min)(found, key=lambda row: float(row["best"]))
            where = ", ".join(f"{key}={best[key]}" for key in best if "." in key)
            label = f"{best['search']}: " if len(rows) > 1 else ""
            line += f"; best: {label}{best['best']:.5g} at {where}"
        return Answer(line, rows)


class _Search:
    """One study: the trials of one combination of the axes that are not searched."""

    def __init__(
        self, problem: Problem, grid: Grid, cell: Mapping[str, str], seen: Sequence[Seen], options: Options
    ) -> None:
        self._problem = problem
        self._grid = grid
        self._cell = dict(cell)
        self._options = options
        self._study: OptunaStudy | None = None
        shown = [f"{key}={word}" for key, word in cell.items() if len(grid.axes[key]) > 1]
        self.label = " ".join([grid.name, *shown] if grid.name else shown)
        seeds = grid.axes.get(SEEDS, ())
        self._replicas: list[dict[str, str]] = [{SEEDS: seed} for seed in seeds] or [{}]
        self.searched: list[Option] = self._find_searched()
        runs: dict[tuple[str, ...], list[Seen]] = {}
        for one in seen:
            runs.setdefault(self._setting(one.pick.cell), []).append(one)
        self._tried = set(runs)
        self._stages = 1 if options["pruner"] == "none" else options["stages"]
        #: In the order in which they were drawn.
        self.trials = [OptunaTrial.of(own, self.searched, self._stages) for own in runs.values()]

    def _find_searched(self) -> list[Option]:
        over = _listed(self._options["over"])
        grid = self._grid
        entries = dict(grid.intervals)
        if over or not entries:
            first = Pick({**self._cell, **self._replicas[0], **_first_values(grid, over)}, grid.name)
            entries = {**self._problem.search_space(first), **entries}
        for name in over:
            if name not in entries and len(grid.axes.get(name, ())) < 2:
                listed = [axis for axis, words in grid.axes.items() if len(words) > 1 and axis != SEEDS]
                raise UserError(
                    f"search.over={name}: cannot be searched here; accepted: {', '.join([*entries, *listed])}"
                )
        if not entries and not over:
            raise UserError(
                f"search=optuna: nothing to search in {self.label or 'this sweep'}, whose optimizer declares no search space; "
                "accepted: an interval such as 'optimizer.learning_rate=tag(log,interval(1e-4,1))', or search.over=AXIS"
            )
        return [
            ListedOption(name, grid.axes[name]) if name in grid.axes else option(name, entries[name])
            for name in over or entries
        ]

    def _setting(self, cell: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(cell[option.key] for option in self.searched)

    def study(self) -> OptunaStudy:
        """Optuna's study with all trials; built once."""
        if self._study is None:
            self._study = OptunaStudy(self.label, self.searched, self.trials, self._problem.higher, self._options)
        return self._study

    def check(self) -> None:
        """Raise UserError for options that Optuna refuses, and if a first trial cannot run."""
        words = self.study().ask()
        self._problem.steps(Pick({**self._cell, **self._replicas[0], **words}, self._grid.name))

    def continued(self) -> Iterator[Pick]:
        """The runs of paused trials that the pruner lets go on, with the step of their next pause."""
        if not any(trial.is_paused for trial in self.trials):
            return
        for trial in self.study().promoted():
            for one in trial.runs:
                if one.state == "paused":
                    yield self._staged(one.pick, one.steps)

    def draw(self) -> list[Pick]:
        """The runs of a new trial; none if Optuna proposes only what was tried before."""
        for _ in range(ATTEMPTS):
            words = self.study().ask()
            picks = [Pick({**self._cell, **seed, **words}, self._grid.name) for seed in self._replicas]
            picks = [pick for pick in picks if self._problem.exists(pick)]
            if picks and self._setting(picks[0].cell) not in self._tried:
                self._tried.add(self._setting(picks[0].cell))
                return [self._staged(pick, 0) for pick in picks]
            self.study().withdraw()
        return []

    def _staged(self, pick: Pick, done: int) -> Pick:
        planned = self._problem.steps(pick) if self._stages > 1 else 0
        later = (pause_after(planned, stage, self._stages) for stage in range(1, self._stages))
        return Pick(pick.cell, pick.grid, next((step for step in later if step > done), None))

    def row(self) -> dict[str, Any]:
        """The state of the study and its best trial."""
        values = [(trial.value(self._problem.higher), trial) for trial in self.trials if trial.has_ended]
        finite = [(value, trial) for value, trial in values if value is not None and math.isfinite(value)]
        best = (max if self._problem.higher else min)(finite, key=lambda pair: pair[0], default=None)
        return {
            "search": self.label,
            "trials": len(self.trials),
            "ended": len(values),
            "diverged": sum(value is not None and not math.isfinite(value) for value, _ in values),
            "failed": sum(value is None for value, _ in values),
            "paused": sum(trial.is_paused for trial in self.trials),
            "best": best[0] if best else None,
            **({option.key: best[1].words[option.key] for option in self.searched} if best else {}),
        }


def _searches(problem: Problem, seen: Sequence[Seen], options: Options) -> Iterator[_Search]:
    over = _listed(options["over"])
    for grid in problem.grids:
        axes = {key: words for key, words in grid.axes.items() if key != SEEDS and key not in over}
        runs: dict[tuple[str, ...], list[Seen]] = {}
        for one in seen:
            if one.pick.grid == grid.name:
                runs.setdefault(tuple(one.pick.cell[key] for key in axes), []).append(one)
        for words in itertools.product(*axes.values()):
            yield _Search(problem, grid, dict(zip(axes, words, strict=True)), runs.get(words, ()), options)


def _first_values(grid: Grid, over: Sequence[str]) -> dict[str, str]:
    return {key: grid.axes[key][0] for key in over if key in grid.axes}


def _listed(over: str | None) -> list[str]:
    return re.split(r"[,\s]+", over.strip()) if over else []


def _why(searches: Sequence[_Search], trials: int) -> str:
    ended = sum(len(search.trials) for search in searches)
    if ended < trials * len(searches):
        return f"{ended} trials: Optuna proposes no setting that was not tried"
    return (
        f"all {ended} trials are over"
        if len(searches) == 1
        else f"all {trials} trials of {len(searches)} searches are over"
    )
