"""The optimal and the largest stable learning rate against batch size, and the cost of each scaling rule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
from transfer import RULES, best_rate, cost_in_words, transfer_chart, transfer_costs

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.laws.batch_hessians import predicted_exponents, predicted_limits, top_eigenvalues
from optbench.analysis.laws.learning_rates import Sweep, by_batch, crossover_over_seeds, exponent_over_seeds, sweep_of
from optbench.analysis.laws.scaling_laws import references
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study

QUESTION = (
    "How do the best and the largest stable learning rate grow with the batch, and what does a scaling rule cost?"
)
METRIC, RATE = "validation_loss", "base_learning_rate"
KINDS: dict[Literal["optimal", "stable"], str] = {"optimal": "optimal", "stable": "largest stable"}
REPETITIONS = 500


def analyse(study: Study) -> Findings:
    """Exponents of both rates of every optimizer, the crossover of the optimal one, and the cost of transfer."""
    runs = study.runs
    if METRIC not in runs or not (runs["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    sweeps = {str(name): sweep_of(own, METRIC, RATE) for name, own in runs.groupby("optimizer")}
    sweeps = {name: sweep for name, sweep in sweeps.items() if sweep}
    learned = {name: _unlearned(sweep, _chance(runs)) for name, sweep in sweeps.items()}
    rates = pd.concat([_rates(name, sweeps[name], learned[name]) for name in sweeps], ignore_index=True)
    exponents = pd.DataFrame([
        _exponent(name, kind, (sweeps if kind == "optimal" else learned)[name]) for name in sweeps for kind in KINDS
    ])  # fmt: skip
    transfer = transfer_costs(runs, sweeps, METRIC, RATE)
    tops = top_eigenvalues(study)
    predicted = predicted_exponents(tops, sweeps)
    charts = [
        _exponents_chart(exponents, predicted),
        _against_batch(rates, "optimal", {}),
        _against_batch(rates, "stable", predicted_limits(tops, _momentum(runs))),
        _curves(sweeps),
        transfer_chart(transfer),
    ]
    tables = {
        "exponents": exponents,
        "predicted_exponents": predicted,
        "learning_rates": rates,
        "batch_hessians": tops,
        "transfer": transfer,
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    charts = [chart for chart in charts if chart.series]
    return Findings(
        QUESTION, _answer(exponents, rates, study), charts, kept, _notes(exponents, predicted, transfer, rates)
    )


def _momentum(runs: pd.DataFrame) -> float:
    """β of momentum SGD, which is equal in all its runs."""
    own = runs[runs["optimizer"] == "momentum"]
    return float(own["config.optimizer.momentum"].iloc[0]) if len(own) else math.nan


def _chance(runs: pd.DataFrame) -> float:
    """The cross-entropy of guessing: the logarithm of the number of classes."""
    classes = pd.to_numeric(runs.get("classes", pd.Series(dtype=float)), errors="coerce")
    return math.log(classes.dropna().iloc[0]) if classes.notna().any() else math.inf


def _unlearned(sweep: Sweep, chance: float) -> Sweep:
    """The sweep, in which a run at a rate above the best also counts as diverged if it ends no better than a guess.

    A rate that is too large may kill all units without divergence; with a rate that is too small, a run is only slow.
    """
    best = {batch: best_rate(grid) for batch, grid in sweep.items()}
    return {
        batch: {
            rate: np.where((losses >= chance) & (rate > best[batch]), math.inf, losses) for rate, losses in grid.items()
        }
        for batch, grid in sweep.items()
    }


def _rates(optimizer: str, sweep: Sweep, learned: Sweep) -> pd.DataFrame:
    table = by_batch(sweep)
    limits = by_batch(learned)
    table[["stable", "unstable", "limit"]] = limits[["stable", "unstable", "limit"]]
    table["not_learned"] = limits["diverged"] - table["diverged"]
    table.insert(0, "optimizer", optimizer)
    return table


def _one_seed(sweep: Sweep) -> bool:
    return max(len(losses) for grid in sweep.values() for losses in grid.values()) < 2


def _exponent(optimizer: str, kind: Literal["optimal", "stable"], sweep: Sweep) -> dict[str, object]:
    """The log-log slope, and the crossover of a linear law that levels off. A bootstrap of single runs would have no width."""
    found = exponent_over_seeds(sweep, kind, repetitions=1 if _one_seed(sweep) else REPETITIONS)
    row: dict[str, object] = {"optimizer": optimizer, "rate": KINDS[kind], "batches": len(found.batches)}
    bends = kind == "optimal" and len(found.batches) >= 3
    law, place = crossover_over_seeds(sweep, kind, repetitions=REPETITIONS // 5) if bends else (None, None)
    # Two points always lie on a line.
    slope = found.exponent if len(found.batches) >= 3 else None
    for name, interval in (("exponent", slope), ("crossover", place)):
        interval = interval or Interval(math.nan, math.nan, math.nan)
        if _one_seed(sweep):
            interval = replace(interval, low=math.nan, high=math.nan)
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["crossover_inside"] = law is not None and law.inside
    return row | {"excluded": ", ".join(f"{batch:g}" for batch in found.excluded)}


# ---- charts -------------------------------------------------------------------------------------------------------------


def _curves(sweeps: Mapping[str, Sweep]) -> Chart:
    series = []
    for optimizer, sweep in sweeps.items():
        for batch, grid in sorted(sweep.items()):
            stable = {rate: losses for rate, losses in sorted(grid.items()) if np.isfinite(losses).all()}
            points = [(float(losses.mean()), losses.min(), losses.max()) for losses in stable.values()]
            if points:
                y, low, high = zip(*points, strict=True)
                series.append(
                    Series(label=f"batch {batch:g}", x=list(stable), y=y, low=low, high=high, panel=method(optimizer))
                )
    return Chart(
        name="loss_against_rate",
        title="Validation loss against learning rate",
        caption="Mean over seeds, bars from the best to the worst seed; a rate at which a seed diverged is left out.",
        x_label="Learning rate",
        y_label="Validation loss",
        log_x=True,
        log_y=True,
        share_y=False,
        series=series,
    )


def _exponents_chart(exponents: pd.DataFrame, predicted: pd.DataFrame) -> Chart:
    """The measured exponents of both rates, and those that the batch Hessian predicts."""
    series = []
    for rate in KINDS.values():
        rows = exponents[(exponents["rate"] == rate) & exponents["exponent"].notna()]
        ends = {"low": rows["exponent_low"], "high": rows["exponent_high"]}
        if len(rows):
            series.append(
                Series(label=rate, x=rows["optimizer"].map(method), y=rows["exponent"], kind="points", **ends)
            )
    for step, rows in predicted.groupby("step"):
        label = f"predicted at step {step}"
        series.append(
            Series(
                label=label,
                x=rows["optimizer"].map(method),
                y=rows["exponent"],
                kind="points",
                low=rows["low"],
                high=rows["high"],
            )
        )
    return Chart(
        name="exponents",
        title="The exponents of the learning rate against batch size",
        caption="Slopes of the logarithms; bars are 95 % bootstrap intervals over seeds. Predicted: those of the largest stable "
        "rate from the batch Hessian at steps of one of SGD's runs, 95 % Student intervals; for Adam and RMSprop, the square "
        "root. Lines: the square root and the linear rule.",
        y_label="Exponent of the batch size",
        horizontal=True,
        series=series,
        references=[Reference(0.5, "square root"), Reference(1.0, "linear")],
    )


def _against_batch(
    rates: pd.DataFrame, kind: Literal["optimal", "stable"], predicted: Mapping[str, pd.DataFrame]
) -> Chart:
    column = "optimal" if kind == "optimal" else "limit"
    series = []
    for optimizer, rows in rates.groupby("optimizer"):
        kept = rows[np.isfinite(rows[column])]
        inside = kept[~kept["border"].isin(["lowest", "highest"])] if kind == "optimal" else kept
        panel = method(str(optimizer))
        if kept.empty:
            continue
        ends = {"low": inside["stable"], "high": inside["unstable"]} if kind == "stable" else {}
        series.append(Series(label="measured", x=inside["batch"], y=inside[column], panel=panel, kind="points", **ends))
        at_end = kept.drop(inside.index)
        if len(at_end):
            series.append(
                Series(label="at the end of the grid", x=at_end["batch"], y=at_end[column], panel=panel, kind="points")
            )
        if str(optimizer) in predicted:
            for step, line in predicted[str(optimizer)].groupby("step"):
                x, label = line["batch"], f"predicted at step {step}"
                series.append(Series(label=label, x=x, y=line["limit"], panel=panel, kind="curve"))
        batches = inside["batch"].to_numpy(float)
        for law, fit in references(batches, inside[column].to_numpy(float)).items() if len(batches) > 1 else ():
            series.append(Series(label=law, x=batches, y=fit(batches), panel=panel, kind="reference"))
    limits = (
        "Between the largest rate at which all seeds learn and the next (bars). Lines: 2/λ₁' of the batch Hessian at "
        "steps of one of SGD's runs, and 2 (1 + β)/λ₁' for momentum; dashed: "
    )
    return Chart(
        name=f"{kind}_rate",
        title=f"The {KINDS[kind]} learning rate against batch size",
        caption=(
            "The vertex of a parabola through the best rate and its neighbours; dashed: "
            if kind == "optimal"
            else limits
        )
        + "the best lines of slope 1 (linear) and 1/2 (square root).",
        x_label="Batch size (examples)",
        y_label="Learning rate",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _text(row: pd.Series, name: str = "exponent", digits: int = 2) -> str:
    return f"{Interval(row[name], row[f'{name}_low'], row[f'{name}_high']):.{digits}f}"


def _answer(exponents: pd.DataFrame, rates: pd.DataFrame, study: Study) -> str:
    parts = []
    for rate in KINDS.values():
        rows = exponents[(exponents["rate"] == rate) & exponents["exponent"].notna()].sort_values("exponent")
        if rows.empty:
            parts.append(
                f"not enough runs for an exponent of the {rate} learning rate, which takes three batch sizes at which that "
                "rate lies inside its grid"
            )
        elif len(rows) == 1:
            parts.append(
                f"the {rate} learning rate of {rows.iloc[0]['optimizer']} grows as batch^{_text(rows.iloc[0])}"
            )
        else:
            least, most = rows.iloc[0], rows.iloc[-1]
            parts.append(
                f"the {rate} learning rate grows least for {least['optimizer']}, as batch^{_text(least)}, and most for "
                f"{most['optimizer']}, as batch^{_text(most)}"
            )
        known = rows[rows["exponent_low"].notna()]
        if len(known):
            parts[-1] += f" ({_holding(known, 1.0)} the linear rule's 1, {_holding(known, 0.5)} the square root's 0.5)"
    text = "; ".join(parts) + "."
    if exponents["exponent"].isna().all():
        sizes = ", ".join(f"{batch:g}" for batch in sorted(rates["batch"].unique()))
        text += f" The runs have the batch sizes {sizes}."
        if study.scale == "smoke":
            text += f" The command python -m optbench -m experiment={study.name} scale=laptop trains at nine."
    return text[0].upper() + text[1:]


def _holding(rows: pd.DataFrame, value: float) -> str:
    """The beginning of a sentence that names the optimizers whose interval contains ``value``."""
    holds = list(rows.loc[(rows["exponent_low"] <= value) & (value <= rows["exponent_high"]), "optimizer"])
    if not holds:
        return "no interval holds"
    return f"the interval of {holds[0]} holds" if len(holds) == 1 else f"those of {', '.join(holds)} hold"


def _notes(
    exponents: pd.DataFrame, predicted: pd.DataFrame, transfer: pd.DataFrame, rates: pd.DataFrame
) -> Sequence[str]:
    notes = [
        "Exponents have 95 % bootstrap intervals over seeds, which cover less than that with a handful of them, and none with "
        "one. Those of the largest stable rate hold the step of the grid, too, in which it is known to lie."
    ]
    if len(predicted):
        each = [
            f"{optimizer} " + ", ".join(f"{exponent:.2f}" for exponent in rows["exponent"])
            for optimizer, rows in predicted.groupby("optimizer", sort=False)
        ]
        steps = ", ".join(str(step) for step in predicted["step"].unique())
        notes.append(
            "The exponents of the largest stable rate that the batch Hessian predicts, at steps "
            f"{steps} of SGD's run, are: {'; '.join(each)}."
        )
    bends = exponents[exponents["crossover_inside"]]
    if len(bends):
        places = ", ".join(f"{row['optimizer']} {_text(row, 'crossover', 0)}" for _, row in bends.iterrows())
        notes.append(f"A linear law that levels off, fitted to the optimal rates, bends at the batch: {places}.")
    for rule in RULES if len(transfer) else ():
        rows = transfer[(transfer["rule"] == rule) & (transfer["batch"] == transfer["batch"].max())]
        costs = ", ".join(f"{row['optimizer']} {cost_in_words(row)}" for _, row in rows.iterrows())
        notes.append(f"With {rule} up to batch {transfer['batch'].max()}, the validation loss lost is: {costs}.")
    if ends := int(rates["border"].isin(["lowest", "highest"]).sum()):
        notes.append(
            f"At {ends} of {len(rates)} points the best rate is the end of its grid, and has no part in the fits."
        )
    return notes
