"""The law by which the best learning rate grows with the batch, its bend, and the cost of each scaling rule."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scaling_charts import curves_chart, exponents_chart, optima_chart
from transfer import RULES, cost_in_words, transfer_chart, transfer_costs

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
    table = pd.DataFrame([_law(name, laws[name], curves[name]) for name in laws])
    transfer = transfer_costs(curves)
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
        "optima": optima,
        "transfer": transfer,
        "predicted_exponents": predicted,
        "batch_hessians": tops,
        "noise_scale": noise,
    }
    kept = {name: frame for name, frame in tables.items() if len(frame)}
    notes = _notes(table, optima, transfer, predicted, noise)
    charts = [chart for chart in charts if chart.series]
    return Findings(QUESTION, _answer(table, optima, study), charts, kept, notes, claims=_claims(table, runs))


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


def _law(optimizer: str, found: ScalingLaw, curves: LossCurves) -> dict[str, object]:
    """A row: the local slope that counts, the slopes at other qualities, and the bend."""
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
    return row | {"p_bend": found.p_bend, "bent": found.is_bent, "residual_octaves": found.residual}


def _claims(table: pd.DataFrame, runs: pd.DataFrame) -> list[Claim]:
    """An interval that holds the exponent of a paper and not that of the other rule agrees with the paper."""
    found = []
    here = place(runs)
    for words, source, optimizer, power in PAPERS:
        rows = table[(table["optimizer"] == optimizer) & table["low"].notna()] if len(table) else table
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
    table: pd.DataFrame, optima: pd.DataFrame, transfer: pd.DataFrame, predicted: pd.DataFrame, noise: pd.DataFrame
) -> Sequence[str]:
    notes = [
        "An exponent is the local slope over the batch sizes whose best loss is within 5 % of the least. Its 95 % interval is "
        "the union of that over seeds (and over the cells that a search did not train) and of that of the regression over batch "
        "sizes; below four batch sizes the scatter around a law is not known, and there is no interval."
    ]
    for _, row in table.iterrows():
        if math.isfinite(row["bend"]):
            told = "told from" if row["bent"] else "not told from"
            notes.append(
                f"{method(row['optimizer'])}: a bend at batch {_interval(row, 'bend', '.0f')} (p = {row['p_bend']:.3f}, {told} a "
                f"line), with slope {_interval(row, 'slope_before', '.2f')} before and {_interval(row, 'slope_after', '.2f')} "
                f"after it; slopes within 3 % and 10 % of the least loss are {row['exponent_within_3']:.2f} and "
                f"{row['exponent_within_10']:.2f}."
            )
    largest = optima["batch"].max()
    for rule in RULES if len(transfer) else ():
        rows = transfer[(transfer["rule"] == rule) & (transfer["batch"] == largest)]
        costs = ", ".join(f"{method(row['optimizer'])} {cost_in_words(row)}" for _, row in rows.iterrows())
        notes.append(f"With {rule} up to batch {largest}, the validation loss lost is: {costs}.")
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
