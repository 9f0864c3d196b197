"""The claims about shift, noise and the test loss, one for each criterion, from the tables of the study."""

from typing import Any

import pandas as pd
from shift_points import REPLACED, by_seed, regression, sizes_at_most

from optbench.analysis.claim_outcomes import above, all_of, decided, effect, not_tested, place, within
from optbench.analysis.claims import Claim
from optbench.analysis.statistics.intervals import student

SOURCE = "Bradley et al. 2021"
#: Up to this temperature the shift is to have at least this share of the sum.
COLD, SHARE = 1 / 128, 0.85
NEAR_PREDICTION, NEAR_ONE, NEAR_RISE = 0.15, 0.95, 0.10


def claims(runs: pd.DataFrame, table: pd.DataFrame, means: pd.DataFrame) -> list[Claim]:
    """The claims about softmax regression, from the tables points and settings."""
    own = regression(means)
    if own.empty:
        return [not_tested("For small noise the shift is the largest of the terms that raise the test loss.", SOURCE)]
    each = table[(table["model"] == "logreg") & (table["drawing"] == REPLACED)]
    fields: dict[str, Any] = {"source": SOURCE, "method": "sgd", "estimand": "W"}
    common = fields | place(runs[runs["model"] == "logreg"])
    return [
        *_of_shift(own, each, common),
        *_of_settings(own, each, common),
        _of_quadratic(own, each, common),
    ]


def _of_shift(own: pd.DataFrame, each: pd.DataFrame, common: dict[str, Any]) -> list[Claim]:
    """The largest term, with 85 % of the sum, in every run at temperatures of at most 1/128; the effect is the mean by seed."""
    cold, runs = own[own["temperature"] <= COLD], each[each["temperature"] <= COLD]
    words = "For small noise the shift is the largest of the terms that raise the test loss."
    if cold.empty:
        return [not_tested(words, SOURCE)]
    holds = (cold["shift_is_largest"] == cold["seeds"]).all() and (runs["share"] >= SHARE).all()
    share = student(runs.groupby("seed")["share"].mean().to_numpy(float))
    return [
        Claim(
            claim=words,
            outcome=decided(bool(holds)),
            quantity="share of the shift in the terms that raise the test loss",
            unit="fraction",
            condition="temperature of at most 1/128",
            runs=len(runs),
            **effect(share.estimate, share.low, share.high),
            **common,
        )
    ]


def _of_settings(own: pd.DataFrame, each: pd.DataFrame, common: dict[str, Any]) -> list[Claim]:
    """In all settings by their intervals; the effect is that of the setting which is furthest from 1."""
    found = []
    for name, width, words, quantity in (
        ("over_prediction", NEAR_PREDICTION, "The covariance of the weights adds what the noise of SGD predicts.",
         "covariance term over its prediction"),
        ("accuracy", NEAR_RISE, "The terms together are the rise of the test loss.", "sum of the terms over the rise"),
    ):  # fmt: skip
        known = own.dropna(subset=[name])
        if known.empty:
            found.append(not_tested(words, SOURCE, quantity=quantity))
            continue
        far = known.loc[(known[name] - 1).abs().idxmax()]
        rows = zip(known[f"{name}_low"], known[f"{name}_high"], strict=True)
        where = f"n = {far['examples']}, λ = {far['penalty']:g}, η = {far['learning_rate']:g}, b = {far['batch']}"
        found.append(
            Claim(
                claim=words,
                outcome=all_of(within(low, high, 1 - width, 1 + width) for low, high in rows),
                quantity=quantity,
                unit="ratio",
                condition=f"{where}, the furthest of {len(known)}",
                runs=len(each),
                **effect(far[name], far[f"{name}_low"], far[f"{name}_high"]),
                **common,
            )
        )
    return found


def _of_quadratic(own: pd.DataFrame, each: pd.DataFrame, common: dict[str, Any]) -> Claim:
    """Q/G at the largest training set and penalty, the mean by seed."""
    cells = sizes_at_most(own)
    ratio = student(by_seed(each, cells, "ratio").to_numpy(float))
    return Claim(
        claim="The loss is a quadratic over the shift at large training sets and penalties.",
        outcome=above(ratio.low, ratio.high, NEAR_ONE),
        quantity="shift term over the rise of the test loss between the minima",
        unit="ratio",
        condition=f"n = {cells['examples'].max()}, λ = {cells['penalty'].max():g}",
        runs=int(cells["seeds"].sum()),
        **effect(ratio.estimate, ratio.low, ratio.high),
        **common,
    )
