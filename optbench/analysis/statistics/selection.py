"""The best trial of every cell: chosen on validation, reported on test, with its spread over seeds."""

import math
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

import pandas as pd

from optbench.analysis.frames import cells, count, higher_is_better, outcomes, require, worst
from optbench.analysis.statistics.search_edges import edges
from optbench.analysis.statistics.settings import seeds_only

RESULTS = ("test_accuracy", "test_loss", "gap_accuracy", "gap_loss")


def select(
    runs: pd.DataFrame,
    by: Sequence[str] = ("optimizer", "batch"),
    metric: str = "validation_accuracy",
    results: Sequence[str] = RESULTS,
    settings: Sequence[str] = ("trial",),
    center: str = "mean",
    search_seeds: Collection[int] | None = None,
    margin: float = 0.05,
) -> pd.DataFrame:
    """One row a cell: the setting with the best ``metric`` and its ``results``.

    by: the columns that make a cell. settings: those that tell what was tried within a cell: the trials of a search, or
    ``base_learning_rate`` for a grid. center: "mean" or "median" over the seeds of a setting; a seed that diverged has
    the worst value there is, so one is enough to rule a setting out by its mean. Of settings that tie, the first in
    ascending order is taken (trial 0, the defaults, before all others) and ``tied`` says how many there are.

    search_seeds: only runs with these seeds decide, and the results are of the winner's other seeds, where it has any:
    the best of many is optimistic on the seeds that made it best. None: all runs decide and report.

    Columns: ``by``; ``settings`` (missing where every setting diverged or none has an outcome);
    selection_METRIC, on which it was chosen; for every result R the columns R, R_std (over seeds, n - 1), R_min and R_max,
    of the runs that are done; seeds, how many runs these are of, with best_diverged and best_missing beside them;
    tried, the number of settings, and settings_diverged, those of which a run diverged; tied; the cell's runs, done,
    diverged, failed, unfinished; at_edge and edges: whether and where the setting lies within ``margin`` of an edge of
    the declared search space, or is the smallest or largest of a grid of at least three.

    Raises UserError when a column is missing.
    """
    require(runs, [*by, *settings, metric, *results, "seed", "status"])
    runs = seeds_only(runs, [*by, *settings]).reset_index(drop=True)
    # Of hundreds of columns only these are cut into cells: ten thousand runs are to take seconds.
    columns = dict.fromkeys([*by, *settings, "seed", "status"])
    table = runs[[*columns]].assign(_metric=outcomes(runs, metric))
    values = pd.DataFrame({result: outcomes(runs, result) for result in results}, index=runs.index)
    sign = -1 if higher_is_better(metric) else 1
    rows = []
    for key, cell in cells(table, by):
        tried = _tried(cell, settings, center, search_seeds)
        # Neither diverged nor without outcome, in ascending order of the settings.
        possible = [entry for entry in tried if sign * entry[1] < math.inf]
        row: dict[str, Any] = {}
        if possible:
            setting, centre, members = min(possible, key=lambda entry: sign * entry[1])
            if search_seeds is not None:
                others = members[~members["seed"].isin(search_seeds)]
                members = others if others["_metric"].notna().any() else members
            row = setting | {f"selection_{metric}": centre}
            for result in results:
                row |= spread(values.loc[members.index, result], result)
            found = edges(runs.loc[members.index[0]], margin) + _ends_of_grid(setting, [entry[0] for entry in tried])
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
            "settings_diverged": sum(bool((members["status"] == "diverged").any()) for _, _, members in tried),
            "tied": sum(entry[1] == row[f"selection_{metric}"] for entry in possible),
            **count(cell),
            "at_edge": bool(found),
            "edges": ", ".join(found),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _tried(
    cell: pd.DataFrame, settings: Sequence[str], center: str, search_seeds: Collection[int] | None
) -> list[tuple[dict[str, Any], float, pd.DataFrame]]:
    """Every setting of a cell with its centre over seeds (NaN where it has no outcome) and its runs."""
    tried = []
    for setting, members in cells(cell, settings):
        deciding = members if search_seeds is None else members[members["seed"].isin(search_seeds)]
        values = deciding["_metric"].dropna()
        tried.append((setting, float(values.median() if center == "median" else values.mean()), members))
    return tried


def _columns(result: str) -> tuple[str, str, str, str]:
    return result, f"{result}_std", f"{result}_min", f"{result}_max"


def spread(values: "pd.Series[float]", name: str) -> dict[str, float]:
    """Mean, standard deviation (n - 1), least and largest of the finite values, under the names of `select`.

    For times to a target the median is the first: a mean of times that may be infinite says nothing.
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
    """`select`, and beside it the defaults (trial 0): default_R, default_R_std and, paired by seed, the improvement.

    improvement_R: the mean over the seeds that both have of the tuned minus the default result (for results where lower
    is better the other way round, so that a positive one is always better), improvement_R_std its standard deviation,
    improvement_seeds how many seeds these are; default_diverged: how many default runs diverged.
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
