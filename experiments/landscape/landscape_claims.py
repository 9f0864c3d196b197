"""The claims of Li et al. and Keskar et al. about small- and large-batch minima, from the tables of the study."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from landscape_minima import EPOCHS, LINE, MATCHED, PROTOCOLS
from landscape_tables import equally_deep, of_condition

from optbench.analysis.claim_outcomes import (
    SHARPNESS,
    above,
    all_of,
    batches,
    below,
    effect,
    not_tested,
    place,
)
from optbench.analysis.claims import Claim, Outcome
from optbench.analysis.statistics.rank_correlation import UNITS

LI, KESKAR = "Li et al. 2018", "Keskar et al. 2017"
FILTERS = "filter_rise"
ALONG_LINE = "rise along the line between minima, large over small batch"
#: Claims of a ratio, large over small batch, above 1 at every weight decay: measure, quantity, claim, source.
LARGER = (
    (FILTERS, "rise along filter-normalized directions, large over small batch",
     "The large-batch minimum is the sharper one along filter-normalized directions.", LI),
    ("test_error", "test error, large over small batch", "The large-batch minimum has the larger test error.", LI),
    ("keskar", SHARPNESS["keskar"], "The large-batch minimum is the sharper one in Keskar's box.", KESKAR),
    ("sam", SHARPNESS["sam"], "The large-batch minimum is the sharper one in a ball.", KESKAR),
)  # fmt: skip
WITHOUT = "Along the line between the minima the large-batch end is the sharper one without weight decay."
REVERSES = "With weight decay the small-batch end is the sharper one, its weights being the smaller ones."
FLIPS = "Weight decay reverses the order along the line between the minima."
_MATCHED_BY = {MATCHED: "train loss", EPOCHS: "epochs"}


def claims(runs: pd.DataFrame, differences: pd.DataFrame, correlations: pd.DataFrame, rate: float) -> list[Claim]:
    """The claims, from the tables `differences` and `correlations`, at the learning rate ``rate`` of both protocols."""
    found = []
    for protocol in PROTOCOLS:
        fields = _fields(runs, protocol)
        found += [*_of_line(differences, protocol, rate, fields), *_of_measures(differences, protocol, rate, fields)]
    return [*found, *_of_correlations(correlations, _fields(runs, MATCHED))]


def _fields(runs: pd.DataFrame, protocol: str) -> Mapping[str, Any]:
    optimizers = runs["optimizer"].dropna().unique() if "optimizer" in runs else []
    return {"method": "/".join(sorted(optimizers)), "matched_by": _MATCHED_BY[protocol], **place(runs),
            "condition": batches(runs["batch"].min(), runs["batch"].max())}  # fmt: skip


def meets_condition(norm: pd.Series) -> bool:
    """True if the small-batch weights are known to be the larger ones without weight decay, or the smaller ones with it.

    norm: the row of `differences` for the norm of the weights, large over small batch.
    """
    return bool(norm["low"] > 1 if norm["weight_decay"] > 0 else norm["high"] < 1)


def _is_fair(differences: pd.DataFrame, protocol: str, decay: float, rate: float) -> bool:
    """True for equal epochs, and where minima that were to be equally deep are so."""
    return protocol == EPOCHS or equally_deep(differences, decay, rate)


def _of_line(differences: pd.DataFrame, protocol: str, rate: float, fields: Mapping[str, Any]) -> list[Claim]:
    """The order along the line without weight decay, with each weight decay, and its reversal between them.

    Each is tested only under the condition to which the authors ascribe it (`meets_condition`).
    """
    decays = _decays(differences, LINE, protocol, rate)
    if not decays:
        return [not_tested(words, LI, **fields) for words in (WITHOUT, REVERSES, FLIPS)]
    found, outcomes = [], {}
    for decay in decays:
        row = of_condition(differences, LINE, protocol, decay, rate)
        norm = of_condition(differences, "norm", protocol, decay, rate)
        assert row is not None
        assert norm is not None
        judge = below if decay > 0 else above
        fair = meets_condition(norm) and _is_fair(differences, protocol, decay, rate)
        outcome: Outcome = judge(row["low"], row["high"], 1.0) if fair else "not tested"
        outcomes[decay] = outcome
        found.append(_ratio(row, REVERSES if decay > 0 else WITHOUT, LI, ALONG_LINE, outcome, fields))
        if decay > 0:
            both = [outcomes.get(0.0, "not tested"), outcome]
            reversal: Outcome = "not tested" if "not tested" in both else all_of(both)
            found.append(_ratio(row, FLIPS, LI, ALONG_LINE, reversal, fields))
    return found


def _of_measures(differences: pd.DataFrame, protocol: str, rate: float, fields: Mapping[str, Any]) -> list[Claim]:
    found = []
    for measure, quantity, words, source in LARGER:
        decays = _decays(differences, measure, protocol, rate)
        for decay in decays:
            row = of_condition(differences, measure, protocol, decay, rate)
            assert row is not None
            fair = _is_fair(differences, protocol, decay, rate)
            outcome: Outcome = above(row["low"], row["high"], 1.0) if fair else "not tested"
            found.append(_ratio(row, words, source, quantity, outcome, fields))
        if not decays:
            found.append(not_tested(words, source, quantity=quantity, **fields))
    return found


def _decays(differences: pd.DataFrame, measure: str, protocol: str, rate: float) -> Sequence[float]:
    if differences.empty:
        return []
    rows = differences[(differences["measure"] == measure) & (differences["protocol"] == protocol)]
    return sorted(rows.loc[rows["learning_rate"] == rate, "weight_decay"])


def _ratio(
    row: pd.Series, words: str, source: str, quantity: str, outcome: Outcome, fields: Mapping[str, Any]
) -> Claim:
    condition = f"{fields['condition']}, weight decay {row['weight_decay']:g}, learning rate {row['learning_rate']:g}"
    return Claim(
        claim=words,
        source=source,
        outcome=outcome,
        quantity=quantity,
        unit="ratio",
        estimand="W",
        runs=2 * int(row["seeds"]),
        **effect(row["ratio"], row["low"], row["high"]),
        **{**fields, "condition": condition},
    )


def _of_correlations(correlations: pd.DataFrame, fields: Mapping[str, Any]) -> list[Claim]:
    """Spearman's correlation over all minima is above 0 by its interval, and passes Holm's correction, over `UNITS` settings."""
    found = []
    for outcome, name in (("test_error", "test error"), ("test_loss", "test loss")):
        words = f"The rise along filter-normalized directions follows the {name}."
        row = _correlation(correlations, outcome)
        if row is None or row["settings"] < UNITS:
            found.append(not_tested(words, LI, **fields))
            continue
        verdict = above(row["low"], row["high"])
        found.append(
            Claim(
                claim=words,
                source=LI,
                outcome=verdict if row["p_holm"] < 0.05 else "undecided",
                quantity=f"Spearman's correlation of the rise along filter-normalized directions and the {name}",
                unit="correlation",
                estimand="W",
                runs=int(row["minima"]),
                **effect(row["rho"], row["low"], row["high"]),
                **fields,
            )
        )
    return found


def _correlation(correlations: pd.DataFrame, outcome: str) -> pd.Series | None:
    """The row of the filter-normalized rise over all minima; None if its correlation does not exist."""
    if correlations.empty:
        return None
    rows = correlations[(correlations["measure"] == FILTERS) & (correlations["outcome"] == outcome)]
    rows = rows[(rows["scope"] == "all minima") & rows["rho"].notna()]
    return rows.iloc[0] if len(rows) else None
