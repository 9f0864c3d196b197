"""The best weight decay and the gain of a warm-up against the batch size, each level with its own best learning rate."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from level_charts import charts
from level_claims import AT_BEST, CUSTOMARY, LEVEL, PRODUCT, claims
from levels import DECAY, LOSS, WARMUP, Levels, at_end, losses, of_study, ratio_of_rates, saving, vertices

from optbench.analysis.claim_outcomes import steady, without_each_seed
from optbench.analysis.claims import Claim
from optbench.analysis.findings import Findings
from optbench.analysis.laws.best_rates import Draws, difference_of_searches, interval_of
from optbench.analysis.laws.broken_power_law import local_slope
from optbench.analysis.laws.loss_curves import LossCurves
from optbench.analysis.laws.noisy_optima import Vertices
from optbench.analysis.laws.transfer import transfer_costs
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.study import Study

QUESTION = "Must weight decay and warm-up change with the batch, when the learning rate is tuned again at each batch?"


def analyse(study: Study) -> Findings:
    """The laws of weight decay, the costs of keeping it, and the gains of warm-up, with the claims of papers."""
    found = of_study(study)
    if not found:
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    tables = _tables(found)
    without = without_each_seed(study.name, study.seeds, partial(_claims_without, study))
    made = steady(claims(study.runs, tables), without)
    kept = {name: table for name, table in {**tables, "without_a_seed": without}.items() if len(table)}
    drawn = [chart for chart in charts(tables) if chart.series]
    return Findings(QUESTION, _answer(made, tables), drawn, kept, _notes(tables), claims=made)


def _claims_without(study: Study, seed: int) -> list[Claim]:
    """The claims about the runs without a seed."""
    return claims(study.runs[study.runs["seed"] != seed], _tables(of_study(study, seed)))


def _tables(found: Mapping[str, Levels]) -> dict[str, pd.DataFrame]:
    decay, warmup = found.get(DECAY), found.get(WARMUP)
    curves = decay.curves() if decay else None
    points, laws, costs = pd.DataFrame(), pd.DataFrame(), pd.DataFrame()
    if decay is not None and curves is not None:
        fits = _fits(decay, curves)
        points, laws = _points(curves, fits), _laws(fits, curves)
        costs = transfer_costs({"adamw": curves}).rename(columns={"rate": "weight_decay"})
    levels = pd.DataFrame([row for own in found.values() for row in _levels(own)])
    gains = pd.DataFrame(_gains(warmup)) if warmup else pd.DataFrame()
    return {"laws": laws, "best_weight_decay": points, "rules": costs, "warmup_gains": gains, "levels": levels}


# ---- weight decay -----------------------------------------------------------------------------------------------------------


def _fits(decay: Levels, curves: LossCurves) -> dict[str, Vertices]:
    rates = decay.rates(curves)
    levels = curves.optima.rates, curves.resampled_optima.rates
    products = tuple(rate * level for rate, level in zip(rates, levels, strict=True))
    return {
        LEVEL: vertices(curves, levels),
        PRODUCT: vertices(curves, (products[0], products[1])),
        AT_BEST: vertices(curves, rates),
    }


def _laws(fits: Mapping[str, Vertices], curves: LossCurves) -> pd.DataFrame:
    """The exponent of each quantity in the batch; see `optbench.analysis.laws.broken_power_law.local_slope`."""
    rows = []
    for quantity, points in fits.items():
        slope = local_slope(points)
        rows.append({
            "quantity": quantity,
            "exponent": slope.slope.estimate,
            "low": slope.slope.low,
            "high": slope.slope.high,
            "smallest_batch": min(slope.batches, default=math.nan),
            "largest_batch": max(slope.batches, default=math.nan),
            "batches": len(slope.batches),
            "runs": int(curves.runs.sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _points(curves: LossCurves, fits: Mapping[str, Vertices]) -> pd.DataFrame:
    """One row for each quantity and batch size: its value at the least loss, with the draws' interval."""
    rows = []
    for quantity, points in fits.items():
        for b, batch in enumerate(curves.batches):
            low, high = np.nanquantile(points.draws[:, b], [0.025, 0.975])
            value = float(points.rates[b])
            rows.append({
                "quantity": quantity,
                "batch": int(batch),
                "value": value,
                "low": min(float(low), value),
                "high": max(float(high), value),
                "loss": float(points.losses[b]),
                "at_end": at_end(curves, b),
                "runs": int(curves.runs[b]),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    table["times_least"] = table["loss"] / table["loss"].min()
    return table


# ---- levels -----------------------------------------------------------------------------------------------------------------


def _levels(own: Levels) -> list[dict[str, Any]]:
    """One row for each level and batch size: its best rate, and the loss and the test accuracy there."""
    rows = []
    for batch in own.batches:
        for level, best in own.at(batch).items():
            loss = interval_of(losses(best), best.stretch)
            test = student(best.found("test_accuracy").to_numpy(float))
            row: dict[str, Any] = {"variable": own.variable, "batch": batch, "level": level, "rate": best.rate}
            row |= {"rate_low": best.interval.low, "rate_high": best.interval.high, "at_edge": best.at_edge}
            row |= {LOSS: loss.estimate, "low": loss.low, "high": loss.high}
            row |= {"test_accuracy": test.estimate, "test_low": test.low, "test_high": test.high}
            rows.append(row | {"seeds": len(best.found(LOSS)), "runs": len(best.runs)})
    return rows


def _gains(warmup: Levels) -> list[dict[str, Any]]:
    """One row for each warm-up and batch size: the share of the validation loss that it saves against none.

    Both at their own best rates, in every draw. more: the same minus what it saves at the smallest batch. rate_ratio: the best
    rate with the warm-up over that without.
    """
    rows = []
    first: dict[float, Draws] = {}
    for batch in warmup.batches:
        levels = warmup.at(batch)
        for level, best in levels.items():
            if level == 0 or 0.0 not in levels:
                continue
            saved = saving(levels[0.0], best)
            more = difference_of_searches(saved, first.setdefault(level, saved), best.stretch)
            gain, ratio = (interval_of(draws, best.stretch) for draws in (saved, ratio_of_rates(best, levels[0.0])))
            row: dict[str, Any] = {"batch": batch, "warmup": level}
            row |= _columns("gain", gain) | _columns("more", more) | _columns("rate_ratio", ratio.exp())
            rows.append(row | {"runs": len(best.runs) + len(levels[0.0].runs)})
    return rows


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


# ---- words ------------------------------------------------------------------------------------------------------------------


def _answer(made: Sequence[Claim], tables: Mapping[str, pd.DataFrame]) -> str:
    outcomes = Counter(claim.outcome for claim in made if claim.outcome != "not tested")
    words = []
    if outcomes:
        counts = ", ".join(f"{outcome} {outcomes[outcome]}" for outcome in ("agrees", "disagrees", "undecided"))
        words.append(f"Claims of papers: {counts}.")
    laws, gains, costs = (tables[name] for name in ("laws", "warmup_gains", "rules"))
    if len(laws) and laws["exponent"].notna().all():
        rows = laws.set_index("quantity")
        each = "; ".join(
            f"{name} as batch^{Interval(*rows.loc[name, ['exponent', 'low', 'high']]):.2f}"
            for name in (LEVEL, PRODUCT, AT_BEST)
        )
        first = rows.iloc[0]
        words.append(
            f"With the learning rate tuned at each weight decay and batch, the best values grow from batch "
            f"{first['smallest_batch']:.0f} to {first['largest_batch']:.0f}: {each}."
        )
    if len(costs):
        last = costs[costs["batch"] == costs["batch"].max()].set_index("rule")
        cost = {
            rule: Interval(*(100 * row[name] for name in ("excess", "low", "high"))) for rule, row in last.iterrows()
        }
        words.append(
            f"The best weight decay of batch {last['base'].iloc[0]}, kept at batch {last['batch'].iloc[0]} with a new learning "
            f"rate, costs {cost['no scaling']:.1f} % of the validation loss; grown with the root of the batch, "
            f"{cost['square root']:.1f} %; grown in proportion to it, {cost['linear']:.1f} %."
        )
    customary = gains[gains["warmup"] == CUSTOMARY] if len(gains) else gains
    if len(customary):
        each = "; ".join(f"{_percent(row)} at batch {row['batch']:.0f}" for _, row in customary.iterrows())
        words.append(f"A warm-up over {100 * CUSTOMARY:g} % of the run saves, of the validation loss: {each}.")
    return " ".join(words) or "Not enough runs for an answer."


def _interval(row: pd.Series, name: str, factor: float = 1.0) -> Interval:
    return Interval(*(factor * row[column] for column in (name, f"{name}_low", f"{name}_high")))


def _percent(row: pd.Series) -> str:
    return f"{_interval(row, 'gain', 100):+.1f} %"


def _notes(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    notes = [
        "In every draw, cells that the search did not train are drawn from its surrogate, seeds are resampled, and the learning "
        "rate is chosen again at each level. Exponents are slopes over the batches whose least loss is within 5 % of the least, "
        "with the union of the intervals of the draws and of the regression over batches."
    ]
    points, gains, levels = (tables[name] for name in ("best_weight_decay", "warmup_gains", "levels"))
    ends = points[(points["quantity"] == LEVEL) & (points["at_end"] > 0.5)] if len(points) else points
    if len(ends):
        batches = ", ".join(str(batch) for batch in ends["batch"])
        notes.append(f"The best weight decay is an end of the tested ones, and only a bound, at batch {batches}.")
    for batch, rows in gains.groupby("batch") if len(gains) else ():
        each = "; ".join(
            f"{100 * row['warmup']:g} % of the run {_percent(row)}, at {_interval(row, 'rate_ratio'):.2f} times the rate"
            for _, row in rows.iterrows()
        )
        notes.append(f"At batch {batch:.0f} a warm-up saves, of the validation loss without one: {each}.")
    if (edge := levels["at_edge"]).any():
        notes.append(
            f"The best learning rate is an end of its line at {edge.sum()} of {len(levels)} conditions (table levels)."
        )
    return notes
