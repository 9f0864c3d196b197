"""The claims of Zhang et al. about the quadratic model and a network, from the tables of the study."""

import math
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.claim_outcomes import (
    STEPS,
    STEPS_TREND,
    above,
    batches,
    below,
    effect,
    ended,
    holds,
    not_tested,
    place,
)
from optbench.analysis.claims import EXPONENT, RATIO_OF_STEPS, Claim, Outcome
from optbench.analysis.statistics.intervals import Interval

SOURCE = "Zhang et al. 2019"
#: A method helps little if it saves less than this factor; our own choice.
LITTLE = 1.25
#: For each method: how its savings change with the batch, and what it does at an end of the batch sizes.
TRENDS = {
    "momentum": ("The savings of momentum grow with the batch.", True),
    "adam": ("The savings of preconditioning grow with the batch.", True),
    "averaged": ("The savings of averaged weights fall with the batch.", False),
}
ENDS = (
    ("momentum", "largest", "Momentum saves steps at large batches."),
    ("adam", "largest", "Preconditioning saves steps at large batches."),
    ("averaged", "smallest", "Averaged weights save steps at small batches."),
)


def trends(savings: pd.DataFrame) -> pd.DataFrame:
    """The slope of the logarithm of every saving on that of the batch, by least squares.

    Columns source, method, slope, low, high, smallest_batch and largest_batch.
    The interval follows from those of the factors, taken as independent and normal in the logarithm; NaN without them, and for
    fewer than three batch sizes.
    """
    rows = []
    for (source, name), own in savings.groupby(["source", "method"], sort=False) if len(savings) else ():
        if len(own) < 3:
            continue
        x, y = np.log(own["batch"].to_numpy(float)), np.log(own["factor"].to_numpy(float))
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        errors = (np.log(own["high"].to_numpy(float)) - np.log(own["low"].to_numpy(float))) / 2
        slope, width = float(weights @ y), float(np.sqrt((weights**2) @ (errors**2)))
        row = {"source": source, "method": name, "slope": slope, "low": slope - width, "high": slope + width}
        rows.append(row | {"smallest_batch": own["batch"].min(), "largest_batch": own["batch"].max()})
    return pd.DataFrame(rows)


def trend_notes(table: pd.DataFrame) -> list[str]:
    """The trends of the network in words."""
    own = table[table["source"] == "network"] if len(table) else table
    each = ", ".join(
        f"{row['method']} {Interval(row['slope'], row['low'], row['high']):.2f}" for _, row in own.iterrows()
    )
    return [f"On the network the savings change with the batch as its power: {each}."] if each else []


def claims(
    runs: pd.DataFrame, measured: pd.DataFrame, savings: pd.DataFrame, slopes: pd.DataFrame, trend: pd.DataFrame
) -> list[Claim]:
    """The claims, from the tables trained_and_theory, savings, local_slopes and `trends`."""
    is_model = runs["dataset"] == "quadratic"
    return [_of_model(runs[is_model], measured), *_of_network(runs[~is_model], savings, slopes, trend)]


def _of_model(runs: pd.DataFrame, measured: pd.DataFrame) -> Claim:
    """No decided cell is off by more than a tenth, or crosses the target where the theory does not."""
    words = "On the quadratic model training takes the steps of its exact theory."
    if measured.empty:
        return not_tested(words, SOURCE)
    verdicts = measured["verdict"]
    outcome: Outcome = "agrees" if (verdicts == "agrees").any() else "undecided"
    ratios = measured.loc[measured["ratio"].notna() & (verdicts != "undecided"), "ratio"]
    return Claim(
        claim=words,
        source=SOURCE,
        outcome="disagrees" if (verdicts == "disagrees").any() else outcome,
        quantity="steps to the target, trained over theory",
        unit="ratio",
        estimand="W",
        matched_by="target",
        runs=ended(runs),
        **(effect(math.exp(np.log(ratios).mean())) if len(ratios) else {}),
        **place(runs),
    )


def _of_network(runs: pd.DataFrame, savings: pd.DataFrame, slopes: pd.DataFrame, trend: pd.DataFrame) -> list[Claim]:
    common: dict[str, Any] = {"source": SOURCE, "estimand": "W", "matched_by": "target", **place(runs)}
    own, slope = (table[table["source"] == "network"] if len(table) else table for table in (savings, slopes))
    changes = trend[trend["source"] == "network"].set_index("method") if len(trend) else trend
    found = []
    for name, (words, grows) in TRENDS.items():
        if name not in changes.index:
            found.append(not_tested(words, SOURCE, method="sgd", against=name))
            continue
        row = changes.loc[name]
        found.append(
            Claim(
                claim=words,
                outcome=(above if grows else below)(row["low"], row["high"]),
                quantity=STEPS_TREND,
                unit=EXPONENT,
                method="sgd",
                against=name,
                condition=batches(row["smallest_batch"], row["largest_batch"]),
                runs=_of_both(runs, name),
                **effect(row["slope"], row["low"], row["high"]),
                **common,
            )
        )
    for name, end, words in ENDS:
        here = own[own["method"] == name] if len(own) else own
        if here.empty:
            found.append(not_tested(words, SOURCE, method="sgd", against=name))
            continue
        row = here.loc[here["batch"].idxmax() if end == "largest" else here["batch"].idxmin()]
        found.append(_saving(words, above(row["low"], row["high"], 1.0), row, runs, common))
    small = own[own["method"] == "momentum"].sort_values("batch").head(1) if len(own) else own
    for _, row in small.iterrows():
        words = "Momentum does not help at small batches."
        found.append(_saving(words, below(row["low"], row["high"], LITTLE), row, runs, common))
    plain = slope[slope["method"] == "sgd"].sort_values("batch_low").head(1) if len(slope) else slope
    for _, row in plain.iterrows():
        found.append(
            Claim(
                claim="At the smallest batches twice the batch takes half the steps of SGD.",
                outcome=holds(row["low"], row["high"], -1.0, 0.0),
                quantity="local slope of the steps to the target in the batch",
                unit=EXPONENT,
                method="sgd",
                condition=batches(row["batch_low"], row["batch_high"]),
                runs=ended(
                    runs[(runs["optimizer"] == "sgd") & runs["batch"].isin([row["batch_low"], row["batch_high"]])]
                ),
                **effect(row["slope"], row["low"], row["high"]),
                **common,
            )
        )
    return found


def _saving(words: str, outcome: Outcome, row: pd.Series, runs: pd.DataFrame, common: dict[str, Any]) -> Claim:
    return Claim(
        claim=words,
        outcome=outcome,
        quantity=STEPS,
        unit=RATIO_OF_STEPS,
        method="sgd",
        against=str(row["method"]),
        condition=batches(row["batch"]),
        runs=_of_both(runs[runs["batch"] == row["batch"]], str(row["method"])),
        **effect(row["factor"], row["low"], row["high"]),
        **common,
    )


def _of_both(runs: pd.DataFrame, name: str) -> int:
    """The number of runs of SGD, whose averages are those of the method averaged, and of another optimizer."""
    return ended(runs[runs["optimizer"].isin(["sgd", name])])
