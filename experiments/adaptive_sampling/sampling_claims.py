"""The claims of Lotfi et al. about the first step size, one for each criterion and problem, from the tables of the study."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from optbench.analysis.claim_outcomes import decided, effect, not_tested, place
from optbench.analysis.claims import Claim, Outcome

SOURCE_FIRST, SOURCE_ADAPTIVE, SOURCE_WANG = "Lotfi et al. 2020", "Lotfi et al. 2021", "Wang et al. 2017"
#: ARAS has less than this share of the range of SGD over step sizes.
SHARE = 0.2
CONVEX = "logreg"


def claims(
    runs: pd.DataFrame,
    losses: pd.DataFrame,
    ranges: pd.DataFrame,
    methods: Mapping[str, str],
    models: Mapping[str, str],
) -> list[Claim]:
    """The claims, from the tables losses and ranges.

    methods: the names in the tables of "sgd", "plain", "controlled" and "adaptive". models: of each problem in the tables, of
    which softmax regression is convex.
    """
    found = []
    for problem in dict.fromkeys(ranges["problem"]):
        rows = ranges[ranges["problem"] == problem].set_index("method")
        model = models[str(problem)]
        fields: dict[str, Any] = {"matched_by": "gradients", **place(runs[runs["model"] == model])}
        found.append(_insensitive(rows, methods, fields))
        if model == CONVEX:
            found.append(_longest(losses[losses["problem"] == problem], methods, fields))
        else:
            found.append(_controlled(rows, methods, fields))
    return found or [not_tested("ARAS does not depend on its first step size.", SOURCE_ADAPTIVE)]


def _insensitive(rows: pd.DataFrame, methods: Mapping[str, str], fields: dict[str, Any]) -> Claim:
    """The largest range of any seed of ARAS is below 0.2 times the smallest of SGD; the effect is the ratio of the means."""
    words = "The final loss of ARAS depends far less on the first step size than that of SGD."
    ours, sgd = methods["adaptive"], methods["sgd"]
    if not {ours, sgd} <= set(rows.index):
        return not_tested(words, SOURCE_ADAPTIVE, **fields)
    one, other = rows.loc[ours], rows.loc[sgd]
    finite = math.isfinite(one["range"]) and math.isfinite(other["range"])
    # Of an infinite range on both sides nothing is known.
    known = math.isfinite(one["largest_range"]) or math.isfinite(other["smallest_range"])
    return Claim(
        claim=words,
        source=SOURCE_ADAPTIVE,
        outcome=decided(one["largest_range"] < SHARE * other["smallest_range"]) if known else "undecided",
        quantity="range of the final loss over first step sizes",
        unit="ratio",
        estimand="W",
        method="aras",
        against="sgd",
        runs=int(one["seeds"] * one["step_sizes"] + other["seeds"] * other["step_sizes"]),
        **(effect(one["range"] / other["range"]) if finite else {}),
        **fields,
    )


def _longest(losses: pd.DataFrame, methods: Mapping[str, str], fields: dict[str, Any]) -> Claim:
    """With the largest step size SdLBFGS ends below SGD: their intervals do not overlap, or only SGD diverges."""
    words = "With a large step size SdLBFGS ends below SGD on a convex problem."
    rows = losses[losses["step_size"] == losses["step_size"].max()].set_index("method")
    plain, sgd = methods["plain"], methods["sgd"]
    if not {plain, sgd} <= set(rows.index):
        return not_tested(words, SOURCE_WANG, **fields)
    one, other = rows.loc[plain], rows.loc[sgd]
    if not (math.isfinite(one["loss"]) and math.isfinite(other["loss"])):
        both = not (math.isfinite(one["loss"]) or math.isfinite(other["loss"]))
        outcome: Outcome = "undecided" if both else decided(math.isfinite(one["loss"]))
    else:
        outcome = "agrees" if one["high"] < other["low"] else "disagrees" if one["low"] > other["high"] else "undecided"
    difference = one["loss"] - other["loss"]
    return Claim(
        claim=words,
        source=SOURCE_WANG,
        outcome=outcome,
        quantity="final training loss",
        unit="nats an example",
        estimand="W",
        method="sdlbfgs",
        against="sgd",
        condition=f"first step size {losses['step_size'].max():g}",
        runs=int(one["seeds"] + other["seeds"]),
        **(effect(difference) if math.isfinite(difference) else {}),
        **fields,
    )


def _controlled(rows: pd.DataFrame, methods: Mapping[str, str], fields: dict[str, Any]) -> Claim:
    """The mean over seeds of the largest loss over step sizes."""
    words = "Control of the eigenvalues lowers the largest loss of SdLBFGS over step sizes."
    names = methods["controlled"], methods["plain"]
    if not set(names) <= set(rows.index):
        return not_tested(words, SOURCE_FIRST, **fields)
    one, other = (rows.loc[name] for name in names)
    difference = one["worst"] - other["worst"]
    known = math.isfinite(difference)
    lower = math.isfinite(one["worst"]) and one["worst"] < other["worst"]
    return Claim(
        claim=words,
        source=SOURCE_FIRST,
        outcome=decided(bool(lower)) if known or lower else "undecided",
        quantity="largest final training loss over first step sizes",
        unit="nats an example",
        estimand="W",
        method="sdlbfgs with control",
        against="sdlbfgs",
        runs=int(one["seeds"] * one["step_sizes"] + other["seeds"] * other["step_sizes"]),
        **(effect(difference) if known else {}),
        **fields,
    )
