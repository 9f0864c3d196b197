"""The search of every optimizer and batch size: its best trial, its survival curve, and the critical batch sizes."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, count
from optbench.analysis.laws.critical_batch import (
    CriticalBatchIntervals,
    critical_batch,
    critical_batch_ratio,
    local_slopes,
)
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.search_edges import edges
from optbench.analysis.statistics.survival import Times, logrank, restricted_mean, share_reached, survival
from optbench.analysis.statistics.time_search import TimeSearch, searches, time_ratios

STEPS = "steps_to_target"
#: The optimizer whose advantage over each other is measured, and that to whose critical batch the others' are compared.
ADVANCED, PLAIN = "kfac", "sgd"
Searches = Mapping[str, Mapping[float, TimeSearch]]
Chosen = Mapping[str, Mapping[float, np.ndarray]]


def searches_of(timed: pd.DataFrame, horizon: float) -> dict[str, dict[float, TimeSearch]]:
    """For every optimizer, the search at each batch size at which a run has ended."""
    found = {}
    for name, own in timed.groupby("optimizer"):
        ended = {size: each for size, each in searches(own, horizon).items() if not np.isnan(each.upper).all()}
        if ended:
            found[str(name)] = ended
    return found


def best_trials(timed: pd.DataFrame, found: Searches) -> pd.DataFrame:
    """One row for every optimizer and batch: the trial with the least restricted mean of steps, then the least bad worst seed.

    Columns: optimizer, batch; trial, the first of the ``tied`` that this does not tell apart (missing if no run reached the
    target); restricted_mean, with Student's interval over the seeds of this trial, and restricted_mean_examples; steps_to_target,
    their median, and reached, whether it is finite; reached_share with its exact interval; seeds; tried, the number of trials;
    the counts of runs of the cell; at_edge and edges.
    """
    rows = []
    for name, own in timed.groupby("optimizer"):
        trials = sorted(own["trial"].unique())
        for key, cell in cells(own, ["batch"]):
            search = found.get(str(name), {}).get(float(key["batch"]))
            reached = search is not None and search.reached_at_all
            winners = search.winners if search is not None and reached else []
            members = cell[cell["trial"] == trials[winners[0]]] if len(winners) else cell[:0]
            row = {"optimizer": name, **key, "trial": members["trial"].iloc[0] if len(members) else math.nan}
            row |= {"tied": len(winners), "tried": cell["trial"].nunique(), **_of_chosen(members, search)}
            at = edges(members.iloc[0]) if len(members) else []
            rows.append(row | count(cell) | {"at_edge": bool(at), "edges": ", ".join(at)})
    return pd.DataFrame(rows)


def _of_chosen(members: pd.DataFrame, search: TimeSearch | None) -> dict[str, object]:
    """The columns of `best_trials` about the runs of the chosen trial."""
    steps = members[STEPS].dropna().to_numpy(float)
    unknown = Interval(math.nan, math.nan, math.nan)
    mean = share = unknown
    if search is not None and len(steps):
        times = _arm(steps, search.horizon)
        mean, share = restricted_mean(times, search.horizon), share_reached(times)
    row: dict[str, object] = {}
    for name, interval in (("restricted_mean", mean), ("reached_share", share)):
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["restricted_mean_examples"] = mean.estimate * float(members["batch"].iloc[0]) if len(members) else math.nan
    median = float(np.median(steps)) if len(steps) else math.nan
    return row | {STEPS: median, "reached": math.isfinite(median), "seeds": len(steps)}


def chosen_times(timed: pd.DataFrame, best: pd.DataFrame) -> dict[str, dict[float, np.ndarray]]:
    """For every optimizer and batch at which a run has ended, the steps of the seeds of the chosen trial.

    Infinity for a run that did not reach the target, and one infinity where no run did.
    """
    found: dict[str, dict[float, np.ndarray]] = {}
    for row in best.to_dict("records"):
        here = timed[(timed["optimizer"] == row["optimizer"]) & (timed["batch"] == row["batch"])].dropna(subset=STEPS)
        values = here[here["trial"] == row["trial"]][STEPS].to_numpy(float)
        if len(here):
            values = values if len(values) else np.array([math.inf])
            found.setdefault(str(row["optimizer"]), {})[float(row["batch"])] = values
    return found


def survival_table(chosen: Chosen, horizon: float) -> pd.DataFrame:
    """The survival curves of the chosen trials: a row for each time at which a run reached the target."""
    tables = []
    for name, own in chosen.items():
        for size, steps in own.items():
            tables.append(survival(_arm(steps, horizon)).assign(optimizer=name, batch=size))
    kept = [table for table in tables if len(table)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def critical_batches(found: Searches, repetitions: int) -> dict[str, CriticalBatchIntervals]:
    """The critical batch of every optimizer that reached the target at three batch sizes: two points fit any two parameters."""
    return {
        name: critical_batch(own, repetitions)
        for name, own in found.items()
        if sum(search.reached_at_all for search in own.values()) >= 3
    }


def critical_batch_table(fits: Mapping[float, Mapping[str, CriticalBatchIntervals]]) -> pd.DataFrame:
    """One row for each target and optimizer: B_c, S_min and E_min with their intervals, and what they rest on."""
    rows = []
    for target, of_target in fits.items():
        for optimizer, fit in of_target.items():
            row: dict[str, object] = {"target": target, "optimizer": optimizer}
            found = {"critical_batch": fit.batch, "steps_min": fit.steps_min, "examples_min": fit.examples_min}
            for name, interval in found.items():
                row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row |= {"not_identified": fit.not_identified, "limit": fit.fit.limit, "residual": fit.fit.residual}
            row |= {"batches": len(fit.steps)}
            for name in ("bounds", "unresolved", "not_reached"):
                row[name] = ", ".join(f"{batch:g}" for batch in getattr(fit, name))
            rows.append(row)
    return pd.DataFrame(rows)


def critical_batch_ratios(
    found: Searches, fits: Mapping[str, CriticalBatchIntervals], repetitions: int
) -> pd.DataFrame:
    """B_c of each optimizer over that of SGD, and of K-FAC over each other one, where both are fitted."""
    pairs = [(name, PLAIN) for name in fits if name != PLAIN]
    pairs += [(ADVANCED, name) for name in fits if name not in (ADVANCED, PLAIN)]
    rows = []
    for name, other in pairs:
        if name in fits and other in fits:
            ratio = critical_batch_ratio(found[name], found[other], repetitions)
            identified = not fits[name].not_identified and not fits[other].not_identified
            row = {"optimizer": name, "over": other, "ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}
            rows.append(row | {"identified": identified})
    return pd.DataFrame(rows)


def advantages(found: Searches, chosen: Chosen, repetitions: int) -> pd.DataFrame:
    """The steps, and at equal batch the examples, of each other optimizer over those of K-FAC, at every batch and as a trend.

    A row without a batch is the slope of the logarithm of the ratio over that of the batch. p_logrank: the exact log-rank test of
    the seeds of the two chosen trials, a statement about these two settings and not about searches.
    """
    rows = []
    for other in (name for name in found if name != ADVANCED and ADVANCED in found):
        ratios = time_ratios(found[other], found[ADVANCED], repetitions)
        for size, ratio in ratios.ratios.items():
            arms = [_arm(each[size], found[ADVANCED][size].horizon) for each in (chosen[other], chosen[ADVANCED])]
            rows.append({"over": other, "batch": size, **_bounds(ratio), "p_logrank": logrank(*arms)[1]})
        if math.isfinite(ratios.trend.estimate):
            rows.append({"over": other, "batch": math.nan, **_bounds(ratios.trend), "p_logrank": math.nan})
    return pd.DataFrame(rows)


def _arm(steps: np.ndarray, horizon: float) -> Times:
    return Times.of(np.minimum(steps, horizon), (steps <= horizon).tolist())


def _bounds(interval: Interval) -> dict[str, float]:
    return {"ratio": interval.estimate, "low": interval.low, "high": interval.high}


def regimes_of(found: Searches) -> pd.DataFrame:
    """The regime between each pair of neighbouring batch sizes, from the restricted means of the best trials."""
    tables = []
    for optimizer, own in found.items():
        means = [search.restricted_means().min() if search.reached_at_all else math.inf for search in own.values()]
        slopes = local_slopes(np.array(list(own)), np.array(means))
        slopes.insert(0, "optimizer", optimizer)
        tables.append(slopes)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
