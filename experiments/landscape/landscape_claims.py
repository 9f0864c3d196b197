"""The claims of Li et al. and Keskar et al. about small- and large-batch minima, from the tables of the study."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from optbench.analysis.claim_outcomes import SHARPNESS, above, batches, below, effect, not_tested, place
from optbench.analysis.claims import Claim, Outcome

LI, KESKAR = "Li et al. 2018", "Keskar et al. 2017"
LINE, FILTERS = "interpolation_rise", "filter_rise"
#: Claims of a ratio, large over small batch, above 1 at every weight decay: measure, quantity, claim, source.
LARGER = (
    (FILTERS, "rise along filter-normalized directions, large over small batch",
     "The large-batch minimum is the sharper one along filter-normalized directions.", LI),
    ("test_error", "test error, large over small batch", "The large-batch minimum has the larger test error.", LI),
    ("keskar", SHARPNESS["keskar"], "The large-batch minimum is the sharper one in Keskar's box.", KESKAR),
    ("sam", SHARPNESS["sam"], "The large-batch minimum is the sharper one in a ball.", KESKAR),
)  # fmt: skip


def claims(runs: pd.DataFrame, differences: pd.DataFrame, correlations: pd.DataFrame) -> list[Claim]:
    """The claims, from the tables differences and correlations."""
    return [*_of_line(runs, differences), *_of_measures(runs, differences), _of_correlation(runs, correlations)]


def _of_line(runs: pd.DataFrame, differences: pd.DataFrame) -> list[Claim]:
    """Without weight decay the large-batch end is the sharper one, with it the small-batch end.

    The reason given is that weight decay makes the weights of the small batch the smaller ones. Where they are not, the second
    claim is not tested.
    """
    without, reverses = (
        "Along the line between the minima the large-batch end is the sharper one without weight decay.",
        "With weight decay the small-batch end is the sharper one, its weights being the smaller ones.",
    )
    rows = differences[differences["measure"] == LINE]
    if rows.empty:
        return [not_tested(words, LI) for words in (without, reverses)]
    norms = differences[differences["measure"] == "norm"].set_index("weight_decay")
    found = []
    for _, row in rows.iterrows():
        outcome: Outcome = above(row["low"], row["high"], 1.0)
        if row["weight_decay"] > 0:
            norm = norms.loc[row["weight_decay"]]
            met = norm["low"] > 1
            outcome = below(row["low"], row["high"], 1.0) if met else "not tested"
        words = reverses if row["weight_decay"] > 0 else without
        quantity = "rise along the line between minima, large over small batch"
        found.append(_ratio(runs, row, words, LI, quantity, outcome))
    return found


def _of_measures(runs: pd.DataFrame, differences: pd.DataFrame) -> list[Claim]:
    found = []
    for measure, quantity, words, source in LARGER:
        rows = differences[differences["measure"] == measure]
        found += [
            _ratio(runs, row, words, source, quantity, above(row["low"], row["high"], 1.0))
            for _, row in rows.iterrows()
        ]
        if rows.empty:
            found.append(not_tested(words, source, quantity=quantity))
    return found


def _ratio(runs: pd.DataFrame, row: pd.Series, words: str, source: str, quantity: str, outcome: Outcome) -> Claim:
    return Claim(
        claim=words,
        source=source,
        outcome=outcome,
        quantity=quantity,
        unit="ratio",
        estimand="W",
        condition=f"{_sizes(runs)}, weight decay {row['weight_decay']:g}",
        runs=2 * int(row["seeds"]),
        **effect(row["ratio"], row["low"], row["high"]),
        **_common(runs),
    )


def _of_correlation(runs: pd.DataFrame, correlations: pd.DataFrame) -> Claim:
    """Spearman's correlation over all minima is above 0 by its interval, and passes Holm's correction over the measures."""
    words = "The rise along filter-normalized directions follows the test error."
    rows = correlations[(correlations["measure"] == FILTERS) & correlations["rho"].notna()]
    if rows.empty:
        return not_tested(words, LI)
    row = rows.iloc[0]
    outcome = above(row["low"], row["high"])
    return Claim(
        claim=words,
        source=LI,
        outcome=outcome if row["p_holm"] < 0.05 else "undecided",
        quantity="Spearman's correlation of the rise along filter-normalized directions and the test error",
        unit="correlation",
        estimand="W",
        condition=_sizes(runs),
        runs=int(row["minima"]),
        **effect(row["rho"], row["low"], row["high"]),
        **_common(runs),
    )


def _sizes(runs: pd.DataFrame) -> str:
    return batches(runs["batch"].min(), runs["batch"].max())


def _common(runs: pd.DataFrame) -> Mapping[str, Any]:
    optimizers = runs["optimizer"].dropna().unique() if "optimizer" in runs else []
    return {"method": "/".join(sorted(optimizers)), "matched_by": "epochs", **place(runs)}
