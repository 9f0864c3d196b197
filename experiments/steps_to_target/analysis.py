"""Steps to a validation target against batch size: regimes, the critical batch size, and their dependence on the target."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from target_costs import costs_chart, costs_to_target

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.laws.critical_batch import CriticalBatchIntervals, critical_batch, local_slopes
from optbench.analysis.names import method
from optbench.analysis.statistics.algoperf import score_intervals
from optbench.analysis.statistics.costs import missing, with_costs
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.selection import select
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.statistics.targets import TIMES, times_to_target
from optbench.analysis.study import Study
from optbench.store.measured import higher_is_better

QUESTION = (
    "Up to which batch size does doubling the batch halve the steps to a target, and for which optimizer is it largest?"
)
STEPS = "steps_to_target"
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
    """S_min and B_c of every optimizer at three targets, the regimes between batch sizes, and the gradient noise scale."""
    runs = seeds_only(study.runs, [*CELL, "trial"])
    goals = runs.get("config.budget.target", pd.Series(dtype=float)).dropna()
    if goals.empty or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    metric = str(runs["config.budget.target_metric"].dropna().iloc[0])
    targets = [_relaxed(float(goals.iloc[0]), factor, higher_is_better(metric)) for factor in RELAXATIONS]
    history = study.histories(["event", metric, *TIMES.values()])
    timed = {target: times_to_target(runs, history, target, metric) for target in targets}
    tuned = {target: _tuned(table) for target, table in timed.items()}
    steps = {target: _steps(table) for target, table in tuned.items()}
    fits = {target: _fits(found) for target, found in steps.items()}
    first = targets[0]
    table, noise = _table(fits), _noise(study)
    regimes = _regimes(steps[first])
    scatter, sensitivity = (
        _steps_chart(steps[first], fits[first], noise, f"{metric} {first:g}"),
        _sensitivity_chart(table),
    )
    best = tuned[first].drop(columns="values")
    tables = {"tuned_steps": best, "critical_batch": table, "regimes": regimes, "noise_scale": noise}
    priced = with_costs(timed[first], STEPS, "seconds_to_target")
    tables["costs"] = costs = costs_to_target(priced, best, CELL)
    tables["algoperf"] = scores = _scores(steps[first])
    kept = {name: frame for name, frame in tables.items() if len(frame)}
    charts = [chart for chart in (scatter, sensitivity, costs_chart(costs)) if chart.series]
    return Findings(
        QUESTION,
        _answer(table, first, metric),
        charts,
        kept,
        [*_notes(best, table, regimes, noise, targets), *_of_scores(scores), *missing(priced)],
    )


def _relaxed(target: float, factor: float, higher: bool) -> float:
    return round(1 - (1 - target) * factor if higher else target * factor, 6)


def _tuned(runs: pd.DataFrame) -> pd.DataFrame:
    """The trial with the smallest median of steps for every optimizer and batch; values: its steps, one for each seed.

    If no trial has reached the target in the median, the steps are infinity for each ended run; NaN if none has ended.
    """
    best = select(runs, CELL, STEPS, [STEPS], center="median")
    times: list[np.ndarray] = []
    for _, row in best.iterrows():
        here = runs[(runs["optimizer"] == row["optimizer"]) & (runs["batch"] == row["batch"]) & runs[STEPS].notna()]
        values = here[here["trial"] == row["trial"]][STEPS].to_numpy(float)
        times.append(values if len(values) else np.full(min(1, len(here)), math.inf))
    reached = [bool(len(values) and np.isfinite(np.median(values))) for values in times]
    return best.assign(values=pd.Series(times, index=best.index, dtype=object), reached=reached)


def _steps(tuned: pd.DataFrame) -> dict[str, dict[float, np.ndarray]]:
    """For every optimizer, the steps at every batch at which a run has ended."""
    return {
        str(name): {float(row["batch"]): row["values"] for _, row in rows.iterrows() if len(row["values"])}
        for name, rows in tuned.groupby("optimizer")
    }


def _fits(steps: dict[str, dict[float, np.ndarray]]) -> dict[str, CriticalBatchIntervals]:
    fits = {}
    for optimizer, own in steps.items():
        if sum(math.isfinite(np.median(values)) for values in own.values()) < 3:
            continue  # two parameters always fit two points
        fit = critical_batch(own, repetitions=REPETITIONS)
        if max(map(len, own.values())) < 2:  # a bootstrap of single runs has no width
            unknown = {"low": math.nan, "high": math.nan}
            fit = replace(fit, steps_min=replace(fit.steps_min, **unknown), batch=replace(fit.batch, **unknown))
        fits[optimizer] = fit
    return fits


def _table(fits: dict[float, dict[str, CriticalBatchIntervals]]) -> pd.DataFrame:
    rows = []
    for target, found in fits.items():
        for optimizer, fit in found.items():
            row: dict[str, object] = {"target": target, "optimizer": optimizer}
            for name, interval in (("critical_batch", fit.batch), ("steps_min", fit.steps_min)):
                row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row |= {"residual": fit.fit.residual, "limit": fit.fit.limit, "batches": len(fit.batches)}
            rows.append(row | {"not_reached": ", ".join(f"{batch:g}" for batch in fit.not_reached)})
    return pd.DataFrame(rows)


def _regimes(steps: dict[str, dict[float, np.ndarray]]) -> pd.DataFrame:
    tables = []
    for optimizer, own in steps.items():
        slopes = local_slopes(np.array(list(own)), np.array([np.median(values) for values in own.values()]))
        slopes.insert(0, "optimizer", optimizer)
        tables.append(slopes)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _scores(steps: dict[str, dict[float, np.ndarray]]) -> pd.DataFrame:
    """AlgoPerf's score of every optimizer; each batch size at which all have ended is a workload. None for one optimizer."""
    common = sorted(set.intersection(*map(set, steps.values()))) if steps else []
    if len(steps) < 2 or not common:
        return pd.DataFrame()
    found = score_intervals(
        {name: [own[batch] for batch in common] for name, own in steps.items()}, repetitions=REPETITIONS
    )
    one_seed = max(len(own[batch]) for own in steps.values() for batch in common) < 2
    rows = []
    for name, score in sorted(found.items(), key=lambda pair: -pair[1].estimate):
        low, high = (math.nan, math.nan) if one_seed else (score.low, score.high)
        rows.append({"optimizer": name, "score": score.estimate, "low": low, "high": high, "batch_sizes": len(common)})
    return pd.DataFrame(rows)


def _of_scores(scores: pd.DataFrame) -> list[str]:
    if scores.empty:
        return []
    each = ", ".join(
        f"{row['optimizer']} {Interval(row['score'], row['low'], row['high']):.2f}" for _, row in scores.iterrows()
    )
    return [
        f"AlgoPerf's score in steps, with the batch sizes as workloads, is {each}: the mean share of batch sizes at which the "
        "optimizer takes no more than τ times the steps of the fastest, for τ from 1 to 4. It depends on which optimizers "
        "take part."
    ]


def _noise(study: Study) -> pd.DataFrame:
    """The gradient noise scale at the end of the runs that measured it."""
    rows = []
    for _, run in study.runs[study.runs["status"] == "done"].iterrows():
        if measured := study.measurements(run["run_id"], "noise_scale"):
            row = {"optimizer": run["optimizer"], "batch": run["batch"], "seed": run["seed"], "step": measured[-1].step}
            rows.append(row | {"noise_scale": float(measured[-1].values.get("simple") or math.nan)})
    return pd.DataFrame(rows).dropna(subset="noise_scale") if rows else pd.DataFrame()


# ---- charts -------------------------------------------------------------------------------------------------------------


def _steps_chart(
    steps: dict[str, dict[float, np.ndarray]], fits: dict[str, CriticalBatchIntervals], noise: pd.DataFrame, target: str
) -> Chart:
    series, lines = [], []
    for optimizer, own in steps.items():
        reached = {batch: values for batch, values in sorted(own.items()) if math.isfinite(np.median(values))}
        if not reached:
            continue
        medians = [float(np.median(values)) for values in reached.values()]
        low, high = [v.min() for v in reached.values()], [v[np.isfinite(v)].max() for v in reached.values()]
        series.append(
            Series(
                label="measured", x=list(reached), y=medians, panel=method(optimizer), kind="points", low=low, high=high
            )
        )
        sizes = np.geomspace(min(reached), max(reached), 40)
        perfect = medians[0] * min(reached) / sizes
        series.append(Series(label="perfect scaling", x=sizes, y=perfect, panel=method(optimizer), kind="reference"))
        if optimizer in fits:
            fitted = fits[optimizer].fit(sizes)
            series.append(
                Series(label="S_min (1 + B_c / B)", x=sizes, y=fitted, panel=method(optimizer), kind="reference")
            )
        if len(noise) and optimizer in set(noise["optimizer"]):
            scale = float(noise[noise["optimizer"] == optimizer]["noise_scale"].median())
            lines.append(Reference(scale, "gradient noise scale (median of runs)", axis="x", panel=method(optimizer)))
    return Chart(
        name="steps_to_target",
        title=f"Steps to {target.replace('_', ' ')} against batch size",
        caption="The best trial at every batch: median over seeds, bars from the least to the largest that reached it.",
        x_label="Batch size (examples)",
        y_label="Steps",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
        references=lines,
    )


def _sensitivity_chart(table: pd.DataFrame) -> Chart:
    series = []
    if len(table):
        for optimizer, rows in table[table["limit"] == ""].groupby("optimizer"):
            series.append(
                Series(
                    label=method(str(optimizer)),
                    x=rows["target"],
                    y=rows["critical_batch"],
                    low=rows["critical_batch_low"],
                    high=rows["critical_batch_high"],
                )
            )
    return Chart(
        name="sensitivity",
        title="The critical batch size against the target",
        caption="The target and two easier ones, from the same runs; bars are 95 % bootstrap intervals over seeds.",
        x_label="Target",
        y_label="B_c (examples)",
        log_y=True,
        ticks_at_x=True,
        series=series,
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _text(row: pd.Series, name: str) -> str:
    bound = (
        {"perfect scaling": "at least ", "no scaling": "at most "}.get(row["limit"], "")
        if name == "critical_batch"
        else ""
    )
    return f"{bound}{Interval(row[name], row[f'{name}_low'], row[f'{name}_high']):.3g}"


def _answer(table: pd.DataFrame, target: float, metric: str) -> str:
    rows = table[table["target"] == target] if len(table) else table
    if rows.empty:
        return "Not enough runs for a critical batch size: no optimizer has reached the target at three batch sizes."
    ordered = rows.sort_values("critical_batch", ascending=False)
    each = ", ".join(f"{_text(row, 'critical_batch')} for {row['optimizer']}" for _, row in ordered.iterrows())
    words = f"To a {metric.replace('_', ' ')} of {target:g}, the critical batch size in examples is {each}"
    tied = [
        row["optimizer"]
        for _, row in ordered[1:].iterrows()
        if row["critical_batch_high"] >= ordered.iloc[0]["critical_batch_low"]
    ]
    return f"{words}; not told apart from the largest by their intervals: {', '.join(tied)}." if tied else f"{words}."


def _notes(
    best: pd.DataFrame, table: pd.DataFrame, regimes: pd.DataFrame, noise: pd.DataFrame, targets: Sequence[float]
) -> list[str]:
    notes = [
        "Intervals are 95 % bootstrap intervals over seeds, which cover less than that with a handful of them, and none with one."
    ]
    lost = best[~best["reached"] & (best["done"] + best["diverged"] > 0)]
    where = ", ".join(f"{row['optimizer']} at batch {row['batch']}" for _, row in lost.iterrows())
    notes.append(
        f"No trial reached the target at {len(lost)} of {len(best)} points" + (f": {where}." if where else ".")
    )
    missing = best[(best["done"] + best["diverged"]) == 0]
    if len(missing):
        notes.append(f"{len(missing)} of {len(best)} points have no run that has ended.")
    if len(table):
        order = {t: list(rows.sort_values("critical_batch")["optimizer"]) for t, rows in table.groupby("target")}
        complete = [order[target] for target in targets if target in order]
        same = (
            "the same"
            if len(complete) == len(targets) and all(each == complete[0] for each in complete)
            else "not the same"
        )
        notes.append(
            f"The order of the optimizers by critical batch size is {same} at the targets {', '.join(f'{t:g}' for t in targets)}."
        )
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
