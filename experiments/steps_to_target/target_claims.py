"""The claims of papers about batch sizes and the steps to a target, from the tables of the study; criteria: its README."""

import math
from collections.abc import Mapping

import pandas as pd
from target_tables import ADVANCED, PLAIN

from optbench.analysis.claim_outcomes import (
    CRITICAL_BATCH,
    STEPS,
    STEPS_TREND,
    above,
    batches,
    effect,
    ended,
    holds,
    not_tested,
    place,
    within,
)
from optbench.analysis.claims import EXPONENT, RATIO_OF_STEPS, Claim

#: The noise scale is near the critical batch if their ratio is within this factor; our own choice.
SMALL_FACTOR = 3.0
SHALLUE, ZHANG, MARTENS = "Shallue et al. 2019", "Zhang et al. 2019", "Martens & Grosse 2015"
#: Optimizers whose critical batch is said to be above that of SGD.
EXTENDED = {
    "nesterov": ("Momentum extends perfect scaling to larger batches than SGD.", SHALLUE),
    "kfac": ("Preconditioning raises the critical batch.", ZHANG),
    "adam": ("Preconditioning raises the critical batch.", ZHANG),
    "lamb": ("Preconditioning raises the critical batch.", ZHANG),
}
#: The optimizer with momentum whose steps are compared to those of K-FAC.
MOMENTUM = "nesterov"
SLOPE = "steps to the target: exponent in the batch"
#: The slope that a claim about an end of the batch sizes has to be told from.
HALF_WAY = -0.5


def claims(runs: pd.DataFrame, tables: Mapping[str, pd.DataFrame], target: float) -> list[Claim]:
    """The claims; tables: those of the findings by name, also empty ones. ``target``: that of the study."""
    return [
        *_of_regimes(runs, tables["regimes"]),
        *_of_critical_batches(runs, tables["critical_batch"], tables["critical_batch_ratios"], target),
        _of_noise_scale(runs, tables["critical_batch"], tables["noise_scale"], target),
        *_of_advantage(runs, tables["advantage"]),
    ]


def _of_regimes(runs: pd.DataFrame, regimes: pd.DataFrame) -> list[Claim]:
    """At the smallest batches the slope is -1 and not -1/2, and at the largest 0 and not -1/2, for every optimizer."""
    ends = (
        ("At small batches twice the batch takes half the steps.", 0, -1.0),
        ("Beyond some batch the steps no longer fall.", -1, 0.0),
    )
    if regimes.empty:
        return [not_tested(words, SHALLUE, matched_by="target") for words, *_ in ends]
    found = []
    for words, place_, slope in ends:
        for name, rows in regimes.groupby("optimizer", sort=False):
            row, own = rows.sort_values("batch_low").iloc[place_], runs[runs["optimizer"] == name]
            found.append(
                Claim(
                    claim=words,
                    source=SHALLUE,
                    outcome=holds(row["low"], row["high"], slope, HALF_WAY),
                    quantity=SLOPE,
                    unit=EXPONENT,
                    estimand="S",
                    method=str(name),
                    condition=batches(row["batch_low"], row["batch_high"]),
                    matched_by="target",
                    runs=ended(own),
                    **effect(row["slope"], row["low"], row["high"]),
                    **place(own),
                )
            )
    return found


def _of_critical_batches(runs: pd.DataFrame, table: pd.DataFrame, ratios: pd.DataFrame, target: float) -> list[Claim]:
    """B_c over that of SGD is above 1 by its interval, and both are identified."""
    rows = table[table["target"] == target].set_index("optimizer") if len(table) else table
    found = []
    for name, (words, source) in EXTENDED.items():
        known = ratios[(ratios["optimizer"] == name) & (ratios["over"] == PLAIN)] if len(ratios) else ratios
        if known.empty or math.isnan(known.iloc[0]["ratio"]):
            found.append(not_tested(words, source, method=name, against=PLAIN, matched_by="target"))
            continue
        row, own = known.iloc[0], runs[runs["optimizer"].isin([name, PLAIN])]
        identified = (rows.loc[[name, PLAIN], "not_identified"] == "").all()
        found.append(
            Claim(
                claim=words,
                source=source,
                outcome=above(row["low"], row["high"], 1.0) if identified else "undecided",
                quantity=CRITICAL_BATCH,
                unit="ratio",
                estimand="S",
                method=name,
                against=PLAIN,
                matched_by="target",
                runs=ended(own),
                **effect(row["ratio"], row["low"], row["high"]),
                **place(own),
            )
        )
    return found


def _of_noise_scale(runs: pd.DataFrame, table: pd.DataFrame, noise: pd.DataFrame, target: float) -> Claim:
    """The range over all runs, each with the median of its measurements, over the interval of B_c holds no large factor."""
    words, source = "The critical batch is of the size of the gradient noise scale.", "McCandlish et al. 2018"
    of_plain = table[(table["target"] == target) & (table["optimizer"] == PLAIN)] if len(table) else table
    own = noise[noise["optimizer"] == PLAIN] if len(noise) else noise
    if of_plain.empty or own.empty:
        return not_tested(words, source, method=PLAIN, matched_by="target")
    scales = own.groupby(["batch", "seed"])["noise_scale"].median()
    row = of_plain.iloc[0]
    low, high = scales.min() / row["critical_batch_high"], scales.max() / row["critical_batch_low"]
    unknown = bool(row["not_identified"]) or math.isnan(low)
    return Claim(
        claim=words,
        source=source,
        outcome="undecided" if unknown else within(low, high, 1 / SMALL_FACTOR, SMALL_FACTOR),
        quantity="gradient noise scale over critical batch",
        unit="ratio",
        estimand="S",
        method=PLAIN,
        matched_by="target",
        runs=ended(runs[runs["optimizer"] == PLAIN]),
        **effect(scales.median() / row["critical_batch"], low, high),
        **place(runs),
    )


def _of_advantage(runs: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """The steps of momentum over those of K-FAC at the ends of the batch sizes, and the trend of this ratio."""
    fewer, grows = (
        "K-FAC needs fewer steps than SGD with momentum.",
        "K-FAC's advantage over momentum grows with the batch.",
    )
    own = table[table["over"] == MOMENTUM] if len(table) else table
    if own.empty:
        names = {"method": MOMENTUM, "against": ADVANCED, "matched_by": "target"}
        return [not_tested(words, MARTENS, **names) for words in (fewer, grows)]
    trained = runs[runs["optimizer"].isin([MOMENTUM, ADVANCED])]
    at, trends = own[own["batch"].notna()].sort_values("batch"), own[own["batch"].isna()]
    rows = [row for _, row in pd.concat([at.head(1), at.tail(1), trends]).drop_duplicates("batch").iterrows()]
    found = []
    for row in rows:
        trend = math.isnan(row["batch"])
        here = trained if trend else trained[trained["batch"] == row["batch"]]
        found.append(
            Claim(
                claim=grows if trend else fewer,
                source=MARTENS,
                outcome=above(row["low"], row["high"], 0.0 if trend else 1.0),
                quantity=STEPS_TREND if trend else STEPS,
                unit=EXPONENT if trend else RATIO_OF_STEPS,
                estimand="S",
                method=MOMENTUM,
                against=ADVANCED,
                condition=batches(at["batch"].min(), at["batch"].max()) if trend else batches(row["batch"]),
                matched_by="target",
                runs=ended(here),
                **effect(row["ratio"], row["low"], row["high"]),
                **place(here),
            )
        )
    return found
