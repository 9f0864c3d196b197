"""The claims of papers about the three studies of second-order methods that are sweeps, from the table of their comparisons."""

import math
from typing import Any

import pandas as pd
from second_order_choices import Part, reported
from second_order_comparisons import ACCURACY, LOSS, SECONDS, STEPS, TREND

from optbench.analysis import claim_outcomes as names
from optbench.analysis.claim_outcomes import above, batches, below, decided, effect, not_tested, place
from optbench.analysis.claims import EXPONENT, RATIO_OF_STEPS, Claim, Outcome
from optbench.analysis.names import method

#: "Far fewer" iterations are this many times fewer; our own choice.
FAR = 2.0
AUTOENCODER, CONVNET, ENTROPY = "Martens & Grosse 2015", "Grosse & Martens 2016", "Chaudhari et al. 2017"


def claims(part: Part, ranked: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """The claims; table: `second_order_comparisons.comparisons` of the ``ranked`` runs."""
    again = reported(ranked)
    if part.name == "convnet":
        return _of_convnet(again, table)
    return _of_autoencoder(again, table) if part.name == "autoencoder" else _of_entropy(again, table)


def _of_convnet(again: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """Fewer steps at every batch, and a ratio of steps that grows with the batch."""
    found = []
    for row in table.to_dict("records"):
        one, other = method(row["method"]), method(row["against"])
        trend, own_family = row["what"] == TREND, row["method"] == "kfac"
        words = (
            f"{other}'s advantage over {one} grows with the batch."
            if trend
            else f"{other} needs fewer steps than {one}."
        )
        if trend and own_family:  # of EKFAC and K-FAC the papers say nothing
            continue
        here = again[again["optimizer"].isin([row["method"], row["against"]])]
        sizes = here["batch"].min(), here["batch"].max()
        here = here if trend else here[here["batch"] == row["batch"]]
        found.append(
            Claim(
                claim=words,
                source="George et al. 2018" if row["against"] == "ekfac" else CONVNET,
                outcome=above(row["low"], row["high"], 0.0 if trend else 1.0),
                quantity=names.STEPS_TREND if trend else names.STEPS,
                unit=EXPONENT if trend else RATIO_OF_STEPS,
                estimand="W",
                condition=batches(*sizes) if trend else batches(row["batch"]),
                **_common(row, here),
            )
        )
    return found or [not_tested("K-FAC needs fewer steps than SGD with momentum.", CONVNET, matched_by="target")]


def _of_autoencoder(again: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """Far fewer steps than Nesterov momentum to K-FAC's last loss, fewer seconds, and no higher loss at the end."""
    said = {
        STEPS: "Natural K-FAC needs far fewer iterations than Nesterov momentum.",
        SECONDS: "It needs less time (in the paper, on a GPU).",
        LOSS: "Its loss at the end is not above that of Nesterov momentum.",
    }
    units = {STEPS: RATIO_OF_STEPS, SECONDS: "ratio", LOSS: "nats an example"}
    sizes = [again.loc[again["optimizer"] == name, "batch"].max() for name in ("nesterov", "kfac_natural")]
    found = []
    for what, words in said.items():
        rows = table[table["what"] == what]
        if rows.empty:
            found.append(not_tested(words, AUTOENCODER, method="nesterov", against="kfac_natural"))
            continue
        row = rows.iloc[0].to_dict()
        bound = {STEPS: FAR, SECONDS: 1.0}.get(what)
        outcome = below(row["low"], row["high"]) if bound is None else above(row["low"], row["high"], bound)
        found.append(
            Claim(
                claim=words,
                source=AUTOENCODER,
                outcome=outcome,
                quantity=names.STEPS if what == STEPS else what,
                unit=units[what],
                estimand="W",
                condition=batches(*sizes) if what != LOSS else batches(*sizes[::-1]),
                **_common(row, again[again["optimizer"].isin([row["method"], row["against"]])], what != LOSS),
            )
        )
    return found


def _of_entropy(again: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """Within a standard deviation of the better baseline, or above."""
    words = "Entropy-SGD has the test accuracy of SGD at equal numbers of gradients."
    found = []
    for row in table[table["what"] == ACCURACY].to_dict("records"):
        baseline = again.loc[again["method"] == row["against"], "test_accuracy"]
        near: Outcome = "undecided" if len(baseline) < 2 else decided(row["value"] >= -float(baseline.std()))
        own = again[again["method"].isin([row["method"], row["against"]])]
        found.append(
            Claim(
                claim=words,
                source=ENTROPY,
                outcome=near,
                quantity="test accuracy",
                unit="points",
                estimand="W",
                **_common(row, own, target=False, factor=100.0) | {"matched_by": "gradients"},
            )
        )
    flat = not_tested("Its minima are flatter.", ENTROPY, method="Entropy-SGD")
    return [*(found or [not_tested(words, ENTROPY, matched_by="gradients")]), flat]


def _common(row: dict[str, Any], own: pd.DataFrame, target: bool = True, factor: float = 1.0) -> dict[str, Any]:
    bounds = effect(row["value"], row["low"], row["high"], factor)
    fields = {"method": row["method"], "against": row["against"], "runs": len(own), **place(own)}
    known = math.isfinite(bounds["effect"])
    return fields | (bounds if known else {}) | {"matched_by": "target" if target else ""}
