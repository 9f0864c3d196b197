"""The best learning rate of each condition of a study, and the results there: for the rate that was found, and for new seeds.

Each condition has one line of learning rates, such as those of one optimizer at one batch size with one remedy. The rate is
chosen by the mean validation value over seeds, and other results of its runs are reported. Two numbers are made from this:

    of the setting found   the results of the runs at the chosen rate, paired by seed; intervals are Student's
    of the search          the results at the rate that is chosen again in every draw

In a grid that was trained whole, a draw resamples the seeds, the same ones at all rates. Where search=adaptive trained a part of
the grid, a draw completes the cells from two surrogates, one of the validation value and one of the result, and resamples the
seeds: it is what the whole grid would have chosen, and its spread holds what the search did not look at. Both surrogates of a
search are moved from the same paths of the prior, so that a cell with a low validation loss in a draw has a good result there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, outcomes
from optbench.analysis.laws.loss_curves import LossCurves, of_grid
from optbench.analysis.laws.searched_outcomes import SEEDS, Places, entered, places_of
from optbench.analysis.statistics.intervals import Interval, interval_of_draws, student
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better
from optbench.sweep.search.adaptive.answers import Tables, expected_losses
from optbench.sweep.search.adaptive.state import STRETCH
from optbench.sweep.search.adaptive.surrogate import posterior

RATE = "base_learning_rate"


@dataclass(frozen=True, eq=False)
class Draws:
    """One result in all draws: ``tables`` (M, U) of every rate with all seeds, ``resampled`` (N, U) with resampled seeds."""

    tables: np.ndarray
    resampled: np.ndarray


@dataclass(frozen=True, eq=False)
class BestRate:
    """One condition.

    key: its values by name. rates (U,): ascending. choosing: the validation losses (or errors) by which the rate is chosen.
    draws: of each result; the error 1 - accuracy stands for an accuracy. runs: those of all rates that have ended, with the
    column "rate". stretch: the factor by which arms of intervals are longer than the quantiles of the draws. first: the loss
    before training, NaN if unknown.
    """

    key: Mapping[str, object]
    rates: np.ndarray
    choosing: Draws
    draws: Mapping[str, Draws]
    runs: pd.DataFrame
    stretch: float = 1.0
    first: float = math.nan

    @cached_property
    def chosen(self) -> int:
        """The index of the chosen rate: that of the least expected validation loss, as a search chooses it."""
        return int(np.argmin(expected_losses(self.choosing.tables, self.first)))

    @property
    def rate(self) -> float:
        """The chosen rate."""
        return float(self.rates[self.chosen])

    @property
    def at_edge(self) -> bool:
        """True if the chosen rate is an end of its line."""
        return self.chosen in (0, len(self.rates) - 1)

    @cached_property
    def interval(self) -> Interval:
        """The rates that are chosen in the draws: their median and 95 % of them."""
        resampled = self.rates[_choices(self.choosing.resampled)]
        low, high = np.quantile(resampled, [0.025, 0.975], method="nearest")
        return Interval(self.rate, min(float(low), self.rate), max(float(high), self.rate))

    def found(self, metric: str) -> pd.Series:
        """The result of the runs at the chosen rate, by seed."""
        return self.at(metric, self.chosen)

    def at(self, metric: str, place: int) -> pd.Series:
        """The result of the runs at the rate ``place``, by seed; the worst value if diverged."""
        own = self.runs[np.isclose(self.runs["rate"], self.rates[place], rtol=1e-6)]
        return outcomes(own, metric).set_axis(own["seed"]).groupby(level=0).mean().dropna()

    def searched(self, metric: str, steps: int | None = None, start: "BestRate | None" = None) -> Draws:
        """The result (M,) and (N,) at the rate that is chosen again in every draw.

        With ``start`` and ``steps``, at the rate that is so many steps of the line above the one chosen for ``start``, whose line
        must be the same; NaN beyond the line.
        """
        chooses = self if start is None else start
        if not np.allclose(chooses.rates, self.rates):
            raise ValueError("a rate is carried over on the same line only")
        parts = []
        for choosing, results in zip(_parts(chooses.choosing), _parts(self.draws[metric]), strict=True):
            place = _choices(choosing) + (steps or 0)
            inside = (place >= 0) & (place < len(self.rates))
            values = results[np.arange(len(results)), np.clip(place, 0, len(self.rates) - 1)]
            values = np.where(inside, values, math.nan)
            parts.append(1 - values if higher_is_better(metric) else values)
        return Draws(*parts)


def paired_difference(first: pd.Series, second: pd.Series) -> tuple[Interval, int]:
    """``first`` minus ``second``, results by seed, with Student's 95 % interval of the finite ones; and the number of pairs."""
    pairs = pd.concat([first, second], axis=1, join="inner").to_numpy(float)
    differences = pairs[:, 0] - pairs[:, 1]
    return student(differences[np.isfinite(differences)]), len(differences)


def interval_of(draws: Draws, stretch: float) -> Interval:
    """The 95 % interval of draws (M,) and (N,) of one value; see `interval_of_draws`. What is not finite does not exist."""
    tables, resampled = (np.where(np.isfinite(part), part, math.nan) for part in _parts(draws))
    return interval_of_draws(tables, resampled, stretch)


def difference_of_searches(first: Draws, second: Draws, stretch: float) -> Interval:
    """The interval of ``first`` minus ``second``, draw by draw.

    Draws of whole grids have the same seeds, and those of two surrogates nothing in common.
    """
    (one, one_resampled), (other, other_resampled) = _parts(first), _parts(second)
    count = min(len(one_resampled), len(other_resampled))
    with np.errstate(invalid="ignore"):
        return interval_of(Draws(one - other, one_resampled[:count] - other_resampled[:count]), stretch)


def best_rates(
    study: Study, by: Sequence[str], runs: pd.DataFrame, validation: str, results: Sequence[str]
) -> list[BestRate]:
    """The conditions of a study, in ascending order of ``by``.

    runs: those of the study, with the columns ``by``, of which one must be "batch". validation: the metric by which rates are
    chosen. Conditions without a run that trained are left out.
    """
    places = places_of(study)
    known = runs.assign(rate=pd.to_numeric(runs[RATE], errors="coerce"))
    known = known[known["status"].isin(("done", "diverged")) & known["rate"].notna()]
    memory: dict[tuple[int, str], Tables] = {}
    found = []
    for key, own in cells(known, by):
        if not np.isfinite(outcomes(own, validation)).any() or not (own["status"] == "done").any():
            continue
        searches = {places[run_id][0] for run_id in own["run_id"] if run_id in places}
        if len(searches) == 1 and set(own["run_id"]) <= places.keys():
            found.append(_of_search(key, own, searches.pop(), places, memory, known, validation, results))
        else:
            found.append(_of_grid(key, own, validation, results))
    return found


def _of_grid(key: Mapping[str, object], own: pd.DataFrame, validation: str, results: Sequence[str]) -> BestRate:
    curves = {metric: of_grid(own, metric, "rate") for metric in dict.fromkeys([validation, *results])}
    draws = {metric: _on(curve, curves[validation].rates) for metric, curve in curves.items()}
    return BestRate(key, curves[validation].rates, draws[validation], draws, own)


def _on(curve: LossCurves, rates: np.ndarray) -> Draws:
    """The draws of the only batch of a curve, on ``rates``, which may be more than those of the curve."""
    places = np.searchsorted(rates, curve.rates)
    parts = []
    for part in (curve.tables, curve.resampled):
        values = np.full((len(part), len(rates)), math.nan)
        values[:, places] = part[:, 0]
        parts.append(values)
    return Draws(*parts)


# ---- parts of grids ---------------------------------------------------------------------------------------------------------


def _of_search(
    key: Mapping[str, object],
    own: pd.DataFrame,
    number: int,
    places: Places,
    memory: dict[tuple[int, str], Tables],
    runs: pd.DataFrame,
    validation: str,
    results: Sequence[str],
) -> BestRate:
    """The condition of ``own`` in the search ``number``; ``runs`` are those of all conditions, which the surrogates pool."""
    _, (condition, _, _), outcomes_, seed = places[own["run_id"].iloc[0]]
    metrics = list(dict.fromkeys([validation, *results]))
    for metric in metrics:
        if (number, metric) not in memory:
            replaced = entered(outcomes_, runs, places, number, metric)
            memory[number, metric] = Tables(replaced, posterior(replaced, seed + SEEDS * number))
    draws = {}
    for metric in metrics:
        tables = memory[number, metric]
        draws[metric] = Draws(tables.means[:, condition], tables.resampled_means[:, condition])
    return BestRate(key, outcomes_.search.rates, draws[validation], draws, own, STRETCH, outcomes_.first)


# ---- draws ------------------------------------------------------------------------------------------------------------------


def _parts(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    return draws.tables, draws.resampled


def _choices(losses: np.ndarray) -> np.ndarray:
    """The place (M,) of the least loss (M, U)."""
    found: np.ndarray = np.argmin(np.where(np.isnan(losses), math.inf, losses), -1)
    return found
