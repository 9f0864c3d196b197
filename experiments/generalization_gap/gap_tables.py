"""The tables of the study: best rates, small minus large batch, the remedies, and test accuracy at equal train loss.

Every difference is given for the rates that were found, paired by seed, and for the search (`optbench.analysis.laws.best_rates`).
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from gap_conditions import (
    LARS,
    MOMENTUM,
    PLAIN,
    RESULTS,
    TOGETHER,
    UPDATES,
    WARMUP,
    WHOLE,
    Conditions,
    words_of_epochs,
)

from optbench.analysis.laws.best_rates import BestRate, difference_of_searches, interval_of, paired_difference
from optbench.analysis.statistics.intervals import Interval, student

SMALL = "small batch"
#: The powers of the ratio of the batches by which the rate of the small batch is carried to the large one.
RULES = {"the small batch's rate": 0.0, "square-root scaling": 0.5, "linear scaling": 1.0}


def best_table(found: Conditions) -> pd.DataFrame:
    """One row for each condition: its best rate with the rates that other draws choose, and the results there."""
    rows = []
    for (method, condition, batch), best in found.best.items():
        row: dict[str, Any] = {"method": method, "condition": condition, "batch": batch, "rate": best.rate}
        row |= {"rate_low": best.interval.low, "rate_high": best.interval.high, "at_edge": best.at_edge}
        row |= {"runs": len(best.runs), "seeds": len(best.found("test_accuracy"))}
        for metric in RESULTS:
            here = student(best.found(metric).to_numpy(float))
            row |= {metric: here.estimate, f"{metric}_low": here.low, f"{metric}_high": here.high}
        searched = interval_of(best.searched("test_accuracy"), best.stretch)
        row |= {"search_test_accuracy": searched.estimate, "search_low": searched.low, "search_high": searched.high}
        rows.append(row)
    return pd.DataFrame(rows)


def small_minus_large(found: Conditions) -> pd.DataFrame:
    """For every method and result, the smallest batch minus the largest, each at its own best rate, at equal epochs."""
    rows = []
    for method in found.methods:
        small, large = (found.best[method, PLAIN, batch] for batch in (found.small, found.large))
        for metric in RESULTS:
            row = {"method": method, "metric": metric, "small": found.small, "large": found.large}
            rows.append(row | _difference(small, large, metric))
    return pd.DataFrame(rows)


def remedies(found: Conditions) -> pd.DataFrame:
    """Test accuracy with each remedy minus that of plain momentum SGD at the large batch, each at its own best rate.

    The rules carry the rate that is chosen at the small batch to the large one. SMALL is what there is to win. Columns: remedy,
    batch, rate, and those of `_difference`.
    """
    plain = found.of_momentum(PLAIN)
    if plain is None:
        return pd.DataFrame()
    rows = []
    longer = [words_of_epochs(epochs) for epochs in found.longer(found.large) if epochs > found.epochs]
    for remedy in (WHOLE, WARMUP, LARS, *longer, TOGETHER):
        if (best := found.of_momentum(remedy)) is not None:
            row = {"remedy": remedy, "batch": found.large, "rate": best.rate, "at_edge": best.at_edge}
            rows.append(row | _difference(best, plain, "test_accuracy"))
    small = found.of_momentum(PLAIN, found.small)
    if small is None or small is plain:
        return pd.DataFrame(rows)
    for rule, power in RULES.items():
        if (row := _carried(found, small, plain, rule, power)) is not None:
            rows.append(row)
    row = {"remedy": SMALL, "batch": found.small, "rate": small.rate, "at_edge": small.at_edge}
    return pd.DataFrame([*rows, row | _difference(small, plain, "test_accuracy")])


def equal_updates(found: Conditions) -> pd.DataFrame:
    """The small batch minus a larger one with as many updates (one row, or none)."""
    small = found.of_momentum(PLAIN, found.small)
    rows = []
    for (method, condition, batch), best in found.best.items():
        if method == MOMENTUM and condition == UPDATES and small is not None:
            for metric in RESULTS:
                rows.append({"metric": metric, "small": found.small, "large": batch} | _difference(small, best, metric))
    return pd.DataFrame(rows)


def _carried(found: Conditions, small: BestRate, plain: BestRate, rule: str, power: float) -> dict[str, Any] | None:
    """The row of a rule; None if the lines of rates differ, or have no such rate."""
    if len(small.rates) != len(plain.rates) or len(plain.rates) < 2 or not np.allclose(small.rates, plain.rates):
        return None
    step = math.log(plain.rates[1] / plain.rates[0])
    steps = round(power * math.log(found.large / found.small) / step)
    place = small.chosen + steps
    searched = plain.searched("test_accuracy", steps, small)
    whole = difference_of_searches(searched, plain.searched("test_accuracy"), plain.stretch)
    row: dict[str, Any] = {"remedy": rule, "batch": found.large, "at_edge": False}
    row["rate"] = small.rate * (plain.rates[1] / plain.rates[0]) ** steps
    tables = searched.tables
    row["diverged"] = float(np.mean(~np.isfinite(tables) & ~np.isnan(tables)))
    row["beyond"] = float(np.mean(np.isnan(tables)))
    found_there = plain.at("test_accuracy", place) if 0 <= place < len(plain.rates) else pd.Series(dtype=float)
    return row | _columns(*paired_difference(found_there, plain.found("test_accuracy")), whole)


def _difference(first: BestRate, second: BestRate, metric: str) -> dict[str, Any]:
    """``first`` minus ``second``.

    difference, low, high: at the rates found, over ``seeds`` pairs. search_difference, search_low, search_high: of the search.
    """
    stretch = max(first.stretch, second.stretch)
    whole = difference_of_searches(first.searched(metric), second.searched(metric), stretch)
    return _columns(*paired_difference(first.found(metric), second.found(metric)), whole)


def _columns(settings: Interval, seeds: int, searched: Interval) -> dict[str, Any]:
    row = {"difference": settings.estimate, "low": settings.low, "high": settings.high, "seeds": seeds}
    bounds = {"search_difference": searched.estimate, "search_low": searched.low, "search_high": searched.high}
    return row | bounds


# ---- equal train loss -------------------------------------------------------------------------------------------------------


def at_equal_train_loss(found: Conditions) -> pd.DataFrame:
    """Test accuracy and loss of momentum SGD at the small and at the large batch, where whole schedules end at equal train loss.

    For each seed the results at the ends of schedules of different length are interpolated in the logarithm of the train loss, to
    the lowest train loss that all seeds reach at both batch sizes. One row for each result: small minus large, paired by seed.
    """
    if found.small == found.large:
        return pd.DataFrame()
    ends = {batch: _ends(found, batch) for batch in (found.small, found.large)}
    seeds = set.intersection(*(set(table.index) for table in ends.values())) if all(map(len, ends.values())) else set()
    if not seeds:
        return pd.DataFrame()
    reached = max(table.loc[list(seeds), "train_loss"].apply(min).max() for table in ends.values())
    rows = []
    for metric in ("test_accuracy", "test_loss"):
        values = {
            batch: np.array([_at(table.loc[seed], metric, reached) for seed in sorted(seeds)])
            for batch, table in ends.items()
        }
        differences = values[found.small] - values[found.large]
        inner = student(differences[np.isfinite(differences)])
        rows.append({
            "metric": metric,
            "train_loss": reached,
            "small": found.small,
            "large": found.large,
            "small_value": float(np.nanmean(values[found.small])),
            "large_value": float(np.nanmean(values[found.large])),
            "difference": inner.estimate,
            "low": inner.low,
            "high": inner.high,
            "seeds": int(np.isfinite(differences).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _ends(found: Conditions, batch: int) -> pd.DataFrame:
    """Lists of the results at the ends of schedules of ascending length, by seed; only seeds with at least two."""
    lengths = found.longer(batch)
    frames = [pd.DataFrame({metric: best.found(metric) for metric in RESULTS}).dropna() for best in lengths.values()]
    together = pd.concat(frames) if frames else pd.DataFrame(columns=list(RESULTS))
    lists = together.groupby(level=0).agg(list)
    return lists[[len(values) > 1 for values in lists["train_loss"]]] if len(lists) else lists


def _at(row: pd.Series, metric: str, train_loss: float) -> float:
    x, y = np.log(row["train_loss"]), np.array(row[metric], dtype=float)
    order = np.argsort(x)
    place = math.log(train_loss)
    if not x.min() - 1e-12 <= place <= x.max() + 1e-12:
        return math.nan
    return float(np.interp(place, np.array(x)[order], y[order]))
