"""Build an Optuna study from the runs of a search, and ask it for settings."""

import hashlib
import inspect
import math
import re
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from optbench.errors import UserError
from optbench.sweep.search.method import Options, Seen
from optbench.sweep.search.searched_options import Option, values_of

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

# These draw from the trials alone, so that the trials that exist can be added without asking for them again. The others keep
# what they learned in the study, and have to see every trial being asked for.
_DRAW_FROM_TRIALS = ("random", "tpe", "gp", "brute_force")


@dataclass(frozen=True)
class OptunaTrial:
    """One setting: ``words`` on the command line, ``drawn`` for Optuna, and its ``runs``, one for each seed."""

    words: Mapping[str, str]
    drawn: Mapping[str, Any]
    runs: tuple[Seen, ...]
    stages: int

    @classmethod
    def of(cls, runs: Sequence[Seen], searched: Sequence[Option], stages: int) -> "OptunaTrial":
        """The trial of runs that differ only in their seeds."""
        cell = runs[0].pick.cell
        return cls({one.key: cell[one.key] for one in searched}, values_of(searched, cell), tuple(runs), stages)

    @property
    def round(self) -> int:
        """The round in which it was drawn."""
        return self.runs[0].round

    @property
    def has_diverged(self) -> bool:
        """True as soon as one of its runs has: the others cannot change its value any more."""
        return any(run.state == "diverged" for run in self.runs)

    @property
    def has_ended(self) -> bool:
        """True if its value is known."""
        return self.has_diverged or all(run.state in ("done", "failed") for run in self.runs)

    @property
    def is_paused(self) -> bool:
        """True if it waits for the pruner."""
        states = {run.state for run in self.runs}
        return not self.has_ended and "paused" in states and "waiting" not in states

    def value(self, higher: bool) -> float | None:
        """The mean over the runs, the worst possible value if one diverged; None if all failed."""
        if self.has_diverged:
            return -math.inf if higher else math.inf
        return _mean([_number(run.value, higher) for run in self.runs if run.state != "failed"])

    def at_stages(self, higher: bool) -> Iterator[tuple[int, float]]:
        """(k, mean over the runs of the first evaluation at or after pause k), as far as all runs have got."""
        runs = [run for run in self.runs if run.state != "failed"]
        for stage in range(1, self.stages):
            values = [_at_stage(run, pause_after(run.planned, stage, self.stages), higher) for run in runs]
            known = [value for value in values if value is not None]
            if not known or len(known) < len(values):
                return
            yield stage, sum(known) / len(known)


def pause_after(planned: int, stage: int, stages: int) -> int:
    """The steps after which a run is paused for the ``stage``-th time, from 1."""
    return -(-planned * stage // stages)


def _at_stage(run: Seen, steps: int, higher: bool) -> float | None:
    # The results of a run beyond its last pause are not known before all runs of its round have ended.
    if run.state == "waiting" and run.pick.until is not None and steps >= run.pick.until:
        return None
    found = next((value for step, value in run.evaluations if step >= steps), None)
    if found is None and run.state == "diverged":
        return -math.inf if higher else math.inf
    return None if found is None else _number(found, higher)


def _number(value: float | None, higher: bool) -> float:
    """A value that Optuna can order: without one, and for NaN, the worst."""
    return value if value is not None and not math.isnan(value) else (-math.inf if higher else math.inf)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


class OptunaStudy:
    """A study with all trials of a search; the same trials, options and seed give the same answers."""

    def __init__(
        self, label: str, searched: Sequence[Option], trials: Sequence[OptunaTrial], higher: bool, options: Options
    ) -> None:
        import optuna

        self._higher = higher
        self._searched = searched
        self._space = {option.key: option.distribution() for option in searched}
        name = str(options["sampler"])
        draws_from_trials = name in _DRAW_FROM_TRIALS
        purpose = f"{options.seed}/{label}/{len(trials) if draws_from_trials else ''}"
        seed = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=4).digest(), "little")
        with _quiet():
            sampler = _built("sampler", samplers()[name], dict(options["sampler_options"]), seed=seed)
            # A stage is the smallest resource, and a whole run has all stages; Optuna would wait for a run to end to see that.
            resources = {"min_resource": 1, "max_resource": options["stages"]}
            pruner = _built("pruner", pruners()[options["pruner"]], dict(options["pruner_options"]), **resources)
            self._study = optuna.create_study(
                study_name=label or "search",
                direction="maximize" if higher else "minimize",
                sampler=optuna.samplers.RandomSampler(seed=0) if draws_from_trials else sampler,
                pruner=pruner,
            )
            self._paused = self._add(trials)
            self._study.sampler = sampler
        self._asked: Any = None

    def _add(self, trials: Sequence[OptunaTrial]) -> list[tuple[OptunaTrial, Any]]:
        """Ask for every trial with the values that it has; tell results in the rounds in which they were known."""
        ended: deque[tuple[OptunaTrial, Any]] = deque()
        paused = []
        for trial in trials:
            while ended and ended[0][0].round <= trial.round - 2:
                self._tell(*ended.popleft())
            self._study.enqueue_trial(dict(trial.drawn))
            asked = self._study.ask(self._space)
            # Optuna draws only when it lacks a value, and a sampler such as CMA-ES notes with its draws what they belong to.
            # The first trial had no others to draw from.
            if asked.number > 0:
                _ = asked.relative_params
            if trial.is_paused:
                paused.append((trial, asked))
                continue
            self._report(trial, asked)
            if trial.has_ended:
                ended.append((trial, asked))
        while ended:
            self._tell(*ended.popleft())
        return paused

    def _tell(self, trial: OptunaTrial, asked: Any) -> None:
        from optuna.trial import TrialState

        value = trial.value(self._higher)
        self._study.tell(asked, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)

    def _report(self, trial: OptunaTrial, asked: Any) -> bool:
        """The answer of the pruner after the last stage that the trial has reached; some pruners count that they were asked."""
        prune = False
        for stage, value in trial.at_stages(self._higher):
            asked.report(value, stage)
            prune = asked.should_prune()
        return prune

    def promoted(self) -> list[OptunaTrial]:
        """The paused trials that the pruner lets go on, compared with all that is known now; the others are pruned."""
        from optuna.trial import TrialState

        kept = []
        with _quiet():
            for trial, asked in self._paused:
                if self._report(trial, asked):
                    self._study.tell(asked, state=TrialState.PRUNED)
                else:
                    kept.append(trial)
        self._paused = []
        return kept

    def ask(self) -> dict[str, str]:
        """The words of a new setting. Ask `promoted` first, so that the sampler knows which trials were pruned."""
        with _quiet():
            self._asked = self._study.ask(self._space)
        return {option.key: option.word(self._asked.params[option.key]) for option in self._searched}

    def withdraw(self) -> None:
        """Give the last new setting back, because it will not be trained."""
        from optuna.trial import TrialState

        self._study.tell(self._asked, state=TrialState.FAIL)


@cache
def samplers() -> dict[str, type["BaseSampler"]]:
    """Optuna's samplers by name: TPESampler is tpe."""
    import optuna

    # Bases, those that need a list of points, and one that wraps another.
    left_out = ("Base", "BaseGA", "Grid", "PartialFixed")
    return _named(optuna.samplers, "Sampler", left_out, {"CmaEs": "cmaes", "BruteForce": "brute_force"})


@cache
def pruners() -> dict[str, type["BasePruner"]]:
    """Optuna's pruners by name: SuccessiveHalvingPruner is successive_halving; none is the one that never prunes."""
    import optuna

    return _named(optuna.pruners, "Pruner", ("Base", "Patient"), {"Nop": "none"})


def _named(module: Any, ending: str, left_out: Sequence[str], special: Mapping[str, str]) -> dict[str, type[Any]]:
    found = {}
    for name in module.__all__:
        short = name.removesuffix(ending)
        if name.endswith(ending) and short not in left_out:
            snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", short).lower()
            found[special.get(short, snake)] = getattr(module, name)
    return found


def _built(what: str, kind: type[Any], given: dict[str, Any], **defaults: Any) -> Any:
    accepted = inspect.signature(kind.__init__).parameters
    where = f"search.{what}_options={given}"
    if unknown := [name for name in given if name not in accepted or name in ("self", "seed")]:
        names = ", ".join(name for name in accepted if name not in ("self", "seed"))
        raise UserError(f"{where}: {kind.__name__} has no option {unknown[0]}; accepted: {names or 'none'}")
    # With the constant liar, running trials count as bad ones until their results are known.
    defaults = {"constant_liar": True, **defaults}
    try:
        return kind(**{name: value for name, value in {**defaults, **given}.items() if name in accepted})
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"{where}: {kind.__name__} refuses: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's messages on experimental features and on every trial."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)
