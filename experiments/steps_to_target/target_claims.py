"""The claims of papers about batch sizes and the steps to a target, from the tables of the study."""

import math
from collections.abc import Mapping

import pandas as pd
from target_searches import ADVANCED, PLAIN

from optbench.analysis.claim_outcomes import (
    CRITICAL_BATCH,
    STEPS,
    STEPS_TREND,
    above,
    batches,
    decided,
    effect,
    ended,
    not_tested,
    place,
    within,
)
from optbench.analysis.claims import EXPONENT, RATIO_OF_STEPS, Claim

REGIMES = ("perfect", "diminishing", "maximal")
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


def claims(runs: pd.DataFrame, tables: Mapping[str, pd.DataFrame], target: float) -> list[Claim]:
    """The claims; tables: those of the findings by name, also empty ones. ``target``: that of the study."""
    return [
        _of_regimes(runs, tables["regimes"]),
        *_of_critical_batches(runs, tables["critical_batch"], tables["critical_batch_ratios"], target),
        _of_noise_scale(runs, tables["critical_batch"], tables["noise_scale"], target),
        *_of_advantage(runs, tables["advantage"]),
    ]


def _of_regimes(runs: pd.DataFrame, regimes: pd.DataFrame) -> Claim:
    """All optimizers pass through the three regimes, in this order, and none goes back."""
    words = "Perfect scaling, diminishing returns and maximal data parallelism follow each other for every optimizer."
    known = regimes[regimes["regime"].isin(REGIMES)] if len(regimes) else regimes
    if known.empty:
        return not_tested(words, SHALLUE, matched_by="target")
    orders = [
        [REGIMES.index(regime) for regime in own.sort_values("batch_low")["regime"]]
        for _, own in known.groupby("optimizer")
    ]
    passed = all(set(order) == {0, 1, 2} and order == sorted(order) for order in orders)
    return Claim(
        claim=words,
        source=SHALLUE,
        outcome=decided(passed),
        condition=batches(known["batch_low"].min(), known["batch_high"].max()),
        matched_by="target",
        runs=ended(runs),
        **place(runs),
    )


def _of_critical_batches(runs: pd.DataFrame, table: pd.DataFrame, ratios: pd.DataFrame, target: float) -> list[Claim]:
    """B_c over that of SGD is above 1 by its interval, and both are identified."""
    rows = table[table["target"] == target].set_index("optimizer") if len(table) else table
    found = []
    for name, (words, source) in EXTENDED.items():
        known = ratios[(ratios["optimizer"] == name) & (ratios["over"] == PLAIN)] if len(ratios) else ratios
        if known.empty:
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
    """The range of the noise scales, medians over seeds, over the interval of SGD's critical batch, holds no large factor."""
    words, source = "The critical batch is of the size of the gradient noise scale.", "McCandlish et al. 2018"
    of_plain = table[(table["target"] == target) & (table["optimizer"] == PLAIN)] if len(table) else table
    scales = noise[noise["optimizer"] == PLAIN].groupby("batch")["noise_scale"].median() if len(noise) else noise
    if of_plain.empty or scales.empty:
        return not_tested(words, source, method=PLAIN, matched_by="target")
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
