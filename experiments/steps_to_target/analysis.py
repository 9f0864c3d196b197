"""Steps to a validation target against batch size: regimes, the critical batch size, and K-FAC's advantage in steps."""

from collections.abc import Mapping
from functools import partial

import pandas as pd
from target_charts import (
    advantage_chart,
    noise_chart,
    rates_chart,
    sensitivity_chart,
    steps_chart,
    survival_chart,
)
from target_claims import claims
from target_costs import costs_chart, costs_to_target
from target_tables import (
    Curves,
    advantages,
    chosen_rates,
    critical_batch_ratios,
    critical_batch_table,
    critical_batches,
    regimes_of,
    survival_table,
)
from target_words import answer, hanging, notes

from optbench.analysis.claim_outcomes import steady, without_each_seed
from optbench.analysis.claims import Claim
from optbench.analysis.findings import Findings
from optbench.analysis.laws.critical_batch import CriticalBatchIntervals
from optbench.analysis.laws.noise_scales import noise_scales
from optbench.analysis.laws.time_curves import RATE, horizons_of, time_curves
from optbench.analysis.statistics.costs import missing, with_costs
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.statistics.targets import TIMES, times_to_target
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better

QUESTION = "Up to which batch size does a larger batch save steps to a target, and does K-FAC's advantage in steps grow with it?"
#: The factors by which the error, or loss, of easier targets is larger.
RELAXATIONS = (1.0, 1.1, 1.25)
CELL = ["optimizer", "batch"]
#: The columns of the times from which costs to the target are made.
TIMED = ("steps_to_target", "seconds_to_target")


def analyse(study: Study) -> Findings:
    """The steps at each batch's own best rate, S_min and B_c at three targets, the regimes, and K-FAC's advantage."""
    runs = seeds_only(study.runs, [*CELL, RATE])
    goals = runs.get("config.budget.target", pd.Series(dtype=float)).dropna()
    if goals.empty or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    metric = str(runs["config.budget.target_metric"].dropna().iloc[0])
    targets = [_relaxed(float(goals.iloc[0]), factor, higher_is_better(metric)) for factor in RELAXATIONS]
    first = targets[0]
    history = study.histories(["event", metric, *TIMES.values()])
    horizons = horizons_of(study, history)
    timed = {target: times_to_target(runs, history, target, metric) for target in targets}
    curves = {target: time_curves(study, table, horizons) for target, table in timed.items()}
    found = curves[first]
    if not found:
        return Findings(QUESTION, f"Not enough runs for an answer: none has reached {metric} {first:g}.")
    fits = {target: critical_batches(own) for target, own in curves.items()}
    noise = noise_scales(study, study.runs[study.runs["status"] == "done"])
    noise = noise.assign(samples=noise["step"] * noise["batch"])
    of_claims = _tables_of_claims(found, fits, noise)
    of_all = claims(runs, of_claims, first)
    claims_without = partial(_claims_without, study, timed[first], horizons, noise, first)
    without = without_each_seed(study.name, study.seeds, claims_without)
    tables = {
        "chosen_rates": chosen_rates(found),
        **of_claims,
        "survival": survival_table(found),
        "costs": costs_to_target(found),
        "without_a_seed": without,
    }
    charts = [
        steps_chart(found, fits[first], f"{metric} {first:g}"),
        advantage_chart(tables["advantage"]),
        rates_chart(tables["chosen_rates"], found),
        survival_chart(found),
        noise_chart(tables["noise_scale"], fits[first]),
        sensitivity_chart(tables["critical_batch"]),
        costs_chart(tables["costs"]),
    ]
    kept = steady(of_all, without)
    return Findings(
        QUESTION,
        answer(tables, first, metric),
        [chart for chart in charts if chart.series],
        {name: frame for name, frame in tables.items() if len(frame)},
        [*notes(tables, targets, found, study), *hanging(of_all, kept), *missing(with_costs(timed[first], *TIMED))],
        claims=kept,
    )


def _tables_of_claims(
    found: Curves, fits: Mapping[float, Mapping[str, CriticalBatchIntervals]], noise: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The tables that the claims follow from; ``fits``: those of the target come first."""
    return {
        "critical_batch": critical_batch_table(fits),
        "critical_batch_ratios": critical_batch_ratios(found, next(iter(fits.values()))),
        "advantage": advantages(found),
        "regimes": regimes_of(found),
        "noise_scale": noise,
    }


def _claims_without(
    study: Study, timed: pd.DataFrame, horizons: Mapping[float, float], noise: pd.DataFrame, target: float, seed: int
) -> list[Claim]:
    """The claims about the runs without a seed."""
    others = timed[timed["seed"] != seed]
    curves = time_curves(study, others, horizons)
    scales = noise[noise["seed"] != seed] if len(noise) else noise
    return claims(others, _tables_of_claims(curves, {target: critical_batches(curves)}, scales), target)


def _relaxed(target: float, factor: float, higher: bool) -> float:
    return round(1 - (1 - target) * factor if higher else target * factor, 6)
