"""Steps to a target against batch size: the three regimes, and the critical batch size.

    S(B) = S_min (1 + B_c / B)

Far below B_c the steps are inversely proportional to the batch (perfect scaling), far above they are constant (maximal data
parallelism). With E = B S examples and E_min = S_min B_c it is the same as (S / S_min - 1)(E / E_min - 1) = 1.

Sources: Shallue et al. 2019, arXiv 1811.03600 (regimes); McCandlish et al. 2018, arXiv 1812.06162 (the form).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import Interval, bootstrap_fit

# Log-log slopes that bound the regimes: our own choice, for batches that differ by a factor of about 2.
PERFECT, MAXIMAL = -0.9, -0.1
# The critical batch size is searched from 1 / _BEYOND of the smallest batch to _BEYOND times the largest.
_BEYOND, _GRID, _ROUNDS = 1000.0, 201, 5


@dataclass(frozen=True)
class CriticalBatch:
    """The fit of S_min (1 + B_c / B).

    limit: "" if the data determine B_c; "perfect scaling" if no batch deviates from S ~ 1/B (the given B_c is a lower bound, and
    S_min an upper bound); "no scaling" if S does not fall (the given B_c is an upper bound). residual: root mean square of
    log2(S / fit).
    """

    steps_min: float
    batch: float
    residual: float
    limit: str = ""

    @property
    def examples_min(self) -> float:
        """E_min = S_min B_c, the smallest number of examples, reached at small batches."""
        return self.steps_min * self.batch

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Steps to the target at ``batch``."""
        return self.steps_min * (1 + self.batch / np.asarray(batch, dtype=float))


def fit_critical_batch(batches: np.ndarray, steps: np.ndarray) -> CriticalBatch:
    """Least squares on log S with positive parameters: B_c is searched, and the best log S_min for each B_c is a mean.

    Batches that did not reach the target (infinity) are left out. Everything is NaN unless 2 different batches remain.
    """
    sizes, values = np.asarray(batches, dtype=float), np.asarray(steps, dtype=float)
    kept = np.isfinite(values)
    sizes, logs = sizes[kept], np.log(values[kept])
    if len(np.unique(sizes)) < 2:
        return CriticalBatch(math.nan, math.nan, math.nan)
    first, last = math.log(sizes.min() / _BEYOND), math.log(sizes.max() * _BEYOND)
    low, high = first, last
    for _ in range(_ROUNDS):
        candidates = np.linspace(low, high, _GRID)
        rest = logs - np.log1p(np.exp(candidates)[:, None] / sizes)
        errors = rest.var(axis=1)
        best = int(np.argmin(errors))
        low, high = candidates[max(best - 1, 0)], candidates[min(best + 1, _GRID - 1)]
    place = float(candidates[best])
    width = (last - first) / (_GRID - 1)
    limit = "perfect scaling" if place > last - width else "no scaling" if place < first + width else ""
    residual = math.sqrt(max(float(errors[best]), 0.0)) / math.log(2)
    return CriticalBatch(math.exp(float(rest[best].mean())), math.exp(place), residual, limit)


def local_slopes(batches: np.ndarray, steps: np.ndarray) -> pd.DataFrame:
    """The log-log slope between neighbouring batch sizes, and the regime that it means.

    Columns batch_low, batch_high, slope, regime: "perfect" for a slope of at most -0.9, "diminishing" below -0.1, else "maximal";
    "not reached", with a slope of NaN, if one of the two has no finite steps.
    """
    order = np.argsort(np.asarray(batches, dtype=float))
    sizes, values = np.asarray(batches, dtype=float)[order], np.asarray(steps, dtype=float)[order]
    rows = []
    for low, high, before, after in zip(sizes[:-1], sizes[1:], values[:-1], values[1:], strict=True):
        known = math.isfinite(before) and math.isfinite(after)
        slope = math.log(after / before) / math.log(high / low) if known else math.nan
        rows.append((low, high, slope, regime(slope)))
    return pd.DataFrame(rows, columns=["batch_low", "batch_high", "slope", "regime"])


def regime(slope: float) -> str:
    """The name of a local slope's regime, as in `local_slopes`."""
    if math.isnan(slope):
        return "not reached"
    return "perfect" if slope <= PERFECT else "diminishing" if slope < MAXIMAL else "maximal"


@dataclass(frozen=True)
class CriticalBatchIntervals:
    """The fit, its intervals, the batches used, and those that did not reach the target."""

    fit: CriticalBatch
    steps_min: Interval
    batch: Interval
    batches: tuple[float, ...]
    not_reached: tuple[float, ...]


def critical_batch(
    steps: Mapping[float, np.ndarray],
    over: Literal["seeds", "trials"] = "seeds",
    repetitions: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> CriticalBatchIntervals:
    """`fit_critical_batch` with a bootstrap.

    steps: for every batch the steps to the target of each run, infinity if it was not reached. over: "seeds": the runs of the
    tuned setting, whose median is fitted; "trials": the runs of a search, whose minimum is fitted.
    """
    sizes = np.array(sorted(steps))
    centre = np.median if over == "seeds" else np.min
    strata = [np.asarray(steps[size], dtype=float) for size in sizes]

    def fit(resampled: list[np.ndarray]) -> tuple[float, float]:
        found = fit_critical_batch(sizes, np.array([centre(values) for values in resampled]))
        return found.steps_min, found.batch

    steps_min, batch = bootstrap_fit(fit, strata, repetitions, level, seed)
    centres = np.array([centre(values) for values in strata])
    reached = np.isfinite(centres)
    kept, lost = (tuple(map(float, sizes[mask])) for mask in (reached, ~reached))
    return CriticalBatchIntervals(fit_critical_batch(sizes, centres), steps_min, batch, kept, lost)
