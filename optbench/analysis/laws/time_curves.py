"""The steps to a target at every batch size and learning rate, as draws: of a whole grid, or of the part that a search trained.

A run that does not reach the target counts as its budget, so that a mean over seeds is a restricted mean. The budget may differ
between batch sizes, and is the same at all rates and for all optimizers. In every draw the rate with the least restricted mean is
chosen again, so that an interval of what follows holds the choice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from optbench.analysis.laws.loss_curves import of_grid
from optbench.analysis.laws.searched_outcomes import SEEDS, Places, entered, places_of
from optbench.analysis.statistics.intervals import Interval, interval_of_draws
from optbench.analysis.study import Study
from optbench.sweep.search.adaptive.answers import Tables
from optbench.sweep.search.adaptive.state import STRETCH
from optbench.sweep.search.adaptive.surrogate import posterior

STEPS, RATE = "steps_to_target", "base_learning_rate"
# Times of the grids and of the surrogates: in steps with a cap, and as shares of the budget.
_RESTRICTED, _SHARE = "restricted_mean", "share_to_target"
_EQUAL = 1e-9


@dataclass(frozen=True, eq=False)
class TimeCurves:
    """The restricted mean over seeds of the steps of one optimizer.

    batches (B,), rates (U,): ascending. horizons (B,): the budgets in steps. tables (M, B, U): in each draw of the cells that are
    not trained, and one table if all are; infinity where no seed reached the target, NaN where the grid has no cell. resampled
    (N, B, U): the same with resampled seeds, NaN for a single seed. runs: those that have ended, with "rate" and `STEPS`, which
    is infinite if the target was not reached. stretch: the factor by which arms of intervals are longer than the quantiles of the
    draws.
    """

    batches: np.ndarray
    rates: np.ndarray
    horizons: np.ndarray
    tables: np.ndarray
    resampled: np.ndarray
    runs: pd.DataFrame
    stretch: float = 1.0

    @cached_property
    def expected(self) -> np.ndarray:
        """The mean over the draws (B, U), infinity where the grid has no cell."""
        capped = np.minimum(self.tables, self.horizons[:, None])
        return np.asarray(np.where(np.isnan(capped), math.inf, capped).mean(0))

    @cached_property
    def candidates(self) -> list[np.ndarray]:
        """For each batch the indices of the rates with the least mean and, among these, the least worst seed.

        More than one if this does not tell them apart; none if the target was not reached at any rate.
        """
        found = []
        for b, row in enumerate(self.expected):
            tied = np.flatnonzero(row <= row.min() * (1 + _EQUAL)) if self.is_reached[b] else np.array([], dtype=int)
            worst = np.array([self.times(b, int(u)).max(initial=0.0) or math.inf for u in tied])
            found.append(tied[worst <= worst.min(initial=math.inf) * (1 + _EQUAL)] if len(tied) > 1 else tied)
        return found

    @cached_property
    def is_reached(self) -> np.ndarray:
        """True for each batch (B,) at which a run has reached the target within its budget."""
        reached = self.runs[np.isfinite(self.runs[STEPS])]
        return np.isin(self.batches, reached["batch"].to_numpy(float))

    @cached_property
    def chosen(self) -> np.ndarray:
        """The index of the chosen rate at each batch (B,), the first of the candidates; -1 if there is none."""
        return np.array([each[0] if len(each) else -1 for each in self.candidates], dtype=int)

    def times(self, b: int, u: int | None = None) -> np.ndarray:
        """The steps of the runs at the batch and the rate with these indices; ``u`` None: at the chosen rate."""
        own = self.at(b, u)
        return own.sort_values("seed")[STEPS].to_numpy(float)

    def at(self, b: int, u: int | None = None) -> pd.DataFrame:
        """The runs at the batch and the rate with these indices; ``u`` None: at the chosen rate."""
        place = int(self.chosen[b]) if u is None else u
        if place < 0:
            return self.runs[:0]
        here = self.runs["batch"].to_numpy(float) == self.batches[b]
        found: pd.DataFrame = self.runs[here & np.isclose(self.runs["rate"], self.rates[place], rtol=1e-6)]
        return found

    def least(self, resampled: bool = False) -> np.ndarray:
        """The restricted mean (M, B) or (N, B) at the rate that is chosen again in every draw; at most the horizon."""
        draws = self.resampled if resampled else self.tables
        least = np.minimum(np.where(np.isnan(draws), math.inf, draws).min(-1), self.horizons)
        return np.asarray(np.where(np.isnan(draws).all(-1), math.nan, least))

    def steps(self, b: int) -> Interval:
        """The restricted mean at the batch with this index, for another search."""
        return self.interval(np.log(self.least()[:, b]), np.log(self.least(True)[:, b])).exp()

    def rate(self, b: int) -> Interval:
        """The chosen rate, with 95 % of the rates that are chosen in the draws; NaN if there is none."""
        if self.chosen[b] < 0:
            return Interval(math.nan, math.nan, math.nan)
        draws = self.resampled[:, b]
        middle = float(self.rates[self.chosen[b]])
        if np.isnan(draws).all():
            return Interval(middle, math.nan, math.nan)
        places = np.where(np.isnan(draws), math.inf, draws).argmin(-1)
        low, high = np.quantile(self.rates[places], [0.025, 0.975], method="nearest")
        return Interval(middle, min(float(low), middle), max(float(high), middle))

    def edge(self, b: int) -> str:
        """ "lowest" or "highest" if the chosen rate is this end of the line, so that the optimum may lie beyond it; else ""."""
        place = self.chosen[b]
        return "lowest" if place == 0 else "highest" if place == len(self.rates) - 1 else ""

    def interval(self, values: np.ndarray, resampled: np.ndarray) -> Interval:
        """`interval_of_draws` of values over the tables and over the resampled ones."""
        return interval_of_draws(values, resampled, self.stretch)


def time_curves(study: Study, timed: pd.DataFrame, horizons: Mapping[float, float]) -> dict[str, TimeCurves]:
    """The curves of each optimizer that has reached the target.

    timed: the runs, with the columns of `optbench.analysis.statistics.targets.times_to_target`. horizons: the budget in steps at
    each batch. If search=adaptive has trained a part of the grid, the rest is drawn from its surrogate of these times.
    """
    places = places_of(study)
    budgets = timed["batch"].astype(float).map(horizons)
    steps = timed[STEPS].where(timed[STEPS] <= budgets, math.inf).where(timed[STEPS].notna())
    known = timed.assign(**{STEPS: steps, _SHARE: steps / budgets}, rate=pd.to_numeric(timed[RATE], errors="coerce"))
    known = known[known[STEPS].notna() & known["rate"].notna()]
    found = {}
    for name, own in known.groupby("optimizer"):
        # Runs of a grid that was trained whole beside the search are not of its choice.
        searched = own[own["run_id"].isin(places)]
        numbers = {places[run_id][0] for run_id in searched["run_id"]}
        if len(numbers) == 1:
            found[str(name)] = _of_search(searched, numbers.pop(), places)
        else:
            found[str(name)] = _of_grid(own, horizons)
    return {name: curves for name, curves in found.items() if curves.is_reached.any()}


def horizons_of(study: Study, history: pd.DataFrame) -> dict[float, float]:
    """The budget in steps at each batch: of the lattice of a search; else of the configurations, or else the last evaluation."""
    found: dict[float, float] = {}
    for _, _, outcomes, _ in places_of(study).values():
        found |= dict(zip(outcomes.search.conditions.tolist(), outcomes.search.planned.tolist(), strict=True))
    last = history.groupby("run_id")["step"].max()
    for batch, own in study.runs.dropna(subset="batch").groupby("batch"):
        given = pd.to_numeric(own.get("config.budget.steps", pd.Series(dtype=float)), errors="coerce").dropna()
        seen = last.reindex(own["run_id"]).max()
        found.setdefault(float(str(batch)), float(given.min() if len(given) else seen))
    return found


def _of_search(own: pd.DataFrame, number: int, places: Places) -> TimeCurves:
    _, _, outcomes, seed = places[str(own["run_id"].iloc[0])]
    times = entered(outcomes, own, places, number, _SHARE)
    times.horizon = 1.0
    drawn = Tables(times, posterior(times, seed + SEEDS * number))
    units, search = times.units, outcomes.search
    tables, resampled = (part * units[:, None] for part in (drawn.means, drawn.resampled_means))
    return TimeCurves(search.conditions, search.rates, units, tables, resampled, own, STRETCH)


def _of_grid(own: pd.DataFrame, horizons: Mapping[float, float]) -> TimeCurves:
    budgets = own["batch"].astype(float).map(horizons)
    # A run that diverged has a time, too: its budget.
    capped = own.assign(**{_RESTRICTED: np.minimum(own[STEPS], budgets), "status": "done"})
    curves = of_grid(capped, _RESTRICTED, "rate")
    units = np.array([horizons[float(batch)] for batch in curves.batches])
    tables, resampled = (
        np.where(part >= units[:, None] * (1 - _EQUAL), math.inf, part) for part in (curves.tables, curves.resampled)
    )
    if own["seed"].nunique() < 2:
        resampled = np.full_like(resampled[:1], math.nan)
    return TimeCurves(np.asarray(curves.batches, dtype=float), curves.rates, units, tables, resampled, own)
