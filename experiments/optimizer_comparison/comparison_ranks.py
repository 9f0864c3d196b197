"""Ranks of the optimizers by the winners of their searches, and searches that lose to one that they contain."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from optbench.analysis.names import method
from optbench.analysis.statistics.inclusion import inclusion_failures
from optbench.analysis.statistics.ranks import PROBLEMS, Ranks, mean_ranks
from optbench.analysis.statistics.search_intervals import Search, winner

Key = tuple[Any, ...]
#: Methods whose search space holds another method, and where: container, contained.
CONTAINS = {
    ("momentum", "sgd"): "momentum 0",
    ("nesterov", "sgd"): "momentum near 0",
    ("adamw", "adam"): "weight decay near 0",
}


def ranks_over_problems(
    found: Mapping[Key, Search], words: Callable[[Key], str], repetitions: int
) -> tuple[pd.DataFrame, Ranks | None]:
    """The mean ranks over the problems on which all optimizers have outcomes, "all", and those on every single problem.

    found: by (optimizer, *problem). An optimizer without a trial that trained on any problem is left out; one whose trials all
    diverged on a problem is last there. The second value, for "all", is None without two optimizers and such a problem.
    """
    methods = sorted({key[0] for key, search in found.items() if winner(search)})
    problems = sorted({key[1:] for key in found})
    tried = {key for key, search in found.items() if search.tried.any()}
    complete = [problem for problem in problems if all((name, *problem) in tried for name in methods)]
    groups: list[tuple[str, list[str], list[Key]]] = [("all", methods, complete)]
    groups += [(words(p), [name for name in methods if (name, *p) in tried], [p]) for p in problems]
    tables, over_all = [], None
    for title, members, own in groups:
        if len(members) < 2 or not own:
            continue
        ranks = mean_ranks({name: [found[name, *p] for p in own] for name in members}, repetitions=repetitions)
        over_all = ranks if title == "all" else over_all
        tables.append(ranks.table.rename(columns={"method": "optimizer"}).assign(problem=title))
    if not tables:
        return pd.DataFrame(), None
    table = pd.concat(tables, ignore_index=True)
    return table[["problem", *table.columns.drop("problem")]], over_all


def rank_notes(ranks: pd.DataFrame, over_all: Ranks | None) -> list[str]:
    """The meaning of the intervals, the agreement between problems, and the first optimizer of every problem."""
    if over_all is None:
        return []
    problems = over_all.problems
    notes = [
        "Intervals of ranks are for new searches of as many trials and seeds, each of which reports its winner: trials and seeds "
        "are resampled, and the best trial is chosen again."
    ]
    if over_all.over_problems:
        notes.append(f"The {problems} problems are resampled as well: intervals hold for other problems of this kind.")
    else:
        notes.append(
            f"With {problems} problems, fewer than {PROBLEMS}, there is no interval over problems: what is said holds for "
            "these only."
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


def failed_searches(found: Mapping[Key, Search], words: Callable[[Key], str]) -> pd.DataFrame:
    """Test accuracy of the winner of each containing method minus that of the contained one, on every problem, in points."""
    points = {key: Search(one.validation, 100 * one.results, one.higher) for key, one in found.items()}
    table = inclusion_failures(points, list(CONTAINS))
    return table.assign(cell=[words(cell) for cell in table["cell"]]).rename(columns={"cell": "problem"})


def inclusion_notes(failures: pd.DataFrame) -> list[str]:
    """A sentence for every search that lost to a setting of its own space, and one if none did."""
    if failures.empty:
        return []
    notes = []
    for _, row in failures[failures["failed"]].iterrows():
        name, contained = method(row["container"]), method(row["contained"])
        where = CONTAINS[row["container"], row["contained"]]
        if row["seeds"]:
            by = f"{-row['difference']:.1f} points [{-row['high']:.1f}, {-row['low']:.1f}] below"
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
