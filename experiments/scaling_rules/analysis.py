"""The law by which the best learning rate grows with the batch, its bend, and the cost of each scaling rule."""

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scaling_charts import curves_chart, exponents_chart, optima_chart
from scaling_words import answer, notes

from optbench.analysis.claim_outcomes import BEST_RATE, effect, holds, not_tested, place, steady
from optbench.analysis.claims import Claim
from optbench.analysis.claims import table as claims_table
from optbench.analysis.findings import Findings
from optbench.analysis.laws.batch_hessians import predicted_exponents, top_eigenvalues
from optbench.analysis.laws.broken_power_law import ScalingLaw, law
from optbench.analysis.laws.loss_curves import LossCurves, loss_curves
from optbench.analysis.laws.noise_scales import noise_scales
from optbench.analysis.laws.optima import HIGHEST, LOWEST
from optbench.analysis.laws.transfer import reaches, transfer_chart, transfer_costs
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
    charts = [chart for chart in charts if chart.series]
    found = claims(runs, table, leave_outs)
    said = notes(table, optima, reach, predicted, noise)
    return Findings(QUESTION, answer(found, table, optima, study), charts, kept, said, claims=found)


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


def claims(runs: pd.DataFrame, laws: pd.DataFrame, leave_outs: pd.DataFrame) -> list[Claim]:
    """An interval that holds the exponent of a paper and not that of the other rule agrees with the paper.

    A claim that changes without the runs of one seed is undecided.
    """
    seeds = leave_outs.groupby("without_seed") if len(leave_outs) else ()
    parts = [claims_table(_of_laws(runs, rows), "").assign(without_seed=seed) for seed, rows in seeds]
    return steady(_of_laws(runs, laws), pd.concat(parts) if parts else pd.DataFrame())


def _of_laws(runs: pd.DataFrame, laws: pd.DataFrame) -> list[Claim]:
    found = []
    here = place(runs)
    for words, source, optimizer, power in PAPERS:
        rows = laws[(laws["optimizer"] == optimizer) & laws["low"].notna()] if len(laws) else laws
        if rows.empty:
            found.append(not_tested(words, source, method=optimizer, **here))
            continue
        row = rows.iloc[0]
        found.append(
            Claim(
                claim=words,
                source=source,
                outcome=holds(row["low"], row["high"], power, 1.5 - power),
                quantity=BEST_RATE,
                unit="exponent",
                estimand="S",
                **effect(row["exponent"], row["low"], row["high"]),
                method=optimizer,
                runs=int(row.get("runs", 0)),
                matched_by="epochs",
                **here,
            )
        )
    return found
