"""Rates on non-convex problems: oracle calls to the minimum, measured rates beside theory, and descent without gradients."""

import math

import numpy as np
import pandas as pd
from measured_rates import PL_CONSTANT, SMOOTHNESS, bounds, local_factors, noisy, slope_of
from measured_rates import TOLERANCE as FACTOR_TOLERANCE
from oracle_cells import RIDGE, prepared, table
from rate_charts import calls_chart, dimension_chart, factor_chart, flow_chart, noise_chart
from rates_claims import FLAT, claims
from without_gradients import TOLERANCE, exponents, paths, ratios, times

from optbench.analysis.findings import Findings
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study

QUESTION = (
    "How many oracle calls do methods need on non-convex problems with known answers, and do stated rates hold on them?"
)


def analyse(study: Study) -> Findings:
    """Calls of every method on every problem, factors and bounds, SGD across lengths, and zeroth order beside gradient flow."""
    ended = study.runs[study.runs["status"].isin(["done", "diverged"])]
    if not (ended["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    history = study.histories(["event", "step", "loss", "validation_loss", "train_loss"])
    functions = ended[ended["dataset"] != "digits"]
    lattice = prepared(functions) if len(functions) else functions
    calls = table(lattice, history) if len(lattice) else pd.DataFrame()
    factors = local_factors(lattice, history) if len(lattice) else pd.DataFrame()
    kept, noise = (find(functions, history) if len(functions) else pd.DataFrame() for find in (bounds, noisy))
    path = paths(ended, history)
    found = times(path)
    share, across, grown = ratios(found), slope_of(noise), exponents(found)
    tables = {
        "oracle_calls": calls,
        "local_factors": summary_of(factors),
        "bounds_along_descent": kept,
        "sgd_across_lengths": noise,
        "sums_of_step_sizes": share,
    }
    charts = [calls_chart(calls), factor_chart(factors), noise_chart(noise), flow_chart(path), dimension_chart(share)]
    return Findings(
        QUESTION,
        _answer(calls, factors, across),
        [chart for chart in charts if chart.series],
        {name: frame for name, frame in tables.items() if len(frame)},
        [*_of_calls(calls), *_of_rates(factors, kept, noise, across), *_of_dimension(share, grown)],
        claims=claims(ended, calls, factors, kept, across, share, grown),
    )


def summary_of(factors: pd.DataFrame) -> pd.DataFrame:
    """One row for each problem, method and step size: the predicted factor, the median measured one and ratio, and runs."""
    if factors.empty:
        return factors
    groups = factors.groupby(["problem", "optimizer", "step_size"], sort=False)
    return groups.agg(
        predicted=("predicted", "median"),
        measured=("measured", "median"),
        ratio=("ratio", "median"),
        runs=("seed", "size"),
    ).reset_index()


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(calls: pd.DataFrame, factors: pd.DataFrame, across: Interval | None) -> str:
    if calls.empty:
        return "Not enough runs for an answer: none on a problem with a target has ended."
    own = calls[calls["problem"] != RIDGE]
    problems = own["problem"].nunique()
    arrived = own[own["arrived"] == own["seeds"]].groupby("optimizer")["problem"].nunique()
    counts = ", ".join(f"{method(name)} {int(arrived.get(name, 0))}" for name in own["optimizer"].unique())
    words = f"With all seeds at f - f* <= 1e-8, of {problems} problems: {counts}."
    if len(factors):
        words += f" Near isolated minima log factors are {_median(factors):.2f} times those of theory in the median."
    if across is not None:
        words += f" The gradient of SGD falls across lengths K as K^{across:.3f}; the bound has the exponent -0.25."
    return words


def _median(factors: pd.DataFrame) -> float:
    return float(factors["ratio"].median())


def _of_calls(calls: pd.DataFrame) -> list[str]:
    notes = []
    if calls.empty:
        return notes
    for problem, own in calls[calls["problem"] != RIDGE].groupby("problem", sort=False):
        arrived = own[np.isfinite(own["calls"])].sort_values("calls")
        late = [
            f"{method(row.optimizer)} ({row.arrived} of {row.seeds}: {row.why})"
            for row in own[own["arrived"] < own["seeds"]].itertuples()
        ]
        words = f"{problem}: "
        if len(arrived):
            fewest = [f"{method(row.optimizer)} ({row.calls:.0f})" for row in arrived[:3].itertuples()]
            words += f"fewest calls by {', '.join(fewest)}"
        else:
            words += "no method arrives"
        notes.append(f"{words}{'; not with every seed: ' + ', '.join(late) if late else ''}.")
    ridge = calls[calls["problem"] == RIDGE]
    if len(ridge):
        leaves = [method(row.optimizer) for row in ridge.itertuples() if row.arrived == row.seeds]
        others = [f"{method(row.optimizer)} {row.why}" for row in ridge.itertuples() if row.arrived < row.seeds]
        notes.append(
            f"From the ridge of the saddle point {', '.join(leaves) or 'no method'} "
            f"reach{'es' if len(leaves) == 1 else ''} a minimum{'; ' + ', '.join(others) if others else ''}."
        )
    return notes


def _of_rates(factors: pd.DataFrame, kept: pd.DataFrame, noise: pd.DataFrame, across: Interval | None) -> list[str]:
    notes = []
    for name, own in factors.groupby("optimizer", sort=False) if len(factors) else ():
        inside = (own["ratio"] - 1).abs() <= FACTOR_TOLERANCE
        agrees = "agrees" if abs(_median(own) - 1) <= FACTOR_TOLERANCE else "does not agree"
        notes.append(
            f"Local factors of {method(name)}: measured log over predicted log {_median(own):.3f} in the median of {len(own)} "
            f"runs ({own['ratio'].min():.2f} to {own['ratio'].max():.2f}), {int(inside.sum())} within {FACTOR_TOLERANCE:.0%}; "
            f"it {agrees}."
        )
    for problem, own in kept.groupby("problem", sort=False) if len(kept) else ():
        largest = max(own["share"].max(), own["gradient_share"].max())
        verdict = "no bound is exceeded" if largest <= 1 else "a bound is exceeded"
        words = (
            f"Gradient descent with 1/L on {problem}, {len(own)} starts: f is at most {own['share'].max():.2f} of its bound "
            f"after the start, and the smallest squared gradient {own['gradient_share'].max():.2f} of its own; {verdict}"
        )
        if problem == "pl_sine":
            bound = 1 - PL_CONSTANT / SMOOTHNESS[problem]
            words += f". The worst factor of a step is {own['worst_factor'].max():.4f}, the bound {bound:.4f}"
        if own["slope"].notna().any():
            flattest = own["slope"].max()
            words += (
                f". The slope of the smallest gradient in the last decade is {flattest:.1f} or steeper, the bound -0.5"
            )
        notes.append(words + ".")
    if across is not None:
        verdict = "agrees with" if across.low <= -0.25 else "is flatter than"
        notes.append(
            f"SGD with the step ½ K^-½: the slope across K is {across:.3f} over {noise['seed'].nunique()} seeds and {verdict} "
            f"the bound -0.25. Along single runs it is {noise['slope_along'].min():.2f} to {noise['slope_along'].max():.2f}."
        )
    return notes


def _of_dimension(share: pd.DataFrame, grown: dict[str, Interval]) -> list[str]:
    notes = []
    for row in share.itertuples() if len(share) else ():
        if math.isnan(row.ratio):
            notes.append(
                f"Zeroth order with c = {row.c:g} and {row.weights} weights does not reach the loss of the comparison."
            )
            continue
        arrived = "" if row.arrived == row.seeds else f" ({row.arrived} of {row.seeds} seeds arrive)"
        inside = "within" if row.ratio <= TOLERANCE and row.ratio >= 1 / TOLERANCE else "outside of"
        kind = "Softmax regression" if row.model == "logreg" else "A network"
        notes.append(
            f"{kind} with {row.weights} weights, c = {row.c:g}: the sum of step sizes without gradients is "
            f"{Interval(row.ratio, row.low, row.high):.2f} times that of gradient descent, {inside} a factor of "
            f"{TOLERANCE}{arrived}."
        )
    if grown:
        verdict = (
            "at equal sums they grow as d"
            if abs(grown["ratio"].estimate) <= FLAT
            else "at equal sums they do not grow as d"
        )
        notes.append(
            f"Over the networks the steps without gradients grow as (d + 2)^{grown['steps']:.2f}, and the ratio of the sums of "
            f"step sizes as (d + 2)^{grown['ratio']:.2f}: {verdict}."
        )
    return notes
