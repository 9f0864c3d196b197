"""Optimizers across problems at equal tuning budgets: ranks, profiles, best-of-k curves, tuned against default."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from comparison_aggregates import MEANINGS, aggregates, seeds_needed
from comparison_claims import claims
from comparison_costs import charts_against_costs, costs_of_best, missing_costs
from comparison_ranks import failed_searches, inclusion_notes, rank_notes, ranks_over_problems

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval, bootstrap, mean
from optbench.analysis.statistics.pairs import differences_by_seed
from optbench.analysis.statistics.profiles import profile_with_band, scores_by_task
from optbench.analysis.statistics.ranks import Ranks
from optbench.analysis.statistics.searches import searches
from optbench.analysis.statistics.selection import tuned_beside_default
from optbench.analysis.statistics.tuning_budget import curves
from optbench.analysis.study import Study

QUESTION = (
    "Which optimizer is best at an equal tuning budget, on one problem and over all, and how much does tuning matter?"
)
METRIC, RESULT = "validation_accuracy", "test_accuracy"
TASK = ["model", "dataset", "batch"]
CELL = ["optimizer", *TASK]
SHOWN = 8
REPETITIONS = 1000


def analyse(study: Study) -> Findings:
    """Ranks of the tuned optimizers with intervals, their profiles, the best of k trials, and the gain of tuning."""
    runs = study.runs
    if METRIC not in runs or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    best = tuned_beside_default(runs, CELL, METRIC, [RESULT])
    tuned = runs.merge(best[[*CELL, "trial"]].dropna(), on=[*CELL, "trial"])
    scores = scores_by_task(tuned, RESULT, task=TASK)
    # An optimizer without any usable run would exclude its problems for all others.
    complete = {name: arrays for name, arrays in scores.items() if arrays}
    found = searches(runs, CELL, METRIC, RESULT)
    (ranks, over_all), gains = ranks_over_problems(found, _words, REPETITIONS), _gains(runs, tuned)
    failures = failed_searches(found, _words)
    budget = curves(runs, CELL, METRIC, RESULT, diverged_result=_chance(runs), repetitions=200)
    order = list(ranks[ranks["problem"] == "all"]["optimizer"]) if len(ranks) else sorted(tuned["optimizer"].unique())
    charts = [_ranks_chart(ranks), _profiles_chart(complete, order), _budget_chart(budget, order), _gains_chart(gains)]
    costs = costs_of_best(tuned, CELL, RESULT)
    charts += charts_against_costs(costs, RESULT, order[:SHOWN], _problem)
    overall = aggregates(complete, order, _chance(runs), REPETITIONS)
    tables = {
        "best_trials": best,
        "ranks": ranks,
        "rank_differences": pd.DataFrame() if over_all is None else over_all.pairs,
        "failed_searches": failures,
        "over_all_problems": overall,
        "tuned_minus_default": gains,
        "best_of_k": budget,
        "costs": costs,
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    charts = [chart for chart in charts if chart.series]
    notes = [*rank_notes(ranks, over_all), *inclusion_notes(failures), *_notes(runs, best, gains)]
    notes += [*_overall(overall, complete, ranks), *missing_costs(tuned)]
    median = _median_gain(gains)
    words = _answer(ranks, over_all, median, study)
    return Findings(QUESTION, words, charts, kept, notes, claims=claims(runs, ranks, gains, failures, median))


def _chance(runs: pd.DataFrame) -> float:
    """The accuracy of guessing among the largest number of classes of any problem, which diverged runs get."""
    classes = pd.to_numeric(runs.get("classes", pd.Series(dtype=float)), errors="coerce")
    return 1 / float(classes.max()) if classes.notna().any() else 0.0


def _problem(row: "pd.Series | Mapping[str, object]") -> str:
    return f"{row['model']} on {row['dataset']}, batch {row['batch']}"


def _words(problem: tuple[object, ...]) -> str:
    return _problem(dict(zip(TASK, problem, strict=True)))


def _gains(runs: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """The test accuracy of the best trial minus that of the defaults, paired by seed, mean over problems."""
    both = pd.concat([tuned.assign(side="tuned"), runs[runs["trial"] == 0].assign(side="default")])
    pairs = differences_by_seed(both, RESULT, "side", "tuned", "default", match=[*CELL, "seed"])
    rows = []
    for optimizer, own in pairs.groupby("optimizer"):
        finite = own[np.isfinite(own["difference"])]
        tasks = [cell["difference"].to_numpy(float) for _, cell in finite.groupby(TASK)]
        found = bootstrap(mean, tasks, REPETITIONS) if tasks else Interval(math.nan, math.nan, math.nan)
        if max(map(len, tasks), default=0) < 2:
            found = Interval(found.estimate, math.nan, math.nan)
        row = {
            "optimizer": optimizer,
            "gain": found.estimate,
            "low": found.low,
            "high": found.high,
            "problems": len(tasks),
        }
        rows.append(
            row
            | {
                "default": finite["second"].mean(),
                "tuned": finite["first"].mean(),
                "pairs_diverged": len(own) - len(finite),
            }
        )
    return pd.DataFrame(rows)


# ---- charts -------------------------------------------------------------------------------------------------------------


def _ranks_chart(ranks: pd.DataFrame) -> Chart:
    rows = ranks[ranks["problem"] == "all"] if len(ranks) else ranks
    series = []
    if len(rows):
        low, high = rows["low"], rows["high"]
        series.append(
            Series(
                label="mean rank", x=rows["optimizer"].map(method), y=rows["rank"], kind="points", low=low, high=high
            )
        )
    return Chart(
        name="ranks",
        title="Mean rank of the tuned optimizers",
        caption="By test accuracy of the best trial on validation, mean over problems; 1 is best. Bars: 95 % intervals for new "
        "searches, with trials and seeds resampled and the best trial chosen again.",
        y_label="Mean rank",
        horizontal=True,
        series=series,
    )


def _profiles_chart(scores: Mapping[str, list[np.ndarray]], order: list[str]) -> Chart:
    series = []
    if scores:
        tasks = range(len(next(iter(scores.values()))))
        best = [max(float(scores[name][task].mean()) for name in scores) for task in tasks]
        lost = np.linspace(0, 0.1, 51)
        for name in [name for name in order if name in scores][:SHOWN]:
            relative = [scores[name][task] - best[task] for task in tasks]
            band = profile_with_band(relative, -lost, REPETITIONS)
            low, high = band["low"], band["high"]
            series.append(
                Series(
                    label=method(name), x=100 * lost, y=band["fraction"], low=low, high=high, kind="curve", band=True
                )
            )
    return Chart(
        name="profiles",
        title="Performance profiles",
        caption=f"The share of runs, pooled over problems, that lose less test accuracy than that to the best optimizer's "
        f"mean on the same problem; the {SHOWN} optimizers with the best ranks. Bands: 95 % bootstrap over seeds.",
        x_label="Test accuracy lost (points)",
        y_label="Share of runs",
        percent_y=True,
        series=series,
    )


def _budget_chart(budget: pd.DataFrame, order: list[str]) -> Chart:
    series = []
    for _, rows in budget[budget["optimizer"].isin(order[:SHOWN])].groupby(CELL):
        first = rows.iloc[0]
        series.append(
            Series(label=method(str(first["optimizer"])), x=rows["trials"], y=rows["expected"], panel=_problem(first))
        )
    return Chart(
        name="best_of_k",
        title="Expected test accuracy of the best of k trials",
        caption="Trials are chosen on validation and drawn without replacement from those of the search (the defaults are not "
        f"among them); a trial that diverged counts as a guess. The {SHOWN} optimizers with the best ranks.",
        x_label="Trials",
        y_label="Test accuracy",
        percent_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
    )


def _gains_chart(gains: pd.DataFrame) -> Chart:
    series = []
    if len(gains):
        rows = gains[gains["gain"].notna()].sort_values("gain", ascending=False)
        points = {name: 100 * rows[column] for name, column in (("y", "gain"), ("low", "low"), ("high", "high"))}
        series.append(Series(label="tuned minus default", x=rows["optimizer"].map(method), kind="points", **points))
    return Chart(
        name="tuned_minus_default",
        title="What tuning adds to the defaults",
        caption="Test accuracy of the best trial minus that of the defaults (a trial too), paired by seed, mean over problems.",
        y_label="Test accuracy gained (points)",
        horizontal=True,
        series=series,
        references=[Reference(0.0)],
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _bounds(row: pd.Series, factor: float = 1.0, digits: int = 1) -> str:
    return "" if math.isnan(row["low"]) else f" [{factor * row['low']:.{digits}f}, {factor * row['high']:.{digits}f}]"


def _median_gain(gains: pd.DataFrame) -> pd.Series | None:
    """The optimizer whose gain by tuning is nearest to the median one."""
    known = gains[gains["gain"].notna()] if len(gains) else gains
    return None if known.empty else known.iloc[(known["gain"] - known["gain"].median()).abs().argmin()]


def _answer(ranks: pd.DataFrame, over_all: Ranks | None, middle: pd.Series | None, study: Study) -> str:
    if over_all is None:
        return "Not enough runs for ranks: no problem has a result of every optimizer."
    rows = ranks[ranks["problem"] == "all"]
    top = rows.iloc[0]
    words = (
        f"By mean rank {top['optimizer']} is the best of {len(rows)} optimizers, with {top['rank']:.1f}{_bounds(top)}"
    )
    if rows.iloc[1:]["behind_low"].notna().all():
        apart = int((rows.iloc[1:]["behind_low"] > 0).sum())
        words += f"; as a statement about new searches, {apart} of {len(rows) - 1} others are told apart from it"
    if middle is None:
        return words + "."
    return (
        f"{words}. The best of {len(study.trials)} trials adds to the defaults, in the median over optimizers, "
        f"{100 * middle['gain']:.1f} points of test accuracy{_bounds(middle, 100)} ({middle['optimizer']}), "
        "for the settings found."
    )


def _overall(overall: pd.DataFrame, scores: Mapping[str, list[np.ndarray]], ranks: pd.DataFrame) -> list[str]:
    """State the aggregates, define them, and estimate the number of seeds that would distinguish the first two."""
    if len(overall) < 2:
        return []
    notes = []
    for name, words, best in (
        ("interquartile_mean", "interquartile mean", overall["interquartile_mean"].idxmax()),
        ("optimality_gap", "optimality gap", overall["optimality_gap"].idxmin()),
    ):
        row = overall.loc[best]
        value = Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
        notes.append(f"Over all problems {row['optimizer']} has the best {words}, {value:.3f}.")
    first, second = overall.iloc[0], overall.iloc[1]
    chance = Interval(second["improvement"], second["improvement_low"], second["improvement_high"])
    notes.append(
        f"A run of {second['optimizer']}, second by mean rank, beats one of {first['optimizer']} with probability {chance:.2f}."
    )
    rows = ranks[ranks["problem"] == "all"].set_index("optimizer")
    if second["optimizer"] in rows.index and not rows.loc[second["optimizer"], "behind_low"] > 0:
        needed = seeds_needed(scores, first["optimizer"], second["optimizer"])
        if needed is not None:
            notes.append(
                f"Their ranks are not told apart; at the difference and the spread seen here their mean accuracies need about "
                f"{needed} seeds a problem (power 80 %, level 95 %)."
            )
    reference = "Scores are test accuracies over the mean of the best optimizer on the same problem."
    return [*notes, " ".join([reference, *MEANINGS])]


def _notes(runs: pd.DataFrame, best: pd.DataFrame, gains: pd.DataFrame) -> list[str]:
    notes = []
    missing = best[best["trial"].isna()]
    if len(missing):
        cells = ", ".join(f"{row['optimizer']} ({_problem(row)})" for _, row in missing.iterrows())
        notes.append(f"No trial has come to a result that can be used: {cells}.")
    if len(gains) and gains["default"].notna().any():
        default, tuned = gains.iloc[int(gains["default"].argmax())], gains["tuned"]
        ahead = int((tuned > default["default"]).sum())
        notes.append(f"The best defaults, {default['optimizer']}'s, reach {default['default']:.1%} in the mean over problems and "
                     f"seeds; tuned, {ahead} of {len(gains)} optimizers have a higher mean.")  # fmt: skip
    if edge := int(best["at_edge"].sum()):
        notes.append(f"At {edge} of {len(best)} points the best trial lies at an edge of the search space.")
    diverged = int((runs["status"] == "diverged").sum())
    notes.append(f"{diverged} of {len(runs)} runs diverged; they count as the worst result there is.")
    return notes
