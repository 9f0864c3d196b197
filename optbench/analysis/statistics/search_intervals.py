"""Intervals that hold the search: the best of several trials, its difference between searches, and functions of several winners.

A number about the best of T trials with n seeds each estimates one of three things:

    winner      the result of the setting that this search chose, over new seeds; the noise is that of seeds
    search      the expected result of the winner of a new search: the same space, T, n and rule; trials and seeds are random
    best_of_k   as search, for k < T trials (`tuning_budget.best_of`)

"Method A beats method B" is of the kind search; "setting a beats setting b" is of the kind winner.

One resample of a search draws T trials and n seeds with replacement, the seeds in common for all trials, chooses again by the
mean validation over seeds, and takes the mean result of its choice. The interval is e ± t se: e is the value of the observed
search, se the standard deviation over resamples, and t a quantile of Student's distribution with T - 1 degrees of freedom.

A resample holds the best trial with probability 1 - (1 - 1/T)^T, about 0.65, so that its best is worse than that of the search.
This shifts the percentiles and not the standard deviation: in simulated searches of 8 to 24 trials the interval covers the
expected winner 88 to 98 % of the time, percentiles 75 to 97 %, and Student's interval over the winner's seeds 38 to 90 %. It is
not valid for a search that draws trials by the results of earlier ones. Where the winner is trained with new seeds, which have no
part in the choice, e is its mean over these, so that the optimism of reporting on the seeds that chose is gone; in a resample a
trial without new seeds has the result of the seeds that it has. Resamples without any good trial are rare and far away:
with 2,000 of them the error of a search in which many trials fail is known to a tenth.

Source: nested resampling as in Davison & Hinkley 1997, "Bootstrap methods and their application", section 3.8, with a choice in
every resample; the degrees of freedom are a choice that the simulations support.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from optbench.analysis.statistics.intervals import Interval, percentile_bounds, student

Estimand = Literal["winner", "search", "best_of_k"]
#: An interval has no bounds if its statistic does not exist in more than this share of the resamples.
MOST_UNDEFINED = 0.05
# Two means of equal values may differ by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Search:
    """The trials of one method in one cell.

    validation: (trials, seeds), by whose mean over seeds the trial is chosen: the worst infinity where a run diverged, so that
    one such seed makes a trial's mean the worst; NaN where there is no outcome, which is left out of means. results: (trials,
    seeds) of the same runs, in any unit. higher: whether higher validation is better. drawn: (trials,), False for trials that a
    new search would have again, such as the defaults; None: all are drawn. choosing: (seeds,), False for seeds that only report:
    resamples draw the two kinds apart, so that every one of them can choose; None: all seeds choose and report.

    Raises ValueError for arrays of other shapes.
    """

    validation: np.ndarray
    results: np.ndarray
    higher: bool = True
    drawn: np.ndarray | None = None
    choosing: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.validation.ndim != 2 or self.validation.shape != self.results.shape or not self.validation.size:
            raise ValueError(
                f"validation {self.validation.shape} and results {self.results.shape}: both must be (trials, seeds)"
            )
        if self.drawn is not None and self.drawn.shape != self.validation.shape[:1]:
            raise ValueError(f"drawn {self.drawn.shape}: must be one value for each of {len(self.validation)} trials")
        if self.choosing is not None and self.choosing.shape != self.validation.shape[1:]:
            raise ValueError(f"choosing {self.choosing.shape}: must be one value for each of {self.seeds} seeds")

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return int(self.validation.shape[1])

    @property
    def kinds(self) -> list[np.ndarray]:
        """The indices of the seeds that are resampled together."""
        choosing = np.ones(self.seeds, dtype=bool) if self.choosing is None else self.choosing
        return [np.flatnonzero(kind) for kind in (choosing, ~choosing) if kind.any()]

    @property
    def tried(self) -> np.ndarray:
        """True for each trial that has an outcome."""
        found: np.ndarray = ~np.isnan(self.validation).all(1)
        return found

    @property
    def random(self) -> np.ndarray:
        """True for each trial that has an outcome and is drawn from the search space."""
        return self.tried if self.drawn is None else self.tried & self.drawn

    @property
    def scores(self) -> np.ndarray:
        """The validation values, with the sign that makes higher ones better."""
        return self.validation if self.higher else -self.validation


@dataclass(frozen=True)
class SearchInterval(Interval):
    """An interval that says what it estimates.

    of: its estimand. error: the standard error; percentile: the bounds between which the resamples lie; both NaN for a winner,
    whose interval is Student's.
    """

    of: Estimand = "search"
    error: float = math.nan
    percentile: tuple[float, float] = (math.nan, math.nan)

    @property
    def against_zero(self) -> Literal["above", "below", "not told", "undecided"]:
        """The side of 0 of the estimate: "undecided" if this interval and the percentiles of the resamples disagree about 0.

        They disagree if the resamples are skewed, as when few trials of a search are good.
        """
        bounds = [(self.low, self.high)]
        if not any(map(math.isnan, self.percentile)):
            bounds.append(self.percentile)
        told = {1 if low > 0 else -1 if high < 0 else 0 for low, high in bounds}
        if len(told) > 1:
            return "undecided"
        return {1: "above", -1: "below", 0: "not told"}[told.pop()]  # type: ignore[return-value]


# ---- the choice of a trial -------------------------------------------------------------------------------------------------


def means_over_seeds(values: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The means (resamples, trials) of ``values`` (trials, seeds), each seed as often as ``seeds`` (resamples, seeds) says.

    An infinite value makes a mean infinite; without a value it is NaN.
    """
    finite, known = np.isfinite(values), ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: np.ndarray = seeds @ np.where(finite, values, 0.0).T / (seeds @ known.T.astype(float))
        for infinity in (math.inf, -math.inf):
            means = means + np.where(seeds @ (values == infinity).T.astype(float) > 0, infinity, 0.0)
    return means


def _choose(search: Search, trials: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """True for the trials (resamples, trials) that are chosen of those that a resample holds: several if they tie, or none."""
    scores = search.scores
    means = means_over_seeds(scores, seeds)
    means = np.where(trials & np.isfinite(means), means, -math.inf)
    best = means.max(1, keepdims=True)
    chosen: np.ndarray = np.isfinite(means) & (means >= best - _ROUNDING * np.abs(best))
    several = chosen.sum(1) > 1
    if several.any():
        seen = (seeds[several, None, :] > 0) & ~np.isnan(scores)
        worst = np.where(seen, scores, math.inf).min(2)
        worst = np.where(chosen[several], worst, -math.inf)
        least_bad = worst.max(1, keepdims=True)
        finite = np.where(np.isfinite(least_bad), least_bad, 0.0)
        chosen[several] &= (worst == least_bad) | (worst >= finite - _ROUNDING * np.abs(finite)) & np.isfinite(
            least_bad
        )
    return chosen


def _winners(search: Search, trials: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The mean result of the chosen trial of every resample, averaged over trials that tie; NaN if none can be chosen."""
    chosen = _choose(search, trials, seeds)
    results = means_over_seeds(search.results, seeds)
    number = chosen.sum(1)
    # A sum with infinite results, of which 0 times infinity would be NaN.
    sums = np.where(chosen, results, 0.0).sum(1)
    return np.where(number > 0, sums / np.maximum(number, 1), math.nan)


def _all(search: Search) -> tuple[np.ndarray, np.ndarray]:
    """The resample that is the search itself."""
    return search.tried[None], np.ones((1, search.validation.shape[1]))


def observed(searches: Sequence[Search]) -> np.ndarray:
    """The result of the winner of every search (searches,): the mean over its seeds; NaN where all trials diverged."""
    return np.array([_winners(one, *_all(one))[0] for one in searches])


def winner(search: Search) -> tuple[int, ...]:
    """The trial with the best mean validation, of equal ones that with the better worst seed; all that still tie, or none."""
    return tuple(int(trial) for trial in np.flatnonzero(_choose(search, *_all(search))[0]))


def winner_results(search: Search) -> np.ndarray:
    """The results (seeds,) of the chosen trial, averaged seed by seed over trials that tie; NaN where it has none."""
    results = search.results[list(winner(search))]
    known = ~np.isnan(results)
    with np.errstate(invalid="ignore"):
        values: np.ndarray = np.where(known, results, 0.0).sum(0) / known.sum(0)
    return values


def winner_interval(search: Search, level: float = 0.95) -> SearchInterval:
    """The result of the setting that was chosen, over new seeds: its mean, with Student's interval.

    It says nothing about what another search would find. The seeds may be those that chose: in the simulations the optimism is
    small, and the interval covers 95 to 96 %.
    """
    values = winner_results(search)
    found = student(values[np.isfinite(values)], level)
    return SearchInterval(found.estimate, found.low, found.high, level, of="winner")


# ---- resamples -------------------------------------------------------------------------------------------------------------


def resample(
    searches: Sequence[Search],
    repetitions: int,
    generator: np.random.Generator,
    shared_trials: bool = False,
    shared_seeds: bool = False,
    trials: np.ndarray | None = None,
) -> np.ndarray:
    """The result of the winner of every search in every resample (repetitions, searches); NaN where all trials diverged.

    shared_trials: trial number i is one configuration in all searches, and is drawn for all of them together; shared_seeds:
    likewise seed number j. trials: those that each resample draws, by `common_trials`. Raises ValueError if searches that share
    trials or seeds differ in their number.
    """
    drawn = draws(searches, repetitions, generator, shared_trials, shared_seeds, trials)
    found = [_winners(one, _holds(one, trials), seeds) for one, (trials, seeds) in zip(searches, drawn, strict=True)]
    return np.stack(found, axis=1)


def common_trials(searches: Sequence[Search], repetitions: int, generator: np.random.Generator) -> np.ndarray:
    """The trials (repetitions, random trials) that each resample draws for all ``searches`` together.

    For searches on several problems in which trial number i is one draw of the random numbers: a new search would draw other ones
    for all problems, so that a lucky trial is lucky on all of them. Raises ValueError if they differ in their number of trials.
    """
    _check_shared(searches, 0, "trials")
    return _sample(np.flatnonzero(np.any([one.random for one in searches], axis=0)), repetitions, generator)


def draws(
    searches: Sequence[Search],
    repetitions: int,
    generator: np.random.Generator,
    shared_trials: bool,
    seeds: bool,
    trials: np.ndarray | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every search the trials (repetitions, random trials) that each resample draws, and how often it draws each seed.

    shared_trials, seeds: whether the searches share them, and trials: those of all searches, as in `resample`.
    """
    if seeds:
        _check_shared(searches, 1, "seeds")
    if seeds and len({tuple(map(tuple, one.kinds)) for one in searches}) > 1:
        raise ValueError("searches that share seeds must choose by the same ones")
    if shared_trials:
        trials = common_trials(searches, repetitions, generator)
    if trials is None:
        of_trials = [_sample(np.flatnonzero(one.random), repetitions, generator) for one in searches]
    else:
        of_trials = [trials] * len(searches)
    of_seeds = [_draw_seeds(one, repetitions, generator) for one in (searches[:1] if seeds else searches)]
    return [(of_trials[place], of_seeds[0 if seeds else place]) for place in range(len(searches))]


def _check_shared(searches: Sequence[Search], axis: int, name: str) -> None:
    if len({one.validation.shape[axis] for one in searches}) > 1:
        raise ValueError(f"searches that share {name} must have equally many")


def draws_of_problems(
    tasks: Sequence[Sequence[Search]],
    repetitions: int,
    resampled: bool,
    generator: np.random.Generator,
    shared_trials: bool = False,
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray | None]]:
    """For each of as many places as there are problems, each problem and the repetitions in which it stands at this place.

    tasks: the searches on each problem. With ``resampled`` problems are drawn with replacement, as the outermost level; otherwise
    each stands at its own place. With ``shared_trials`` the last value is the trials of these repetitions, by `common_trials` of
    all searches; otherwise it is None.
    """
    number = len(tasks)
    common = common_trials([one for task in tasks for one in task], repetitions, generator) if shared_trials else None
    for place in range(number):
        chosen = generator.integers(number, size=repetitions) if resampled else np.full(repetitions, place)
        for problem in range(number):
            here = np.flatnonzero(chosen == problem)
            yield place, problem, here, None if common is None else common[here]


def _draw_seeds(search: Search, repetitions: int, generator: np.random.Generator) -> np.ndarray:
    """The times (repetitions, seeds) that each seed is drawn: as many of each kind as there are."""
    return sum(
        (_times(_sample(kind, repetitions, generator), search.seeds) for kind in search.kinds),
        start=np.zeros((repetitions, search.seeds)),
    )


def _sample(pool: np.ndarray, repetitions: int, generator: np.random.Generator) -> np.ndarray:
    """As many numbers as the pool has, drawn from it with replacement; none if it is empty."""
    found: np.ndarray = pool[generator.integers(max(1, len(pool)), size=(repetitions, len(pool)))]
    return found


def _times(drawn: np.ndarray, number: int) -> np.ndarray:
    """The times (repetitions, number) that each number was drawn."""
    times = np.zeros((len(drawn), number))
    np.add.at(times, (np.arange(len(drawn))[:, None], drawn), 1.0)
    return times


def _holds(search: Search, trials: np.ndarray) -> np.ndarray:
    """True for each trial that has an outcome and that a resample holds."""
    always = search.tried & ~search.random
    found: np.ndarray = search.tried & (always | (_times(trials, len(always)) > 0))
    return found


def nested_interval(
    estimate: float, values: np.ndarray, degrees: float, level: float = 0.95, of: Estimand = "search"
) -> SearchInterval:
    """e ± t se with the standard deviation of the resampled ``values``, and t of so many degrees of freedom.

    Values that are not finite are left out. There are no bounds if they are more than 5 %, or without degrees of freedom.
    """
    from scipy.special import stdtrit

    finite = values[np.isfinite(values)]
    undefined = 1 - len(finite) / len(values)
    if undefined > MOST_UNDEFINED or degrees < 1 or not math.isfinite(estimate):
        return SearchInterval(estimate, math.nan, math.nan, level, undefined, of)
    error = float(finite.std(ddof=1))
    width = float(stdtrit(degrees, (1 + level) / 2)) * error
    return SearchInterval(
        estimate, estimate - width, estimate + width, level, undefined, of, error, percentile_bounds(finite, level)
    )


def contrast(
    searches: Sequence[Search],
    statistic: Callable[[np.ndarray], np.ndarray],
    shared_trials: bool = False,
    shared_seeds: bool = False,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[SearchInterval]:
    """Functions of the winners of several searches, with intervals that hold the searches: ranks, slopes, ratios.

    statistic: of the winners' results (..., searches), one value (...) or several (..., values) for each; NaN where it does not
    exist. shared_trials, shared_seeds: as in `resample`. The degrees of freedom are those of the smallest search.
    """
    drawn = resample(searches, repetitions, np.random.default_rng(seed), shared_trials, shared_seeds)
    estimates, values = (np.asarray(statistic(array), dtype=float) for array in (observed(searches)[None], drawn))
    estimates, values = estimates.reshape(-1), values.reshape(repetitions, -1)
    degrees = min(int(one.random.sum()) for one in searches) - 1
    return [nested_interval(float(e), v, degrees, level) for e, v in zip(estimates, values.T, strict=True)]


def search_interval(search: Search, repetitions: int = 2000, level: float = 0.95, seed: int = 0) -> SearchInterval:
    """The expected result of the winner of a new search, estimated by that of this search's winner."""
    return contrast([search], lambda winners: winners, repetitions=repetitions, level=level, seed=seed)[0]


def search_difference(
    first: Search,
    second: Search,
    shared_trials: bool,
    shared_seeds: bool,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> SearchInterval:
    """The expected result of the winner of a new search like ``first``, minus that of one like ``second``.

    shared_trials: both have the same configurations, such as one method's at two batch sizes; shared_seeds: the same seeds.
    """
    return contrast(
        [first, second], lambda winners: winners[..., 0] - winners[..., 1],
        shared_trials, shared_seeds, repetitions, level, seed,
    )[0]  # fmt: skip
