"""The law by which the best learning rate grows with the batch, its bend, and the cost of each scaling rule."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scaling_charts import curves_chart, exponents_chart, optima_chart
from transfer import LOSS_ALLOWED, reaches, transfer_chart, transfer_costs

from optbench.analysis.claim_outcomes import BEST_RATE, effect, holds, not_tested, place
from optbench.analysis.claims import Claim
from optbench.analysis.findings import Findings
from optbench.analysis.laws.batch_hessians import predicted_exponents, top_eigenvalues
from optbench.analysis.laws.broken_power_law import ScalingLaw, law
from optbench.analysis.laws.loss_curves import LossCurves, loss_curves
from optbench.analysis.laws.noise_scales import noise_scales
from optbench.analysis.laws.optima import HIGHEST, LOWEST
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study

QUESTION = "How does the best learning rate grow with the batch, up to which batch, and what does a scaling rule cost?"
METRIC, RATE = "validation_loss", "base_learning_rate"
REPETITIONS = 2000
#: The exponents that papers derive or recommend, by optimizer.
PAPERS = (
    (
        "The learning rate of momentum SGD grows linearly with the batch.",
        "Goyal et al. 2017, section 2.1",
        "momentum",
        1.0,
    ),
    ("It grows with the square root of the batch.", "Krizhevsky 2014", "momentum", 0.5),
    ("The learning rate of SGD grows linearly with the batch.", "Goyal et al. 2017, section 2.1", "sgd", 1.0),
    ("The learning rate of Adam grows with the square root.", "Malladi et al. 2022", "adam", 0.5),
    ("The learning rate of RMSprop grows with the square root.", "Malladi et al. 2022", "rmsprop", 0.5),
    ("The learning rate of LAMB grows with the square root.", "You et al. 2020", "lamb", 0.5),
)


def analyse(study: Study) -> Findings:
    """The laws of all optimizers, from the whole grid or from what a search found of it, and the costs of transfer."""
    runs = study.runs
    if METRIC not in runs or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    curves = loss_curves(study, METRIC, RATE)
    laws = {name: law(own.vertices(), repetitions=REPETITIONS) for name, own in curves.items() if len(own.batches) > 1}
    optima = pd.concat([_optima(name, own) for name, own in curves.items()], ignore_index=True)
    others = _without_each_seed(study)
    leave_outs = _leave_outs(others)
    table = pd.DataFrame([_law(name, laws[name], others[name], curves[name]) for name in laws])
    transfer = transfer_costs(curves)
    reach = reaches(transfer)
    tops = top_eigenvalues(study)
    predicted = predicted_exponents(tops, laws)
    noise = noise_scales(study, runs)
    charts = [
        exponents_chart(table, predicted),
        optima_chart(optima, laws, noise),
        curves_chart(curves),
        transfer_chart(transfer),
    ]
    tables = {
        "laws": table,
        "without_a_seed": leave_outs,
        "optima": optima,
        "transfer": transfer,
        "reach": reach,
        "predicted_exponents": predicted,
        "batch_hessians": tops,
        "noise_scale": noise,
    }
    kept = {name: frame for name, frame in tables.items() if len(frame)}
    notes = _notes(table, optima, reach, predicted, noise)
    charts = [chart for chart in charts if chart.series]
    found = claims(runs, table, leave_outs)
    answer = f"{_verdict(found)}{_answer(table, optima, study)}"
    return Findings(QUESTION, answer, charts, kept, notes, claims=found)


def _optima(optimizer: str, curves: LossCurves) -> pd.DataFrame:
    """The best rate of every batch, and how often its loss is the least of all batches."""
    found = curves.optima
    rows = []
    for b, batch in enumerate(curves.batches):
        best = curves.best_rate(b)
        beyond = [float((found.borders[:, b] == side).mean()) for side in (LOWEST, HIGHEST)]
        rows.append({
            "optimizer": optimizer,
            "batch": int(batch),
            "rate": best.estimate,
            "low": best.low,
            "high": best.high,
            "loss": float(np.nanmedian(found.losses[:, b])),
            "beyond_lowest": beyond[0],
            "beyond_highest": beyond[1],
            "runs": int(curves.runs[b]),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table["times_least"] = table["loss"] / table["loss"].min()
    return table


def _without_each_seed(study: Study) -> dict[str, dict[int, ScalingLaw]]:
    """By optimizer and seed: the law that is found without the runs of the seed."""
    found: dict[str, dict[int, ScalingLaw]] = defaultdict(dict)
    seeds = study.seeds
    for seed in seeds if len(seeds) > 2 else ():
        for name, own in loss_curves(study, METRIC, RATE, without_seed=seed).items():
            if len(own.batches) > 1:
                found[name][seed] = law(own.vertices(), repetitions=min(REPETITIONS, 500))
    return found


def _leave_outs(laws: Mapping[str, Mapping[int, ScalingLaw]]) -> pd.DataFrame:
    """The local slopes and the bends of `_without_each_seed`, a row for each optimizer and seed."""
    rows = [
        {
            "optimizer": name,
            "without_seed": seed,
            "exponent": each.slope.estimate,
            "low": each.slope.low,
            "high": each.slope.high,
            "batches": len(each.slopes[0].batches),
            "bend": each.bend.estimate,
            "bent": each.is_bent,
        }
        for name, own in laws.items()
        for seed, each in own.items()
    ]
    return pd.DataFrame(rows)


def _law(optimizer: str, found: ScalingLaw, others: Mapping[int, ScalingLaw], curves: LossCurves) -> dict[str, object]:
    """A row: the local slope that counts, the slopes at other qualities, the bend, and what is left of them without a seed."""
    first = found.slopes[0]
    row: dict[str, object] = {"optimizer": optimizer}
    row |= {"exponent": first.slope.estimate, "low": first.slope.low, "high": first.slope.high}
    row |= {
        "smallest_batch": min(first.batches, default=math.nan),
        "largest_batch": max(first.batches, default=math.nan),
    }
    row |= {"batches": len(first.batches), "runs": int(curves.runs.sum()), "cells": curves.cells}
    for other in found.slopes[1:]:
        row[f"exponent_within_{other.within:.0%}".replace("%", "")] = other.slope.estimate
    pieces = {"bend": found.bend, "slope_before": found.slope_before, "slope_after": found.slope_after}
    pieces |= {"change": found.change}
    for name, interval in {**pieces, "plateau": found.plateau}.items():
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    slopes = [each.slope.estimate for each in others.values()]
    row |= {"least_without_a_seed": min(slopes, default=math.nan), "most_without_a_seed": max(slopes, default=math.nan)}
    bent = found.is_bent and all(each.is_bent for each in others.values())
    return row | {"p_bend": found.p_bend, "bent": bent, "residual_octaves": found.residual}


def claims(runs: pd.DataFrame, table: pd.DataFrame, leave_outs: pd.DataFrame) -> list[Claim]:
    """An interval that holds the exponent of a paper and not that of the other rule agrees with the paper.

    A claim that changes without the runs of one seed is undecided.
    """
    found = []
    here = place(runs)
    for words, source, optimizer, power in PAPERS:
        rows = table[(table["optimizer"] == optimizer) & table["low"].notna()] if len(table) else table
        if rows.empty:
            found.append(not_tested(words, source, method=optimizer, **here))
            continue
        row = rows.iloc[0]
        without = leave_outs[leave_outs["optimizer"] == optimizer] if len(leave_outs) else leave_outs
        intervals = [(row["low"], row["high"]), *zip(without.get("low", ()), without.get("high", ()), strict=True)]
        outcomes = {holds(*bounds, power, 1.5 - power) for bounds in intervals}
        found.append(
            Claim(
                claim=words,
                source=source,
                outcome=outcomes.pop() if len(outcomes) == 1 else "undecided",
                quantity=BEST_RATE,
                unit="exponent",
                estimand="S",
                **effect(row["exponent"], row["low"], row["high"]),
                method=optimizer,
                runs=row["runs"],
                matched_by="epochs",
                **here,
            )
        )
    return found


# ---- words --------------------------------------------------------------------------------------------------------------


def _interval(row: pd.Series, name: str, digits: str) -> str:
    low, high = ("low", "high") if name == "exponent" else (f"{name}_low", f"{name}_high")
    return f"{Interval(row[name], row[low], row[high]):{digits}}"


def _verdict(found: Sequence[Claim]) -> str:
    """A sentence with the outcomes of the claims that were tested, and a space; empty if there are none."""
    tested = Counter(claim.outcome for claim in found if claim.outcome != "not tested")
    if not tested:
        return ""
    outcomes = ", ".join(f"{outcome} {tested[outcome]}" for outcome in ("agrees", "disagrees", "undecided"))
    return f"Claims of papers about the linear and the square-root rule: {outcomes}. "


def _answer(table: pd.DataFrame, optima: pd.DataFrame, study: Study) -> str:
    known = table[table["exponent"].notna() & (table["batches"] > 1)] if len(table) else table
    if known.empty:
        sizes = ", ".join(str(batch) for batch in sorted(optima["batch"].unique()))
        return (
            "Not enough runs for an exponent, which takes two batch sizes at which the best rate lies inside its grid. "
            f"The runs have the batch sizes {sizes}. The command "
            f"python -m optbench -m experiment={study.name} scale=laptop trains at nine."
        )
    parts = []
    for _, row in known.sort_values("exponent").iterrows():
        reach = f"from batch {row['smallest_batch']:.0f} to {row['largest_batch']:.0f}"
        words = f"{method(row['optimizer'])} as batch^{_interval(row, 'exponent', '.2f')} {reach}"
        if row["bent"]:
            words += f", with a bend at batch {_interval(row, 'bend', '.0f')}"
        parts.append(words)
    held = [(_holding(known, value), name) for value, name in ((1.0, "linear"), (0.5, "square-root"))]
    rules = "; ".join(f"the {name} rule is compatible with {who}" for who, name in held)
    return (
        f"Where training comes within 5 % of the best loss, the best learning rate grows: {'; '.join(parts)}. "
        f"By these intervals {rules}."
    )


def _holding(rows: pd.DataFrame, value: float) -> str:
    holds = rows[(rows["low"] <= value) & (value <= rows["high"])]
    return ", ".join(method(name) for name in holds["optimizer"]) or "none of them"


def _notes(
    table: pd.DataFrame, optima: pd.DataFrame, reach: pd.DataFrame, predicted: pd.DataFrame, noise: pd.DataFrame
) -> Sequence[str]:
    notes = [
        "An exponent is the local slope over the batch sizes whose best loss is within 5 % of the least. Its 95 % interval is "
        "the union of that over seeds (and over the cells that a search did not train) and of that of the regression over batch "
        "sizes; below four batch sizes the scatter around a law is not known, and there is no interval."
    ]
    for _, row in table.iterrows():
        if math.isfinite(row["bend"]):
            told = "is told from a line" if row["bent"] else "is not told from a line"
            notes.append(
                f"{method(row['optimizer'])}: a bend at batch {_interval(row, 'bend', '.0f')} {told}: over draws the slope falls "
                f"by {_interval(row, 'change', '.2f')}, and p = {row['p_bend']:.3f} by the scatter alone. It is "
                f"{_interval(row, 'slope_before', '.2f')} before and {_interval(row, 'slope_after', '.2f')} after it. Slopes "
                f"within 3 % and 10 % of the least loss are {row['exponent_within_3']:.2f} and {row['exponent_within_10']:.2f}."
            )
    notes += _reach_notes(reach)
    hang = [row for _, row in table.iterrows() if math.isfinite(row["least_without_a_seed"])]
    if hang:
        each = ", ".join(
            f"{method(row['optimizer'])} {row['least_without_a_seed']:.2f} to {row['most_without_a_seed']:.2f}"
            for row in hang
        )
        notes.append(
            f"Without the runs of one seed, the exponents are: {each}. A claim or a bend that is not told without one of the "
            "seeds counts as undecided."
        )
    for step, rows in predicted.groupby("step"):
        each = ", ".join(f"{method(row['optimizer'])} {row['exponent']:.2f}" for _, row in rows.iterrows())
        notes.append(
            f"The batch Hessian at step {step} predicts that the largest stable rate grows with the exponents {each} between the "
            f"batches {rows['smallest_batch'].min()} and {rows['largest_batch'].max()}."
        )
    if len(noise):
        scales = noise["noise_scale"]
        notes.append(
            f"The gradient noise scale is {scales.median():.0f} examples (median of {len(noise)} measurements from "
            f"{scales.min():.0f} to {scales.max():.0f}), where a linear law is predicted to bend."
        )
    ends = optima[(optima["beyond_lowest"] > 0.5) | (optima["beyond_highest"] > 0.5)]
    if len(ends):
        cells = ", ".join(f"{method(row['optimizer'])} at batch {row['batch']}" for _, row in ends.iterrows())
        notes.append(f"The best rate is an end of the grid, and only a bound: {cells}.")
    return notes


def _reach_notes(reach: pd.DataFrame) -> list[str]:
    """A sentence for each rule: the batch sizes up to which it carries the rate over without loss."""
    notes = []
    for rule, rows in reach.groupby("rule", sort=False) if len(reach) else ():
        scaled = rule if rule == "no scaling" else f"{rule} scaling"
        each = ", ".join(
            f"{method(row['optimizer'])} {row['batch']:.0f} ({row['surely']:.0f})" for _, row in rows.iterrows()
        )
        notes.append(
            f"The rate of the smallest batch, carried over with {scaled}, costs at most {100 * LOSS_ALLOWED:g} % of "
            f"the validation loss up to batch: {each}. In brackets: up to which the whole interval of the cost lies below."
        )
    return notes
