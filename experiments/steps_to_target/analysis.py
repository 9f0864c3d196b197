"""Steps to a validation target against batch size: regimes, the critical batch size, and their dependence on the target."""

from collections.abc import Sequence

import pandas as pd
from target_charts import sensitivity_chart, steps_chart, survival_chart
from target_claims import claims
from target_costs import costs_chart, costs_to_target
from target_searches import (
    ADVANCED,
    PLAIN,
    STEPS,
    Searches,
    advantages,
    best_trials,
    chosen_times,
    critical_batch_ratios,
    critical_batch_table,
    critical_batches,
    regimes_of,
    searches_of,
    survival_table,
)

from optbench.analysis.findings import Findings
from optbench.analysis.laws.noise_scales import noise_scales
from optbench.analysis.names import method
from optbench.analysis.statistics.algoperf import score_intervals
from optbench.analysis.statistics.costs import missing, with_costs
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.statistics.targets import TIMES, times_to_target
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better

QUESTION = (
    "Up to which batch size does doubling the batch halve the steps to a target, and for which optimizer is it largest?"
)
#: The factors by which the error, or loss, of easier targets is larger.
RELAXATIONS = (1.0, 1.1, 1.25)
REGIMES = {
    "perfect": "with perfect scaling (steps as 1/batch)",
    "diminishing": "with diminishing returns",
    "maximal": "beyond the largest useful batch (steps no longer fall)",
    "not reached": "where the target was not reached",
}
CELL = ["optimizer", "batch"]
REPETITIONS = 500


def analyse(study: Study) -> Findings:
    """S_min and B_c of every optimizer at three targets, the regimes between batch sizes, and K-FAC's advantage."""
    runs = seeds_only(study.runs, [*CELL, "trial"])
    goals = runs.get("config.budget.target", pd.Series(dtype=float)).dropna()
    if goals.empty or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    metric = str(runs["config.budget.target_metric"].dropna().iloc[0])
    targets = [_relaxed(float(goals.iloc[0]), factor, higher_is_better(metric)) for factor in RELAXATIONS]
    history = study.histories(["event", metric, *TIMES.values()])
    horizon = _horizon(runs, history)
    timed = {target: times_to_target(runs, history, target, metric) for target in targets}
    searches = {target: searches_of(table, horizon) for target, table in timed.items()}
    fits = {target: critical_batches(found, REPETITIONS) for target, found in searches.items()}
    first = targets[0]
    best = best_trials(timed[first], searches[first])
    chosen = chosen_times(timed[first], best)
    priced = with_costs(timed[first], STEPS, "seconds_to_target")
    tables = {
        "tuned_steps": best,
        "critical_batch": critical_batch_table(fits),
        "critical_batch_ratios": critical_batch_ratios(searches[first], fits[first], REPETITIONS),
        "advantage": advantages(searches[first], chosen, REPETITIONS),
        "regimes": regimes_of(searches[first]),
        "survival": survival_table(chosen, horizon),
        "noise_scale": noise_scales(study, study.runs[study.runs["status"] == "done"], last=True),
        "costs": costs_to_target(priced, best, CELL),
        "algoperf": _scores(searches[first]),
    }
    charts = [
        steps_chart(best, fits[first], tables["noise_scale"], f"{metric} {first:g}"),
        survival_chart(chosen, horizon),
        sensitivity_chart(tables["critical_batch"]),
        costs_chart(tables["costs"]),
    ]
    return Findings(
        QUESTION,
        _answer(tables["critical_batch"], tables["critical_batch_ratios"], first, metric),
        [chart for chart in charts if chart.series],
        {name: frame for name, frame in tables.items() if len(frame)},
        [
            *_notes(tables, targets),
            *_of_advantage(tables["advantage"]),
            *_of_scores(tables["algoperf"]),
            *missing(priced),
        ],
        claims=claims(runs, tables, first),
    )


def _relaxed(target: float, factor: float, higher: bool) -> float:
    return round(1 - (1 - target) * factor if higher else target * factor, 6)


def _horizon(runs: pd.DataFrame, history: pd.DataFrame) -> float:
    """The common budget in steps: the smallest of the runs; where it is not set in steps, the last evaluation of all runs."""
    budgets = pd.to_numeric(runs.get("config.budget.steps", pd.Series(dtype=float)), errors="coerce").dropna()
    return float(budgets.min()) if len(budgets) else float(history["step"].max())


def _scores(searches: Searches) -> pd.DataFrame:
    """AlgoPerf's score of every optimizer; each batch size at which all have ended is a workload. None for one optimizer.

    Its intervals are about another search: they resample trials and seeds.
    """
    common = sorted(set.intersection(*map(set, searches.values()))) if searches else []
    if len(searches) < 2 or not common:
        return pd.DataFrame()
    found = score_intervals(
        {name: [own[batch] for batch in common] for name, own in searches.items()}, repetitions=REPETITIONS
    )
    rows = [
        {"optimizer": name, "score": score.estimate, "low": score.low, "high": score.high, "batch_sizes": len(common)}
        for name, score in sorted(found.items(), key=lambda pair: -pair[1].estimate)
    ]
    return pd.DataFrame(rows)


def _of_scores(scores: pd.DataFrame) -> list[str]:
    if scores.empty:
        return []
    each = ", ".join(
        f"{row['optimizer']} {Interval(row['score'], row['low'], row['high']):.2f}" for _, row in scores.iterrows()
    )
    return [
        f"AlgoPerf's score in steps, with the batch sizes as workloads, is {each}: the mean share of batch sizes at which the "
        "optimizer takes no more than τ times the steps of the fastest, for τ from 1 to 4. Intervals are about another search. "
        "The score depends on which optimizers take part."
    ]


# ---- words --------------------------------------------------------------------------------------------------------------


def _text(row: pd.Series, name: str) -> str:
    bound = {"perfect scaling": "at least ", "no scaling": "at most "}.get(row["limit"], "")
    return f"{bound}{Interval(row[name], row[f'{name}_low'], row[f'{name}_high']):.3g}"


def _answer(table: pd.DataFrame, ratios: pd.DataFrame, target: float, metric: str) -> str:
    rows = table[table["target"] == target] if len(table) else table
    if rows.empty:
        return "Not enough runs for a critical batch size: no optimizer has reached the target at three batch sizes."
    ordered = rows.sort_values("critical_batch", ascending=False)
    known, unknown = ordered[ordered["not_identified"] == ""], ordered[ordered["not_identified"] != ""]
    each = ", ".join(f"{_text(row, 'critical_batch')} for {row['optimizer']}" for _, row in known.iterrows())
    words = f"To a {metric.replace('_', ' ')} of {target:g}, the critical batch size in examples is "
    words += each or "not identified for any optimizer"
    if len(unknown):
        listed = ", ".join(f"{row['optimizer']} ({row['not_identified']})" for _, row in unknown.iterrows())
        words += f"{'; not identified: ' if each else ': '}{listed}"
    return f"{words}. {_told_apart(ratios)}".strip()


def _told_apart(ratios: pd.DataFrame) -> str:
    """A sentence on which critical batches differ from that of plain SGD, by the intervals of their ratios."""
    over = ratios[(ratios["over"] == PLAIN) & ratios["low"].notna()] if len(ratios) else ratios
    if over.empty:
        return ""
    each = ", ".join(
        f"{row['optimizer']} {Interval(row['ratio'], row['low'], row['high']):.2g}" for _, row in over.iterrows()
    )
    apart = over[((over["low"] > 1) | (over["high"] < 1)) & over["identified"]]
    told = ", ".join(apart["optimizer"]) if len(apart) else "none"
    return f"Over that of {PLAIN} it is: {each}; told apart from it, where both are identified: {told}."


def _notes(tables: dict[str, pd.DataFrame], targets: Sequence[float]) -> list[str]:
    best, table = tables["tuned_steps"], tables["critical_batch"]
    regimes, noise = tables["regimes"], tables["noise_scale"]
    notes = [
        "Steps are restricted means over seeds: a run that does not reach the target counts as the budget. Intervals of critical "
        "batches, steps and ratios are about another search like this one: they resample trials and seeds, at all batch sizes "
        "together, and choose the best trial again. With one seed there are none."
    ]
    ended = best["done"] + best["diverged"] > 0
    lost = best[best["trial"].isna() & ended]
    where = ", ".join(f"{row['optimizer']} at batch {row['batch']}" for _, row in lost.iterrows())
    notes.append(
        f"No trial reached the target at {len(lost)} of {len(best)} points" + (f": {where}." if where else ".")
    )
    if not ended.all():
        notes.append(f"{int((~ended).sum())} of {len(best)} points have no run that has ended.")
    if tied := int((best["tied"] > 1).sum()):
        notes.append(
            f"At {tied} of {len(best)} points trials tie in the restricted mean and the worst seed: the first is shown."
        )
    if len(table):
        notes += _of_table(table, targets)
    if len(regimes):
        counts = regimes["regime"].value_counts()
        notes.append(
            "Of the pairs of neighbouring batch sizes, over all optimizers: "
            + ", ".join(f"{count} {REGIMES[name]}" for name, count in counts.items())
            + "."
        )
    if len(noise):
        each = noise.groupby("batch")["noise_scale"].median()
        notes.append(
            "The gradient noise scale where runs of plain SGD end, the median over seeds, is "
            + ", ".join(f"{value:.3g} at batch {batch}" for batch, value in each.items())
            + "."
        )
    if edge := int(best["at_edge"].sum()):
        notes.append(f"At {edge} of {len(best)} points the best trial lies at an edge of the search space: widen it.")
    return notes


def _of_table(table: pd.DataFrame, targets: Sequence[float]) -> list[str]:
    order = {t: list(rows.sort_values("critical_batch")["optimizer"]) for t, rows in table.groupby("target")}
    complete = [order[target] for target in targets if target in order]
    same = len(complete) == len(targets) and all(each == complete[0] for each in complete)
    listed = ", ".join(f"{target:g}" for target in targets)
    notes = [
        f"The order of the optimizers by critical batch size is {'' if same else 'not '}the same at the targets {listed}."
    ]
    rows = table[table["target"] == targets[0]]
    if len(rows):
        least = "; ".join(
            f"{row['optimizer']} {_text(row, 'steps_min')} steps and {_text(row, 'examples_min')} examples"
            for _, row in rows.iterrows()
        )
        notes.append(
            f"The least steps (at large batches) and the least examples (at small ones) of the fits are: {least}."
        )
    for column, words in (
        ("unresolved", "Times shorter than five intervals between evaluations enter as intervals, at the batch sizes"),
        (
            "bounds",
            "Less than 80 % of the runs of the best trial reached the target, so that the time is a lower bound, at",
        ),
    ):
        found = rows[rows[column] != ""]
        if len(found):
            notes.append(
                f"{words}: " + "; ".join(f"{row['optimizer']} {row[column]}" for _, row in found.iterrows()) + "."
            )
    return notes


def _of_advantage(table: pd.DataFrame) -> list[str]:
    """The ratios of the others' steps to those of K-FAC at the ends of the batch sizes, and their trend, in words."""
    if table.empty:
        return []
    parts = []
    for other, rows in table.groupby("over", sort=False):
        at, trends = rows[rows["batch"].notna()], rows[rows["batch"].isna()]
        ends = [at.iloc[0], at.iloc[-1]] if len(at) > 1 else [at.iloc[0]]
        each = " and ".join(
            f"{Interval(row['ratio'], row['low'], row['high']):.2g} at batch {row['batch']:g}" for row in ends
        )
        parts.append(f"{other} {each}")
        for _, row in trends.iterrows():
            told = "grows" if row["low"] > 0 else "shrinks" if row["high"] < 0 else "not told to grow or shrink"
            parts[-1] += f" ({told}: slope {Interval(row['ratio'], row['low'], row['high']):.2f})"
    return [
        f"Steps over those of {method(ADVANCED)}, which at equal batch are examples over its examples: {'; '.join(parts)}. The "
        "slopes are of the logarithm of the ratio over that of the batch."
    ]
