"""The claims of the papers beside what the runs say; criteria: the README of the study."""

import math
from collections.abc import Mapping

import pandas as pd

from optbench.analysis import claim_outcomes
from optbench.analysis.claim_outcomes import above, batches, below, effect, holds, not_tested
from optbench.analysis.claims import Claim

#: The quantities that follow a law of the batch.
LEVEL, PRODUCT, AT_BEST = "weight decay", "learning rate times weight decay", "learning rate at the best weight decay"
#: The warm-up of the claims, as a share of the run.
CUSTOMARY = 0.10
#: Of the validation loss: less than this counts as no cost.
ALLOWED = 0.02

_GOYAL = "Goyal et al. 2017, section 2.2"


def claims(runs: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """Two claims about weight decay and three about warm-up."""
    place = claim_outcomes.place(runs)
    return [
        _product(tables["laws"], place),
        _kept(runs, tables["rules"], place),
        *_warmup(tables["warmup_gains"], place),
    ]


def _product(laws: pd.DataFrame, place: Mapping[str, str]) -> Claim:
    words = "The best learning rate times weight decay of AdamW grows linearly with the batch."
    source, own = "Wang & Aitchison 2024; Bergsma et al. 2025", {**place, "method": "adamw", "matched_by": "epochs"}
    rows = laws[(laws["quantity"] == PRODUCT) & laws["low"].notna()] if len(laws) else laws
    if rows.empty:
        return not_tested(words, source, **own)
    row = rows.iloc[0]
    return Claim(
        claim=words,
        source=source,
        outcome=holds(row["low"], row["high"], 1.0, 0.5),
        quantity=f"exponent of the best {PRODUCT} in the batch",
        unit="exponent",
        estimand="S",
        **effect(row["exponent"], row["low"], row["high"]),
        runs=int(row["runs"]),
        **own,
    )


def _kept(runs: pd.DataFrame, costs: pd.DataFrame, place: Mapping[str, str]) -> Claim:
    """The weight decay of the smallest batch, kept at the largest one with a learning rate of its own."""
    words, source = "Weight decay can be left as it is when the batch grows.", "Goyal et al. 2017, section 2.1, of SGD"
    own = {**place, "method": "adamw", "matched_by": "epochs"}
    rows = costs[(costs["rule"] == "no scaling") & costs["excess"].notna()] if len(costs) else costs
    if rows.empty:
        return not_tested(words, source, **own)
    row = rows.loc[rows["batch"].idxmax()]
    behind = (runs["optimizer"] == "adamw") & runs["batch"].isin([row["base"], row["batch"]])
    return Claim(
        claim=words,
        source=source,
        outcome=below(row["low"], row["high"], ALLOWED),
        quantity="validation loss lost by keeping the weight decay",
        unit="percent",
        estimand="S",
        **effect(row["excess"], row["low"], row["high"], 100),
        runs=int(behind.sum()),
        condition=batches(row["base"], row["batch"]),
        **own,
    )


def _warmup(gains: pd.DataFrame, place: Mapping[str, str]) -> list[Claim]:
    own = {**place, "method": "momentum", "matched_by": "epochs"}
    parts = (
        ("A warm-up lowers the loss of a large batch.", _GOYAL, "gain", 0.0, "percent", 100.0),
        ("A warm-up gains more at a large batch than at a small one.", _GOYAL, "more", 0.0, "percent", 100.0),
        ("A warm-up allows a higher learning rate.", "Kalra & Barkeshli 2024", "rate_ratio", 1.0, "ratio", 1.0),
    )
    rows = gains[gains["warmup"] == CUSTOMARY] if len(gains) else gains
    row = rows.loc[rows["batch"].idxmax()] if len(rows) else None
    found = []
    for words, source, name, bound, unit, factor in parts:
        if row is None or math.isnan(row[f"{name}_low"]):
            found.append(not_tested(words, source, **own))
            continue
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        found.append(
            Claim(
                claim=words,
                source=source,
                outcome=above(low, high, bound),
                quantity=_QUANTITIES[name],
                unit=unit,
                estimand="S",
                **effect(row[name], low, high, factor),
                runs=int(row["runs"]),
                condition=f"batch={row['batch']:.0f}, warm-up {100 * CUSTOMARY:.0f} %",
                **own,
            )
        )
    return found


_QUANTITIES = {
    "gain": "validation loss saved by a warm-up",
    "more": "validation loss saved by a warm-up, large minus small batch",
    "rate_ratio": "best learning rate with a warm-up, over that without",
}
