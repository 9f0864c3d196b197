"""The tables of the study: the chosen rate of every optimizer and batch, critical batches, ratios of steps, survival curves."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from optbench.analysis.frames import count
from optbench.analysis.laws.critical_batch import CriticalBatchIntervals
from optbench.analysis.laws.time_comparisons import (
    critical_batch_of,
    critical_batch_ratio_of,
    slopes_of,
    time_ratios_of,
)
from optbench.analysis.laws.time_curves import STEPS, TimeCurves
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.survival import Times, logrank, restricted_mean, share_reached, survival

#: The optimizer whose advantage over each other is measured, and that to whose critical batch the others' are compared.
ADVANCED, PLAIN = "kfac", "sgd"
#: Two points fit any two parameters.
FEWEST_BATCHES = 3
Curves = Mapping[str, TimeCurves]


def chosen_rates(found: Curves) -> pd.DataFrame:
    """One row for every optimizer and batch: the rate with the least restricted mean of steps, and the steps there.

    rate with the rates that other draws choose, and edge, if it is an end of its line; tied, the rates that neither the mean nor
    the worst seed tells from it. restricted_mean: of the runs at this rate, with Student's interval; search_steps: of a new
    search; steps_to_target: the median. examples and search_examples are steps times the batch. reached_share: of the runs at
    this rate, with its exact interval. runs, done, diverged, ...: counts of the runs at all rates; trained: the share of these
    that reached the target.
    """
    rows = []
    for name, curves in found.items():
        for b, batch in enumerate(curves.batches):
            every = curves.runs[curves.runs["batch"] == batch]
            horizon = float(curves.horizons[b])
            row: dict[str, object] = {"optimizer": name, "batch": int(batch), "horizon": horizon}
            columns = {"rate": curves.rate(b), **_of_runs(curves.times(b), horizon)}
            columns["search_steps"] = curves.steps(b) if curves.is_reached[b] else _UNKNOWN
            for column, interval in columns.items():
                row |= {column: interval.estimate, f"{column}_low": interval.low, f"{column}_high": interval.high}
            row |= {"examples": columns["restricted_mean"].estimate * batch}
            row |= {"search_examples": columns["search_steps"].estimate * batch}
            row |= {"edge": curves.edge(b), "tied": len(curves.candidates[b]), "seeds": len(curves.times(b))}
            row |= {STEPS: float(np.median(curves.times(b))) if len(curves.times(b)) else math.nan}
            trained = float(np.isfinite(every[STEPS]).mean()) if len(every) else math.nan
            rows.append(row | count(every) | {"trained": trained})
    return pd.DataFrame(rows)


_UNKNOWN = Interval(math.nan, math.nan, math.nan)


def _of_runs(steps: np.ndarray, horizon: float) -> dict[str, Interval]:
    if not len(steps):
        return {"restricted_mean": _UNKNOWN, "reached_share": _UNKNOWN}
    times = arm(steps, horizon)
    return {"restricted_mean": restricted_mean(times, horizon), "reached_share": share_reached(times)}


def critical_batches(found: Curves) -> dict[str, CriticalBatchIntervals]:
    """The critical batch of every optimizer that reached the target at three batch sizes."""
    return {
        name: critical_batch_of(curves) for name, curves in found.items() if curves.is_reached.sum() >= FEWEST_BATCHES
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


def critical_batch_ratios(found: Curves, fits: Mapping[str, CriticalBatchIntervals]) -> pd.DataFrame:
    """B_c of each optimizer over that of SGD, and of K-FAC over each other one, where both are fitted."""
    pairs = [(name, PLAIN) for name in fits if name != PLAIN]
    pairs += [(ADVANCED, name) for name in fits if name not in (ADVANCED, PLAIN)]
    rows = []
    for name, other in pairs:
        if name in fits and other in fits:
            ratio = critical_batch_ratio_of(found[name], found[other])
            identified = not fits[name].not_identified and not fits[other].not_identified
            row = {"optimizer": name, "over": other, **_bounds(ratio), "undefined": ratio.undefined}
            rows.append(row | {"identified": identified})
    return pd.DataFrame(rows)


def advantages(found: Curves) -> pd.DataFrame:
    """The steps, and at equal batch the examples, of each other optimizer over those of K-FAC, at every batch and as a trend.

    A row without a batch is the slope of the logarithm of the ratio over that of the batch. p_logrank: the exact log-rank test of
    the seeds at the two chosen rates, a statement about these two settings and not about searches.
    """
    rows = []
    for other in (name for name in found if name != ADVANCED and ADVANCED in found):
        ratios = time_ratios_of(found[other], found[ADVANCED])
        for size, ratio in ratios.ratios.items():
            arms = []
            for curves in (found[other], found[ADVANCED]):
                b = int(np.searchsorted(curves.batches, size))
                arms.append(arm(curves.times(b), float(curves.horizons[b])))
            p_value = logrank(*arms)[1] if all(map(len, arms)) else math.nan
            rows.append({"over": other, "batch": size, **_bounds(ratio), "p_logrank": p_value})
        if math.isfinite(ratios.trend.estimate):
            rows.append({"over": other, "batch": math.nan, **_bounds(ratios.trend), "p_logrank": math.nan})
    return pd.DataFrame(rows)


def survival_table(found: Curves) -> pd.DataFrame:
    """The survival curves of the chosen rates: a row for each time at which a run reached the target."""
    tables = []
    for name, curves in found.items():
        for b, size in enumerate(curves.batches):
            if len(times := curves.times(b)):
                table = survival(arm(times, float(curves.horizons[b])))
                tables.append(table.assign(optimizer=name, batch=size))
    kept = [table for table in tables if len(table)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def regimes_of(found: Curves) -> pd.DataFrame:
    """The slopes and regimes between neighbouring batch sizes of every optimizer (`time_comparisons.slopes_of`)."""
    tables = []
    for optimizer, curves in found.items():
        slopes = slopes_of(curves)
        slopes.insert(0, "optimizer", optimizer)
        tables.append(slopes)
    kept = [table for table in tables if len(table)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


def arm(steps: np.ndarray, horizon: float) -> Times:
    """The times of the runs of one setting; infinity is a run that did not reach the target within the horizon."""
    return Times.of(np.minimum(steps, horizon).tolist(), (steps <= horizon).tolist())


def _bounds(interval: Interval) -> dict[str, float]:
    return {"ratio": interval.estimate, "low": interval.low, "high": interval.high}
