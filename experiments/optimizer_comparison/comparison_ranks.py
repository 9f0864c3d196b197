"""Ranks of the optimizers by the winners of their searches, and searches that lose to one that they contain."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from comparison_problems import Problems, in_words

from optbench.analysis.names import method
from optbench.analysis.statistics.inclusion import inclusion_failures
from optbench.analysis.statistics.ranks import PROBLEMS, Ranks, mean_ranks, ranked
from optbench.analysis.statistics.search_intervals import observed

#: Methods whose search space holds another method, and where: container, contained.
CONTAINS = {
    ("momentum", "sgd"): "momentum 0",
    ("nesterov", "sgd"): "momentum near 0",
    ("adamw", "adam"): "weight decay near 0",
    ("mars", "adamw"): "gamma near 0",
}


def ranks_over_problems(problems: Problems, repetitions: int) -> tuple[pd.DataFrame, Ranks | None]:
    """The mean ranks over all problems, "all", and those on every single problem, by test loss.

    "all" has the methods that were tried on every problem; those of a single problem are all that were tried there. A method
    whose trials all diverged on a problem is last there. The second value, for "all", is None without two methods and a problem.
    """
    tried = {key for key, search in problems.found.items() if search.tried.any()}
    groups = [("all", problems.everywhere, problems.common)]
    groups += [(in_words(p), [name for name in problems.methods if (name, *p) in tried], [p]) for p in problems.keys]
    tables, over_all = [], None
    for title, members, own in groups:
        if len(members) < 2 or not own:
            continue
        found = {name: [problems.found[name, *key] for key in own] for name in members}
        resampled = problems.resampled if title == "all" else False
        ranks = mean_ranks(found, resampled, higher=False, repetitions=repetitions, shared_trials=True)
        over_all = ranks if title == "all" else over_all
        tables.append(ranks.table.rename(columns={"method": "optimizer"}).assign(problem=title))
    if not tables:
        return pd.DataFrame(), None
    table = pd.concat(tables, ignore_index=True)
    return table[["problem", *table.columns.drop("problem")]], over_all


def other_firsts(parts: Mapping[str, Mapping[Any, Problems]], first: str) -> str:
    """A part of a sentence: without which parts of the runs another method has the best mean rank; empty if there is none."""
    found = []
    for part, own in parts.items():
        for value, problems in own.items():
            names = problems.everywhere
            if names and (leader := names[int(_mean_ranks(problems, names).argmin())]) != first:
                found.append(f"without {part} {value} {method(leader)}")
    return f". It hangs on a part of the runs: {' and '.join(found)} is first" if found else ""


def _mean_ranks(problems: Problems, names: Sequence[str]) -> np.ndarray:
    results = [observed([problems.found[name, *key] for name in names]) for key in problems.common]
    found: np.ndarray = ranked(np.stack(results), higher=False).mean(0)
    return found


def rank_notes(problems: Problems, ranks: pd.DataFrame, over_all: Ranks | None) -> list[str]:
    """The meaning of the intervals, the agreement between problems, and the first optimizer of every problem."""
    if over_all is None:
        return []
    number = over_all.problems
    notes = [
        "Intervals of ranks are for new searches of as many trials, each of which reports its winner: trials and seeds are "
        "resampled, and the best trial is chosen again. The winner's result is that of seeds that had no part in the choice."
        if problems.choosing is not None
        else "Intervals of ranks are for new searches of as many trials and seeds, each of which reports its winner: trials and "
        "seeds are resampled, and the best trial is chosen again."
    ]
    if over_all.over_problems:
        notes.append(
            f"The {number} problems are resampled as well: intervals hold for other problems of this kind. A trial is one "
            "setting on all problems, and is drawn for all of them together."
        )
    else:
        notes.append(
            f"With {number} problem{'' if number == 1 else 's'}, fewer than {PROBLEMS}, there is no interval over problems: what "
            "is said holds for these only."
        )
    left_out = [method(name) for name in problems.methods if name not in problems.everywhere]
    if left_out:
        notes.append(
            f"{', '.join(left_out)}: not tried on every problem, and only in the ranks of the problems where they were."
        )
    if not math.isnan(over_all.told_apart):
        notes.append(
            f"{over_all.told_apart:.0%} of {len(over_all.pairs)} pairs of optimizers have ranks that are told apart, each alone."
        )
    if not math.isnan(over_all.kendall_w):
        verdict = "the problems share a ranking" if over_all.friedman_p < 0.05 else "no common ranking is shown"
        notes.append(
            f"Agreement of the problems' rankings: Kendall's W {over_all.kendall_w:.2f}, Friedman's p {over_all.friedman_p:.2g}: "
            f"{verdict}."
        )
    for problem, rows in ranks[ranks["problem"] != "all"].groupby("problem", sort=False):
        first, second = rows.iloc[0], rows.iloc[1]
        share = (
            f"first in {first['p_best']:.0%} of new searches" if not math.isnan(second["behind_low"]) else "one trial"
        )
        notes.append(f"{problem}: {method(first['optimizer'])} is first of {len(rows)} ({share}).")
    return notes


def failed_searches(problems: Problems) -> pd.DataFrame:
    """The lead of the winner of each containing method over that of the contained one, on every problem, in its spreads."""
    ahead = {
        (name, *key): replace(search, results=-search.results / problems.spreads[tuple(key)])
        for (name, *key), search in problems.found.items()
    }
    table = inclusion_failures(ahead, list(CONTAINS))
    return table.assign(cell=[in_words(cell) for cell in table["cell"]]).rename(columns={"cell": "problem"})


def inclusion_notes(failures: pd.DataFrame) -> list[str]:
    """A sentence for every search that lost to a setting of its own space, and one if none did."""
    if failures.empty:
        return []
    notes = []
    for _, row in failures[failures["failed"]].iterrows():
        name, contained = method(row["container"]), method(row["contained"])
        where = CONTAINS[row["container"], row["contained"]]
        if row["seeds"]:
            by = f"{-row['difference']:.2f} spreads [{-row['high']:.2f}, {-row['low']:.2f}] worse than"
        else:
            by = "without a winner, unlike"
        notes.append(
            f"{row['problem']}: the search of {name} failed: it is {by} {contained}, a setting of its own space ({where})."
        )
    if not notes:
        notes.append(
            f"In none of {len(failures)} comparisons does a method lose to one that it contains by more than the noise of seeds."
        )
    return notes
