"""The differences between batches, and the gain of each remedy: for the settings that were found, and for new searches.

The first is the difference of two settings, paired by seed, with Student's interval. The interval of the second holds the choice
of trials as well (`optbench.analysis.statistics.search_intervals`). The trials of one optimizer are the same configurations in
all cells, with the same seeds, so that both are resampled together.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
from gap_conditions import METRIC, PLAIN

from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.pairs import differences_by_seed
from optbench.analysis.statistics.search_intervals import Search, SearchInterval, search_difference, search_interval
from optbench.analysis.statistics.searches import searches
from optbench.analysis.statistics.selection import select

SMALL = "small batch"
#: The ways to choose the trial of a remedy.
KEPT, TUNED = "trial of the small batch", "best trial at the large batch"
#: These scale the rate of the small batch's trial, and are not tuned again.
RULES = ("linear scaling", "square-root scaling")


def small_minus_large(plain: pd.DataFrame, chosen: pd.DataFrame, repetitions: int) -> pd.DataFrame:
    """For every optimizer, the test accuracy and the gap of the smallest batch minus those of the largest.

    chosen: the runs of the best trials of ``plain``. Columns: those of `_columns`, optimizer, metric, small, large, seeds.
    """
    rows = []
    for optimizer, own in chosen.groupby("optimizer"):
        small, large = own["batch"].min(), own["batch"].max()
        if small == large:
            continue
        for metric in ("test_accuracy", "gap_accuracy", "gap_loss"):
            pairs = differences_by_seed(own, metric, "batch", small, large, match=("seed",))
            of_batches = searches(plain[plain["optimizer"] == optimizer], ["batch"], METRIC, metric)
            found = search_difference(of_batches[small,], of_batches[large,], True, True, repetitions)
            row = {"optimizer": optimizer, "metric": metric, "small": small, "large": large}
            rows.append(row | _columns(_mean(pairs["difference"]), found) | {"seeds": _finite(pairs["difference"])})
    return pd.DataFrame(rows)


def remedies(runs: pd.DataFrame, best: pd.DataFrame, repetitions: int) -> pd.DataFrame:
    """Test accuracy of every remedy minus that of the plain large batch, by both ways to choose the trial.

    best: the best trials of every optimizer and batch. Columns: those of `_columns`, remedy, chosen, trial, batch, test_accuracy,
    seeds, pairs_diverged.
    """
    momentum = best[(best["optimizer"] == "momentum") & best["trial"].notna()].sort_values("batch")
    own = runs[runs["optimizer"].isin(["momentum", "lars"])]
    if momentum.empty or own.empty:
        return pd.DataFrame()
    small, large = own["batch"].min(), own["batch"].max()
    at_large, at_small = own[own["batch"] == large], own[(own["batch"] == small) & (own["condition"] == PLAIN)]
    frame = pd.concat([at_large, at_small.assign(condition=SMALL)])
    tuned = (
        select(frame, ["condition"], METRIC, ["test_accuracy"]).dropna(subset="trial").set_index("condition")["trial"]
    )
    found = {key[0]: search for key, search in searches(frame, ["condition"], METRIC).items()}
    rows = []
    for way in (KEPT, TUNED):
        if (SMALL if way == KEPT else PLAIN) not in tuned:
            continue
        for condition in dict.fromkeys(frame["condition"]):
            unfit = condition == "LARS" if way == KEPT else condition in RULES
            if condition == PLAIN or unfit or condition not in tuned:
                continue
            trials = {name: tuned[SMALL] if way == KEPT else tuned[name] for name in (condition, PLAIN)}
            picked = frame[frame["trial"] == frame["condition"].map(trials)]
            values = picked[(picked["condition"] == condition) & (picked["status"] == "done")]["test_accuracy"]
            pairs = differences_by_seed(picked, "test_accuracy", "condition", condition, PLAIN, match=("seed",))
            if way == KEPT:
                searched = search_interval(_with_kept_trial(found[SMALL], found[condition], found[PLAIN]), repetitions)
            else:
                # LARS has another search space.
                searched = search_difference(found[condition], found[PLAIN], condition != "LARS", True, repetitions)
            row: dict[str, Any] = {"remedy": condition, "chosen": way, "trial": int(trials[condition])}
            row |= {"batch": small if condition == SMALL else large, "test_accuracy": values.mean()}
            row |= _columns(_mean(pairs["difference"]), searched)
            seeds = _finite(pairs["difference"])
            rows.append(row | {"seeds": seeds, "pairs_diverged": len(pairs) - seeds})
    return pd.DataFrame(rows)


def _with_kept_trial(chooses: Search, first: Search, second: Search) -> Search:
    """A search that chooses as ``chooses`` and reports ``first`` minus ``second`` of the same trial, where neither diverged."""
    with np.errstate(invalid="ignore"):
        differences = first.results - second.results
    return dataclasses.replace(chooses, results=np.where(np.isfinite(differences), differences, math.nan))


def _mean(differences: "pd.Series[float]") -> Interval:
    return student(differences[np.isfinite(differences)].to_numpy(float))


def _finite(differences: "pd.Series[float]") -> int:
    return int(np.isfinite(differences).sum())


def _columns(settings: Interval, searched: SearchInterval) -> dict[str, Any]:
    """difference, low, high: of the settings found; search_difference, search_low, search_high, search: of new searches.

    search says what the last interval tells about 0.
    """
    bounds = {"difference": settings.estimate, "low": settings.low, "high": settings.high}
    told = "no interval" if math.isnan(searched.low) else searched.against_zero
    bounds |= {"search_difference": searched.estimate}
    return bounds | {"search_low": searched.low, "search_high": searched.high, "search": told}


# ---- words --------------------------------------------------------------------------------------------------------------


def points(row: "pd.Series[Any]") -> str:
    """A difference in points with both intervals."""
    words = f"{100 * row['difference']:+.2f} points"
    if math.isnan(row["low"]):
        return f"{words} (one seed: no interval)"
    words += f" [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}] for the settings found"
    if math.isnan(row["search_low"]):
        return words
    undecided = ", undecided" if row["search"] == "undecided" else ""
    return f"{words} and [{100 * row['search_low']:+.2f}, {100 * row['search_high']:+.2f}] for new searches{undecided}"


def told(rows: pd.DataFrame) -> str:
    """The numbers of differences that are told from 0, for the settings found and for new searches, in words."""
    settings = int(((rows["low"] > 0) | (rows["high"] < 0)).sum())
    new = int(rows["search"].isin(["above", "below"]).sum())
    words = f"{settings} of {len(rows)} for the settings found, {new} for new searches"
    undecided = int((rows["search"] == "undecided").sum())
    return f"{words} ({undecided} undecided)" if undecided else words
