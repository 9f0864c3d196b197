"""The claims of the papers about coresets, a claim for each criterion, model and selection, from the table of the pairs."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from optbench.analysis.claim_outcomes import above, below, effect, not_tested, place
from optbench.analysis.claims import Claim, Outcome

SOURCES = {"craig": "Mirzasoleiman et al. 2020", "adacore": "Pooladzandi et al. 2022"}
SELECTION = "config.selection.name"
Side = Callable[[float, float, float], Outcome]
#: For each criterion: its claim, the value, its quantity and unit, the selections that are compared, and the side of the bound.
CRITERIA: tuple[tuple[str, str, str, str, tuple[tuple[str, str], ...], Side, float], ...] = (
    ("The gradient of {one} has a smaller error in the last layer than that of {other}.", "last_layer_error",
     "error of the gradient of the last layer", "ratio", (("craig", "random"), ("adacore", "random")), below, 1.0),
    ("{one} has a higher test accuracy than {other}.", "test_accuracy", "test accuracy", "points",
     (("craig", "random"), ("adacore", "random"), ("adacore", "craig")), above, 0.0),
    ("{one} comes to its accuracy in less time than training on {other}.", "speed_up", "speed-up, selection included",
     "ratio", (("craig", "none"), ("adacore", "none")), above, 1.0),
)  # fmt: skip


def claims(runs: pd.DataFrame, pairs: pd.DataFrame, names: Mapping[str, str]) -> list[Claim]:
    """The claims, from the table comparisons. names: of the selections, in words."""
    found = []
    for words, value, quantity, unit, compared, side, bound in CRITERIA:
        for one, other in compared:
            claim = words.format(one=names[one], other="random subsets" if other == "random" else names[other])
            chosen = (pairs["one"] == one) & (pairs["other"] == other) & (pairs["value"] == value) if len(pairs) else []
            rows = pairs[chosen] if len(pairs) else pairs
            if rows.empty:
                found.append(not_tested(claim, SOURCES[one], method=one, against=other))
            for row in rows.to_dict("records"):
                own = runs[(runs["model"] == row["model"]) & runs[SELECTION].isin([one, other])]
                factor = 100.0 if value == "test_accuracy" else 1.0
                fields: dict[str, Any] = effect(row["mean"], row["low"], row["high"], factor)
                fields |= place(own) | {"runs": 2 * int(row["seeds"])}
                found.append(
                    Claim(
                        claim=claim,
                        source=SOURCES[one],
                        outcome=side(row["low"], row["high"], bound),
                        quantity=quantity,
                        unit=unit,
                        estimand="W",
                        method=one,
                        against=other,
                        matched_by="target" if value == "speed_up" else "gradients",
                        **fields,
                    )
                )
    return found
