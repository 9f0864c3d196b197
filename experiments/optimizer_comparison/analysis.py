"""Optimizers across problems at equal tuning budgets: ranks, scores by cost to a target, gains of tuning, failed searches."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from comparison_charts import budget_chart, gains_chart, ranks_chart
from comparison_claims import claims, steadied
from comparison_costs import (
    DEFAULTS,
    costs_of_best,
    costs_to,
    in_sentence,
    missing_costs,
    profile_chart,
    score_chart,
    score_notes,
    scores,
    targets,
)
from comparison_gains import best_of_k, gains_of_tuning
from comparison_problems import CELL, METRIC, RESULT, Problems, in_words, trained
from comparison_ranks import failed_searches, inclusion_notes, other_firsts, rank_notes, ranks_over_problems

from optbench.analysis.claim_outcomes import without_each
from optbench.analysis.claims import Claim
from optbench.analysis.findings import Findings
from optbench.analysis.names import method
from optbench.analysis.statistics.ranks import Ranks
from optbench.analysis.statistics.selection import select
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.statistics.tuning_gains import Gains
from optbench.analysis.study import Study

QUESTION = (
    "Which optimizer is best at an equal tuning budget, on one problem and over all, and how much does tuning matter?"
)
SHOWN = 8
REPETITIONS = 1000


def analyse(study: Study) -> Findings:
    """Ranks of the winners, AlgoPerf's scores and profiles by four costs, gains of tuning, and searches that failed."""
    # Mixed settings are refused before anything else.
    if not (study.runs["status"] == "done").any() or METRIC not in seeds_only(study.runs, [*CELL, "trial"]):
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    problems = Problems.of(study)
    best = select(problems.runs, CELL, METRIC, [RESULT], search_seeds=problems.choosing)
    tuned = problems.runs.merge(best[[*CELL, "trial"]].dropna(), on=[*CELL, "trial"])
    ranks, over_all = ranks_over_problems(problems, REPETITIONS)
    gains, failures, shares = gains_of_tuning(problems, REPETITIONS), failed_searches(problems), trained(problems)
    order = list(ranks[ranks["problem"] == "all"]["optimizer"]) if len(ranks) else problems.methods
    values, budget = targets(problems), best_of_k(problems)
    to_target = {name: costs_to(problems, own) for name, own in values.items()}
    scored = [scores(problems, found, REPETITIONS).assign(target=name) for name, found in to_target.items()]
    by_cost = pd.concat(scored, ignore_index=True)
    parts = _parts(problems)
    without = {part: without_each(part, study.name, [*own], lambda value, own=own: _claims(own[value]))
               for part, own in parts.items()}  # fmt: skip
    charts = [
        ranks_chart(ranks),
        score_chart(by_cost, order),
        profile_chart(problems, to_target[DEFAULTS], order[:SHOWN]),
        gains_chart(gains),
        budget_chart(budget, order[:SHOWN]),
    ]
    tables = {
        "best_trials": best,
        "ranks": ranks,
        "rank_differences": pd.DataFrame() if over_all is None else over_all.pairs,
        "scores": by_cost,
        "failed_searches": failures,
        "tuned_minus_default": pd.DataFrame() if gains is None else gains.table,
        "trained_trials": shares,
        "best_of_k": budget,
        "costs": costs_of_best(problems, tuned),
        **{f"without_a_{part}": table for part, table in without.items()},
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    charts = [chart for chart in charts if chart.series]
    notes = [*rank_notes(problems, ranks, over_all), *score_notes(problems, values, by_cost)]
    notes += [*inclusion_notes(failures), *_gain_notes(gains), *_search_notes(problems, best, shares)]
    notes += missing_costs(tuned)
    made = steadied(claims(problems.runs, ranks, gains, failures), without)
    return Findings(
        QUESTION,
        _answer(ranks, over_all, gains, by_cost, study, other_firsts(parts, order[0]) if order else ""),
        charts,
        kept,
        notes,
        claims=made,
    )


def _parts(problems: Problems) -> dict[str, dict[Any, Problems]]:
    """The study without each seed that reports, without each problem, and without each trial but the defaults."""
    trials = sorted(trial for trial in problems.runs["trial"].unique() if trial)
    names = [in_words(key) for key in problems.common]
    return {
        "seed": {seed: problems.without_seed(seed) for seed in problems.reporting},
        "problem": {name: problems.without_problem(name) for name in names},
        "trial": {trial: problems.without_trial(trial) for trial in trials},
    }


def _claims(problems: Problems) -> list[Claim]:
    ranks, _ = ranks_over_problems(problems, REPETITIONS)
    return claims(problems.runs, ranks, gains_of_tuning(problems, REPETITIONS), failed_searches(problems))


# ---- words --------------------------------------------------------------------------------------------------------------


def _bounds(low: float, high: float, digits: int = 1) -> str:
    return "" if math.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"


def _answer(
    ranks: pd.DataFrame,
    over_all: Ranks | None,
    gains: Gains | None,
    by_cost: pd.DataFrame,
    study: Study,
    others: str,
) -> str:
    if over_all is None:
        return "Not enough runs for ranks: fewer than two optimizers were tried on every problem."
    rows = ranks[ranks["problem"] == "all"]
    top = rows.iloc[0]
    words = (
        f"By mean rank of test losses {method(top['optimizer'])} is the best of {len(rows)} optimizers on {over_all.problems} "
        f"problem{'' if over_all.problems == 1 else 's'}, with {top['rank']:.1f}{_bounds(top['low'], top['high'])}"
    )
    if rows.iloc[1:]["behind_low"].notna().all():
        apart = int((rows.iloc[1:]["behind_low"] > 0).sum())
        words += f"; as a statement about new searches, {apart} of {len(rows) - 1} others are told apart from it"
    words += others
    firsts = [
        f"{method(own.iloc[0]['optimizer'])} by {in_sentence(str(cost))}"
        for cost, own in (by_cost[by_cost["target"] == DEFAULTS] if len(by_cost) else by_cost).groupby("cost", sort=False)
    ] if len(by_cost) else []  # fmt: skip
    if firsts:
        words += f". To the loss of AdamW at its defaults the best AlgoPerf scores are of {', '.join(firsts)}"
    if gains is not None and math.isfinite(gains.median.estimate):
        middle = gains.median
        words += (
            f". The best of {len(study.trials)} trials gains on the defaults, in the median over optimizers, "
            f"{middle.estimate:.2f}"
            f"{_bounds(middle.low, middle.high, 2)} times the interquartile range of the tuned optimizers"
        )
    return f"{words}."


def _gain_notes(gains: Gains | None) -> list[str]:
    if gains is None:
        return []
    notes = [
        "A gain is the test loss of the defaults minus that of the winner, on the same seeds, in units of the interquartile "
        "range of the winners of all optimizers on the problem (a spread), mean over problems. The defaults are one of the "
        "trials: where they win, the gain is 0."
    ]
    diverged = int(gains.table["default_diverged"].sum())
    if diverged:
        notes.append(
            f"At {diverged} point{'' if diverged == 1 else 's'} the defaults diverge and the winner trains: a gain without a "
            "number, left out of the means."
        )
    return notes


def _search_notes(problems: Problems, best: pd.DataFrame, shares: pd.DataFrame) -> Sequence[str]:
    runs, notes = problems.runs, []
    missing = best[best["trial"].isna()]
    if len(missing):
        cells = ", ".join(
            f"{method(str(row['optimizer']))} ({in_words((row['model'], row['dataset'], row['batch']))})"
            for _, row in missing.iterrows()
        )
        notes.append(f"No trial has come to a result that can be used: {cells}.")
    chosen = best[[*CELL, "trial"]].dropna()
    new = problems.reported(runs)[[*CELL, "trial"]].drop_duplicates()
    if problems.choosing is not None and (alone := len(chosen) - len(chosen.merge(new))):
        notes.append(
            f"At {alone} of {len(chosen)} points the winner has no runs with new seeds: its result is that of the seed that "
            "chose it, as after a search by another goal, or one that goes on."
        )
    known = shares[shares["share"].notna()] if len(shares) else shares
    if len(known):
        few = known[known["share"] < 0.5]
        words = f"At {len(known) - len(few)} of {len(known)} points at least half of the trials train"
        worst = few.groupby("optimizer", sort=False).size().sort_values(ascending=False, kind="stable")
        named = ", ".join(f"{method(str(name))} ({count})" for name, count in worst.items())
        notes.append(f"{words}; the others are of: {named}." if named else f"{words}.")
    if edge := int(best["at_edge"].sum()):
        notes.append(f"At {edge} of {len(best)} points the best trial lies at an edge of the search space.")
    diverged = int((runs["status"] == "diverged").sum())
    notes.append(f"{diverged} of {len(runs)} runs diverged; they count as the worst result there is.")
    return notes
