"""The optimal and the largest stable learning rate against batch size, and what each scaling rule costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from optbench.analysis.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.intervals import Interval, student
from optbench.analysis.learning_rates import Sweep, by_batch, crossover_over_seeds, exponent_over_seeds, sweep_of
from optbench.analysis.pairs import differences_by_seed
from optbench.analysis.scaling_laws import references
from optbench.analysis.study import Study

QUESTION = (
    "How do the best and the largest stable learning rate grow with the batch, and what does a scaling rule cost?"
)
METRIC, RATE = "validation_loss", "base_learning_rate"
RULES = {"no scaling": 0.0, "square root": 0.5, "linear": 1.0}
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
    transfer = _transfer(runs, sweeps)
    charts = [_curves(sweeps), *(_against_batch(rates, kind) for kind in KINDS), _transfer_chart(transfer)]
    tables = {"learning_rates": rates, "exponents": exponents, "transfer": transfer}
    kept = {name: table for name, table in tables.items() if len(table)}
    charts = [chart for chart in charts if chart.series]
    return Findings(QUESTION, _answer(exponents), charts, kept, _notes(exponents, transfer, rates))


def _chance(runs: pd.DataFrame) -> float:
    """The cross-entropy of guessing: the logarithm of the number of classes."""
    classes = pd.to_numeric(runs.get("config.dataset.info.size.classes", pd.Series(dtype=float)), errors="coerce")
    return math.log(classes.dropna().iloc[0]) if classes.notna().any() else math.inf


def _unlearned(sweep: Sweep, chance: float) -> Sweep:
    """The sweep in which a run counts as diverged, too, that ends no better than a guess at a rate above the best.

    A rate that is too large may kill all units instead; with one that is too small, a run merely has not come far.
    """
    best = {batch: _best(grid) for batch, grid in sweep.items()}
    return {
        batch: {
            rate: np.where((losses >= chance) & (rate > best[batch]), math.inf, losses) for rate, losses in grid.items()
        }
        for batch, grid in sweep.items()
    }


def _best(grid: Mapping[float, np.ndarray]) -> float:
    """The rate with the least mean loss, of those that were tested."""
    return min(grid, key=lambda rate: float(grid[rate].mean()))


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
    """The log-log slope; and of a linear law that levels off, where. A bootstrap of single runs would have no width."""
    found = exponent_over_seeds(sweep, kind, repetitions=1 if _one_seed(sweep) else REPETITIONS)
    row: dict[str, object] = {"optimizer": optimizer, "rate": KINDS[kind], "batches": len(found.batches)}
    bends = kind == "optimal" and len(found.batches) >= 3
    law, place = crossover_over_seeds(sweep, kind, repetitions=REPETITIONS // 5) if bends else (None, None)
    for name, interval in (("exponent", found.exponent), ("crossover", place)):
        interval = interval or Interval(math.nan, math.nan, math.nan)
        if _one_seed(sweep):
            interval = replace(interval, low=math.nan, high=math.nan)
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    row["crossover_inside"] = law is not None and law.inside
    return row | {"excluded": ", ".join(f"{batch:g}" for batch in found.excluded)}


def _transfer(runs: pd.DataFrame, sweeps: Mapping[str, Sweep]) -> pd.DataFrame:
    """The validation loss at the scaled rate minus that at the best tested rate, paired by seed, at every larger batch."""
    rows = []
    for optimizer, sweep in sweeps.items():
        own = runs[(runs["optimizer"] == optimizer) & runs[RATE].notna()]
        best = {batch: _best(grid) for batch, grid in sweep.items()}
        smallest = min(sweep)
        for batch in sorted(set(sweep) - {smallest}):
            for rule, power in RULES.items():
                wanted = best[smallest] * (batch / smallest) ** power
                row = {
                    "optimizer": optimizer,
                    "batch": int(batch),
                    "rule": rule,
                    "scaled_rate": wanted,
                    "best_rate": best[batch],
                }
                tested = min(sweep[batch], key=lambda rate, wanted=wanted: abs(math.log(rate / wanted)))  # type: ignore[misc]
                found, diverged = Interval(math.nan, math.nan, math.nan), 0
                if abs(math.log2(tested / wanted)) <= 0.51:  # half a step of the grid; beyond it nothing is known
                    here = own[own["batch"] == batch]
                    pairs = differences_by_seed(here, METRIC, RATE, tested, best[batch], match=("seed",))["difference"]
                    diverged = int(np.isinf(pairs).sum())
                    finite = pairs[np.isfinite(pairs)].to_numpy(float)
                    found = student(finite) if len(finite) and not diverged else found
                    row |= {"tested_rate": tested, "seeds": len(pairs)}
                rows.append(row | {"cost": found.estimate, "low": found.low, "high": found.high, "diverged": diverged})
    return pd.DataFrame(rows)


# ---- charts -------------------------------------------------------------------------------------------------------------


def _curves(sweeps: Mapping[str, Sweep]) -> Chart:
    series = []
    for optimizer, sweep in sweeps.items():
        for batch, grid in sorted(sweep.items()):
            means = [float(losses.mean()) for losses in grid.values()]
            ends = [
                (losses.min(), losses.max()) if np.isfinite(losses).all() else (math.nan, math.nan)
                for losses in grid.values()
            ]
            low, high = zip(*ends, strict=True)
            series.append(Series(label=f"batch {batch:g}", x=list(grid), y=means, low=low, high=high, panel=optimizer))
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


def _against_batch(rates: pd.DataFrame, kind: Literal["optimal", "stable"]) -> Chart:
    column = "optimal" if kind == "optimal" else "limit"
    series = []
    for optimizer, rows in rates.groupby("optimizer"):
        kept = rows[np.isfinite(rows[column])]
        inside = kept[~kept["border"].isin(["lowest", "highest"])] if kind == "optimal" else kept
        panel = str(optimizer)
        if kept.empty:
            continue
        series.append(Series(label="measured", x=inside["batch"], y=inside[column], panel=panel, kind="points"))
        ends = kept.drop(inside.index)
        if len(ends):
            series.append(
                Series(label="at the end of the grid", x=ends["batch"], y=ends[column], panel=panel, kind="points")
            )
        batches = inside["batch"].to_numpy(float)
        for law, fit in references(batches, inside[column].to_numpy(float)).items() if len(batches) > 1 else ():
            series.append(Series(label=law, x=batches, y=fit(batches), panel=panel, kind="reference"))
    limits = "The geometric mean of the largest rate at which all seeds learn and the next; dashed: "
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


def _transfer_chart(transfer: pd.DataFrame) -> Chart:
    series = []
    if len(transfer):
        for (optimizer, rule), rows in transfer[transfer["cost"].notna()].groupby(["optimizer", "rule"], sort=False):
            series.append(
                Series(
                    label=str(rule),
                    x=rows["batch"],
                    y=rows["cost"],
                    panel=str(optimizer),
                    low=rows["low"],
                    high=rows["high"],
                )
            )
    return Chart(
        name="transfer",
        title="What a rule costs that carries over the best rate of the smallest batch",
        caption="Validation loss minus that of the best tested rate, paired by seed; 95 % Student intervals. Left out: "
        "rates that diverged or lie beyond the grid.",
        x_label="Batch size (examples)",
        y_label="Validation loss lost",
        log_x=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
        references=[Reference(0.0)],
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _text(row: pd.Series, name: str = "exponent", digits: int = 2) -> str:
    text = f"{row[name]:.{digits}f}"
    return (
        text
        if math.isnan(row[f"{name}_low"])
        else f"{text} [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"
    )


def _answer(exponents: pd.DataFrame) -> str:
    parts = []
    for rate in KINDS.values():
        rows = exponents[(exponents["rate"] == rate) & exponents["exponent"].notna()]
        if rows.empty:
            parts.append(
                f"not enough runs for the {rate} learning rate: it is inside the grid at fewer than two batches"
            )
        else:
            parts.append(f"the {rate} learning rate grows as batch^" + ", batch^".join(
                f"{_text(row)} for {row['optimizer']}" for _, row in rows.iterrows()))  # fmt: skip
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _notes(exponents: pd.DataFrame, transfer: pd.DataFrame, rates: pd.DataFrame) -> Sequence[str]:
    notes = [
        "Exponents have 95 % bootstrap intervals over seeds, which are too narrow with three; with one seed there are none."
    ]
    if few := int((exponents["batches"] == 2).sum()):
        notes.append(f"{few} of {len(exponents)} exponents stand on two batch sizes only.")
    known = exponents[exponents["exponent_low"].notna()]
    for value, name in ((1.0, "linear"), (0.5, "square-root")):
        holds = known[(known["exponent_low"] <= value) & (value <= known["exponent_high"])]
        if len(known):
            names = ", ".join(f"{row['rate']} of {row['optimizer']}" for _, row in holds.iterrows()) or "none"
            notes.append(f"The interval holds the {name} rule's {value:g} for: {names}.")
    for _, row in exponents[exponents["crossover_inside"]].iterrows():
        notes.append(
            f"Of a linear law that levels off, {row['optimizer']}'s bends at batch {_text(row, 'crossover', 0)}."
        )
    for rule in RULES if len(transfer) else ():
        rows = transfer[(transfer["rule"] == rule) & (transfer["batch"] == transfer["batch"].max())]
        costs = [
            f"{row['optimizer']} "
            + (
                "diverged"
                if row["diverged"]
                else "is beyond the grid"
                if math.isnan(row["cost"])
                else f"{row['cost']:+.3f}"
            )
            for _, row in rows.iterrows()
        ]
        notes.append(
            f"With {rule} up to batch {transfer['batch'].max()}, the validation loss lost is: {', '.join(costs)}."
        )
    if ends := int(rates["border"].isin(["lowest", "highest"]).sum()):
        notes.append(
            f"At {ends} of {len(rates)} points the best rate is the end of its grid, and has no part in the fits."
        )
    return notes
