"""The best trial of every cell: chosen on validation, reported on test, with its spread over seeds."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd

from optbench.analysis.frames import cells, count, outcomes, require, require_selectable, worst
from optbench.analysis.statistics.search_edges import edges
from optbench.analysis.statistics.search_intervals import Search, winner
from optbench.analysis.statistics.settings import seeds_only
from optbench.store.measured import higher_is_better

RESULTS = ("test_accuracy", "test_loss", "gap_accuracy", "gap_loss")
Center = Literal["mean", "median"]


@dataclass(frozen=True)
class _Tried:
    """A setting of a cell: its runs, the values (seeds,) that decide, and their centre, NaN without an outcome."""

    setting: dict[str, Any]
    runs: pd.DataFrame
    values: np.ndarray
    centre: float


def select(
    runs: pd.DataFrame,
    by: Sequence[str] = ("optimizer", "batch"),
    metric: str = "validation_accuracy",
    results: Sequence[str] = RESULTS,
    settings: Sequence[str] = ("trial",),
    center: Center = "mean",
    search_seeds: Collection[int] | None = None,
    margin: float = 0.05,
) -> pd.DataFrame:
    """One row for each cell: the setting with the best ``metric`` and its ``results``.

    by: the columns that make a cell. settings: the columns that vary within a cell: the trials of a search, or
    ``base_learning_rate`` for a grid. center: "mean" or "median" over the seeds of a setting; a diverged seed has the worst
    possible value, so that one is enough to exclude a setting by its mean. Settings that tie are told apart by the mean, if the
    centre is the median, and then by the worst seed, as by `search_intervals.winner`. The results are averaged, seed by seed,
    over those that still tie. ``tied`` is their number, and the first of them in ascending order is shown.

    search_seeds: only runs with these seeds decide, and the results are those of the winner's other seeds, if it has any,
    because the best of many is optimistic on the seeds that selected it. None: all runs decide and report.

    Columns: ``by``; ``settings`` (missing if every setting diverged or none has an outcome); selection_METRIC, the value of
    the choice; for every result R the columns R, R_std (over seeds, n - 1), R_min and R_max, of the done runs; seeds, their
    number, and best_diverged and best_missing; tried, the number of settings, and settings_diverged, the number of those
    with a diverged run; tied; the cell's runs, done, diverged, failed, unfinished; at_edge and edges: if the setting lies
    within ``margin`` of an edge of the declared search space, or is the smallest or largest of a grid of at least three, and
    which edges.

    Raises UserError if a column is missing, and for a diagnosis from held-out labels as the ``metric``.
    """
    require_selectable(metric)
    require(runs, [*by, *settings, metric, *results, "seed", "status"])
    runs = seeds_only(runs, [*by, *settings]).reset_index(drop=True)
    # Only these of hundreds of columns are divided into cells, so that ten thousand runs take seconds.
    columns = dict.fromkeys([*by, *settings, "seed", "status"])
    table = runs[[*columns]].assign(_metric=outcomes(runs, metric))
    values = pd.DataFrame({result: outcomes(runs, result) for result in results}, index=runs.index)
    rows = []
    for key, cell in cells(table, by):
        tried = _tried(cell, settings, center, search_seeds)
        chosen = _chosen(tried, center, higher_is_better(metric))
        if chosen:
            of_each = [_reporting(entry.runs, search_seeds) for entry in chosen]
            members = of_each[0]
            reported = pd.concat([values.loc[each.index].assign(_seed=each["seed"]) for each in of_each])
            averaged = reported.groupby("_seed", dropna=False).mean()
            row = chosen[0].setting | {f"selection_{metric}": chosen[0].centre}
            for result in results:
                row |= spread(averaged[result], result)
            found = edges(runs.loc[members.index[0]], margin) + _ends_of_grid(
                chosen[0].setting, [entry.setting for entry in tried]
            )
        else:
            members, found = cell[:0], []
            row = dict.fromkeys(settings, math.nan)
            row[f"selection_{metric}"] = worst(metric) if (cell["status"] == "diverged").any() else math.nan
            row |= {name: math.nan for result in results for name in _columns(result)}
        best = count(members)
        rows.append(key | row | {
            "seeds": best["done"],
            "best_diverged": best["diverged"],
            "best_missing": best["failed"] + best["unfinished"],
            "tried": len(tried),
            "settings_diverged": sum(bool((entry.runs["status"] == "diverged").any()) for entry in tried),
            "tied": len(chosen),
            **count(cell),
            "at_edge": bool(found),
            "edges": ", ".join(found),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _tried(
    cell: pd.DataFrame, settings: Sequence[str], center: Center, search_seeds: Collection[int] | None
) -> list[_Tried]:
    """Every setting of a cell, in ascending order."""
    tried = []
    for setting, members in cells(cell, settings):
        deciding = members if search_seeds is None else members[members["seed"].isin(search_seeds)]
        values = deciding["_metric"].dropna()
        centre = float(values.median() if center == "median" else values.mean())
        tried.append(_Tried(setting, members, values.to_numpy(float), centre))
    return tried


def _chosen(tried: Sequence[_Tried], center: Center, higher: bool) -> list[_Tried]:
    """The settings that the values do not tell apart from the best one; none if all diverged or have no outcome."""
    possible = [entry for entry in tried if math.isfinite(entry.centre)]
    if center == "median" and possible:
        best = (max if higher else min)(entry.centre for entry in possible)
        possible = [entry for entry in possible if entry.centre == best]
    if not possible:
        return []
    values = np.full((len(possible), max(len(entry.values) for entry in possible)), math.nan)
    for row, entry in zip(values, possible, strict=True):
        row[: len(entry.values)] = entry.values
    # Of equal medians all may have a diverged seed: then their means and their worst seeds are equal, too.
    found = winner(Search(values, values, higher)) or range(len(possible))
    return [possible[place] for place in found]


def _reporting(members: pd.DataFrame, search_seeds: Collection[int] | None) -> pd.DataFrame:
    """The runs of a setting that are reported: those of other seeds than decided, if there are any."""
    if search_seeds is None:
        return members
    others = members[~members["seed"].isin(search_seeds)]
    return others if others["_metric"].notna().any() else members


def _columns(result: str) -> tuple[str, str, str, str]:
    return result, f"{result}_std", f"{result}_min", f"{result}_max"


def spread(values: "pd.Series[float]", name: str) -> dict[str, float]:
    """Mean, standard deviation (n - 1), minimum and maximum of the finite values, under the names of `select`.

    For times to a target the first is the median, because a mean of times that may be infinite is meaningless.
    """
    to_target = name.endswith("_to_target")
    kept = values.dropna() if to_target else values[values.abs() < math.inf]
    centre = kept.median() if to_target else kept.mean()
    deviation = kept[kept < math.inf].std()
    return dict(zip(_columns(name), map(float, (centre, deviation, kept.min(), kept.max())), strict=True))


def _ends_of_grid(setting: dict[str, Any], tried: list[dict[str, Any]]) -> list[str]:
    found = []
    for name, value in setting.items():
        if name == "trial" or not isinstance(value, Real):
            continue
        grid = sorted({other[name] for other in tried})
        if len(grid) >= 3 and value in (grid[0], grid[-1]):
            found.append(f"{name} {'low' if value == grid[0] else 'high'}")
    return found


def tuned_beside_default(
    runs: pd.DataFrame,
    by: Sequence[str] = ("optimizer", "batch"),
    metric: str = "validation_accuracy",
    results: Sequence[str] = RESULTS,
    search_seeds: Collection[int] | None = None,
) -> pd.DataFrame:
    """`select`, with the defaults (trial 0) for comparison: default_R, default_R_std and, paired by seed, the improvement.

    improvement_R: the mean of the tuned minus the default result over the seeds that both have (with the opposite sign if
    lower is better, so that positive is always better), improvement_R_std its standard deviation, improvement_seeds the
    number of these seeds; default_diverged: the number of default runs that diverged.
    """
    runs = seeds_only(runs, [*by, "trial"])
    table = select(runs, by, metric, results, search_seeds=search_seeds)
    additions = []
    for row, (_, cell) in zip(table.to_dict("records"), cells(runs, by), strict=True):
        defaults = cell[cell["trial"] == 0]
        if search_seeds is not None and not defaults["seed"].isin(search_seeds).all():
            defaults = defaults[~defaults["seed"].isin(search_seeds)]
        tuned = cell[cell["trial"] == row["trial"]]
        addition: dict[str, float] = {"default_diverged": int((defaults["status"] == "diverged").sum())}
        for result in results:
            before, after = _by_seed(defaults, result), _by_seed(tuned, result)
            sign = 1 if higher_is_better(result) else -1
            differences = sign * (after - before).dropna()
            addition |= {
                f"default_{result}": float(before.mean()),
                f"default_{result}_std": float(before.std()),
                f"improvement_{result}": float(differences.mean()),
                f"improvement_{result}_std": float(differences.std()),
                "improvement_seeds": len(differences),
            }
        additions.append(addition)
    return pd.concat([table, pd.DataFrame(additions, index=table.index)], axis=1)


def _by_seed(runs: pd.DataFrame, result: str) -> "pd.Series[float]":
    values = outcomes(runs, result)
    finite = values.abs() < math.inf
    return values[finite].groupby(runs.loc[finite, "seed"]).mean()
