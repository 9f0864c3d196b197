"""The figures of the study: loss against weight decay and warm-up, the laws of weight decay, and the costs of rules."""

from collections.abc import Mapping

import pandas as pd
from level_claims import AT_BEST, LEVEL, PRODUCT
from levels import DECAY, LOSS, WARMUP

from optbench.analysis.charts.chart import Chart, Reference, Series

_INTERVALS = "95 % intervals for the search, in which the learning rate is chosen again in each draw."


def charts(tables: Mapping[str, pd.DataFrame]) -> list[Chart]:
    """All figures; those without data have no series."""
    levels = tables["levels"]
    return [
        _loss_against_decay(levels[(levels["variable"] == DECAY) & (levels["level"] > 0)]),
        _best(tables["best_weight_decay"]),
        _rules(tables["rules"]),
        _gains(tables["warmup_gains"]),
        _rates(levels[levels["variable"] == WARMUP]),
    ]


def _loss_against_decay(rows: pd.DataFrame) -> Chart:
    return Chart(
        name="loss_against_weight_decay",
        title="Validation loss against weight decay, each at its own best learning rate",
        caption=f"AdamW; dark is a large batch. {_INTERVALS} Training without weight decay is in the table levels.",
        x_label="Weight decay",
        y_label="Validation loss",
        log_x=True,
        log_y=True,
        series=_by_batch(rows, "level", LOSS, "low", "high"),
    )


def _best(points: pd.DataFrame) -> Chart:
    series = []
    for quantity in (LEVEL, PRODUCT, AT_BEST) if len(points) else ():
        rows = points[points["quantity"] == quantity]
        counts = (rows["times_least"] <= 1.05) & (rows["at_end"] <= 0.5)
        for label, part, hollow in (
            ("within 5 % of the best loss", rows[counts], False),
            ("worse, or at an end of the levels", rows[~counts], True),
        ):
            if len(part):
                panel = quantity[0].upper() + quantity[1:]
                series.append(
                    Series(
                        label=label,
                        x=part["batch"],
                        y=part["value"],
                        low=part["low"],
                        high=part["high"],
                        panel=panel,
                        kind="points",
                        hollow=hollow,
                    )
                )
    return Chart(
        name="best_weight_decay",
        title="The best weight decay and learning rate of AdamW against the batch",
        caption=f"{_INTERVALS} Only filled points count for the exponents.",
        x_label="Batch size (examples)",
        y_label="Best value",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
    )


def _rules(costs: pd.DataFrame) -> Chart:
    series = []
    for rule, rows in costs[costs["excess"].notna()].groupby("rule", sort=False) if len(costs) else ():
        y, low, high = (100 * rows[name] for name in ("excess", "low", "high"))
        series.append(Series(label=str(rule), x=rows["batch"], y=y, low=low, high=high))
    return Chart(
        name="rules",
        title="Cost of carrying over the best weight decay of the smallest batch",
        caption="Validation loss above that of the best weight decay of the same batch, in percent of it, with a learning rate "
        f"of its own. {_INTERVALS} Left out: decays beyond the tested ones.",
        x_label="Batch size (examples)",
        y_label="Validation loss lost (%)",
        log_x=True,
        ticks_at_x=True,
        series=series,
        references=[Reference(0.0)],
    )


def _gains(gains: pd.DataFrame) -> Chart:
    series = []
    for warmup, rows in gains.groupby("warmup") if len(gains) else ():
        y, low, high = (100 * rows[name] for name in ("gain", "gain_low", "gain_high"))
        series.append(Series(label=f"warm-up {100 * float(warmup):g} %", x=rows["batch"], y=y, low=low, high=high))
    return Chart(
        name="warmup_gains",
        title="The share of the validation loss that a warm-up saves",
        caption=f"Momentum SGD, against no warm-up, both at their own best learning rates. {_INTERVALS}",
        x_label="Batch size (examples)",
        y_label="Validation loss saved (%)",
        log_x=True,
        ticks_at_x=True,
        series=series,
        references=[Reference(0.0)],
    )


def _rates(rows: pd.DataFrame) -> Chart:
    return Chart(
        name="warmup_rates",
        title="The best learning rate against the length of the warm-up",
        caption="Momentum SGD; bars hold the rates that 95 % of the draws choose.",
        x_label="Warm-up (% of the run)",
        y_label="Learning rate",
        log_y=True,
        series=_by_batch(rows.assign(percent=100 * rows["level"]), "percent", "rate", "rate_low", "rate_high"),
    )


def _by_batch(rows: pd.DataFrame, x: str, y: str, low: str, high: str) -> list[Series]:
    return [
        Series(label=f"batch {batch}", x=own[x], y=own[y], low=own[low], high=own[high])
        for batch, own in rows.sort_values(["batch", x]).groupby("batch")
    ]
