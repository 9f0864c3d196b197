"""The costs of each method up to a target: steps, FLOPs, seconds and bytes; AlgoPerf's score, ranks and profiles of these."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from comparison_problems import CELL, METRIC, RESULT, TASK, Key, Problems, in_words

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.frames import cells
from optbench.analysis.names import method
from optbench.analysis.statistics.algoperf import R_MAX, CostSearch, observed_costs, ratios, scores_of_winners
from optbench.analysis.statistics.costs import COSTS, Cost, missing, with_costs
from optbench.analysis.statistics.search_intervals import winner
from optbench.analysis.statistics.targets import times_to_target

#: The method whose results are the targets.
REFERENCE = "adamw"
DEFAULTS, TUNED = "defaults", "tuned"
WORDS = {DEFAULTS: "the loss of AdamW at its defaults", TUNED: "the loss of AdamW, tuned"}
ALL_COSTS = (Cost("steps", "Steps", "steps"), *COSTS)


def in_sentence(cost: str) -> str:
    """The name of a cost in a sentence."""
    return "FLOPs" if cost == "flops" else cost


def targets(problems: Problems) -> dict[str, dict[Key, float]]:
    """For both targets, the value of every problem: the median validation loss at the end of AdamW, over the seeds that report.

    None without histories, in which a time to a target is found.
    """
    found: dict[str, dict[Key, float]] = {DEFAULTS: {}, TUNED: {}}
    if problems.history.empty:
        return found
    own = problems.reported(problems.runs)
    own = own[(own["optimizer"] == REFERENCE) & (own["status"] == "done")]
    trials = sorted(problems.runs["trial"].unique())
    for key, cell in cells(own, TASK):
        problem = tuple(key.values())
        chosen = [trials[place] for place in winner(problems.found[REFERENCE, *problem])][:1]
        for name, of_target in ((DEFAULTS, [0]), (TUNED, chosen)):
            losses = pd.to_numeric(cell.loc[cell["trial"].isin(of_target), METRIC], errors="coerce").dropna()
            if len(losses):
                found[name][problem] = float(losses.median())
    return found


def costs_to(problems: Problems, values: dict[Key, float]) -> dict[str, dict[Key, CostSearch]]:
    """For every cost the searches of all methods, on the problems that have a target."""
    timed = []
    for key, cell in cells(problems.runs, TASK):
        if (target := values.get(tuple(key.values()))) is not None:
            timed.append(times_to_target(cell, problems.history, target, METRIC))
    if not timed:
        return {}
    runs = pd.concat(timed, ignore_index=True)
    is_reached = np.isfinite(runs["steps_to_target"]).where(runs["steps_to_target"].notna())
    until = with_costs(runs, "steps_to_target", "seconds_to_target").assign(steps=runs["steps_to_target"])
    whole = with_costs(runs)
    reached = problems.with_results(runs.assign(_result=is_reached.astype(float)))
    found = {}
    for cost in ALL_COSTS:
        spent = until[cost.name].where(is_reached.eq(True), pd.to_numeric(whole[cost.name], errors="coerce"))
        own = problems.with_results(runs.assign(_result=spent.where(is_reached.notna())))
        found[cost.name] = {key: CostSearch(search, reached[key]) for key, search in own.items()}
    return found


def scores(problems: Problems, found: dict[str, dict[Key, CostSearch]], repetitions: int) -> pd.DataFrame:
    """AlgoPerf's score and the mean rank by every cost, over the problems that have a target, of methods tried on all."""
    tables = []
    for cost, own in found.items():
        complete = _complete(problems, own)
        if len(complete) > 1:
            tables.append(scores_of_winners(complete, repetitions=repetitions, shared_trials=True).assign(cost=cost))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True).rename(columns={"method": "optimizer"})
    return table[["cost", *table.columns.drop("cost")]]


def _complete(problems: Problems, own: dict[Key, CostSearch]) -> dict[str, list[CostSearch]]:
    """The searches of the methods that were tried on every problem and whose costs are known there."""
    keys = [key for key in problems.common if any(name[1:] == key for name in own)]
    known = {name for name, each in own.items() if np.isfinite(each.costs.results).any()}
    # Without a winner there is no cost, which is the answer; without FLOPs of a run there is none, which is no answer.
    known |= {name for name, each in own.items() if not winner(each.costs)}
    methods = [name for name in problems.everywhere if all((name, *key) in known for key in keys)]
    return {name: [own[name, *key] for key in keys] for name in methods} if keys else {}


def score_notes(problems: Problems, values: dict[str, dict[Key, float]], table: pd.DataFrame) -> list[str]:
    """The targets, and the best score by each cost."""
    if table.empty:
        return []
    notes = [
        "A target is the median validation loss at the end of AdamW over the seeds that report, at its defaults and tuned, on "
        f"each problem: {'; '.join(f'{in_words(key)} {value:.4g}' for key, value in values[DEFAULTS].items())} (defaults). A "
        "method reaches it if at least half of these seeds of its winner do; AlgoPerf's score is the mean height of its profile "
        f"up to {R_MAX:g} times the least cost."
    ]
    for (target, cost), rows in table.groupby(["target", "cost"], sort=False):
        first = rows.iloc[0]
        bounds = "" if math.isnan(first["low"]) else f" [{first['low']:.2f}, {first['high']:.2f}]"
        notes.append(
            f"By {in_sentence(str(cost))} to {WORDS[str(target)]} {method(first['optimizer'])} has the best score, "
            f"{first['score']:.2f}{bounds}; it reaches {first['solved']} of {len(values[str(target)])} targets."
        )
    return notes


def costs_of_best(problems: Problems, tuned: pd.DataFrame) -> pd.DataFrame:
    """`RESULT` of the best trial of each method and the costs of a whole run of it, means over the seeds that report."""
    done = with_costs(problems.reported(tuned[tuned["status"] == "done"]))
    return done.groupby(CELL, sort=False)[[RESULT, "steps", *(cost.name for cost in COSTS)]].mean().reset_index()


def missing_costs(tuned: pd.DataFrame) -> list[str]:
    """A sentence for each cost that some of the runs lack."""
    return missing(with_costs(tuned[tuned["status"] == "done"]))


# ---- charts -------------------------------------------------------------------------------------------------------------


def score_chart(table: pd.DataFrame, order: Sequence[str]) -> Chart:
    """AlgoPerf's scores by each cost to the loss of AdamW at its defaults."""
    series = []
    rows = table[table["target"] == DEFAULTS] if len(table) else table
    for cost in ALL_COSTS if len(rows) else ():
        own = rows[rows["cost"] == cost.name].set_index("optimizer")
        own = own.reindex([name for name in order if name in own.index]).reset_index()
        if len(own):
            series.append(
                Series(
                    label="score", x=own["optimizer"].map(method), y=own["score"], kind="points", low=own["low"],
                    high=own["high"], panel=cost.label,
                )
            )  # fmt: skip
    return Chart(
        name="scores",
        title="AlgoPerf's score by steps, FLOPs, seconds and bytes",
        caption="By the cost to the validation loss of AdamW at its defaults; methods in the order of their mean ranks. Bars: "
        "95 % intervals for new searches, and from six problems on for other problems.",
        y_label="Score",
        horizontal=True,
        series=series,
    )


def profile_chart(problems: Problems, found: dict[str, dict[Key, CostSearch]], shown: Sequence[str]) -> Chart:
    """The share of problems that each of the ``shown`` methods solves within a factor of the least cost."""
    series, factors = [], np.linspace(1, R_MAX, 61)
    for cost in ALL_COSTS if found else ():
        complete = _complete(problems, found[cost.name])
        if len(complete) < 2:
            continue
        table = ratios(observed_costs(complete))
        for name in [name for name in shown if name in table.index]:
            share = (table.loc[name].to_numpy()[:, None] <= factors).mean(0)
            series.append(Series(label=method(name), x=factors, y=share, kind="curve", panel=cost.label))
    return Chart(
        name="profiles",
        title="Performance profiles",
        caption="The share of problems on which the winner reaches the validation loss of AdamW at its defaults within that "
        f"factor of the least cost of all methods; the {len(shown)} methods with the best ranks.",
        x_label="Factor of the least cost",
        y_label="Share of problems",
        percent_y=True,
        series=series,
    )
