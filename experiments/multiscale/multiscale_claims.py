"""The claims of Ma et al. about gradient descent at the edge of stability, from the tables of the study."""

from typing import Any

import pandas as pd

from optbench.analysis.claim_outcomes import decided, effect, not_tested, place, within
from optbench.analysis.claims import Claim
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.shares import clopper_pearson

SOURCE = "Ma et al. 2022"
CRITERIA = (
    ("Gradient descent stays at the edge of stability.", "share of runs at the edge of stability"),
    (
        "The loss grows more slowly than a quadratic where gradient descent oscillates, and not elsewhere.",
        "share of runs with subquadratic growth along sharp directions alone",
    ),
    ("The loss drops when the learning rate decays.", "share of runs whose loss drops with the rate"),
)
#: The drop of the loss is that of the oscillation if they differ by no more than this; our own choice.
SAME = 0.1


def claims(runs: pd.DataFrame, met: list["pd.Series[bool]"], difference: Interval | None) -> list[Claim]:
    """The claims; met: for each criterion the runs that meet it, which all have to.

    difference: the drop of the loss at the decay minus that from the last two weights to their midpoint.
    """
    common: dict[str, Any] = {"source": SOURCE, "method": "gradient descent", "estimand": "W", **place(runs)}
    found = []
    for (words, quantity), of_runs in zip(CRITERIA, met, strict=True):
        if of_runs.empty:
            found.append(not_tested(words, SOURCE, quantity=quantity))
            continue
        share = clopper_pearson(int(of_runs.sum()), len(of_runs))
        found.append(
            Claim(
                claim=words,
                outcome=decided(bool(of_runs.all())),
                quantity=quantity,
                unit="fraction",
                runs=len(of_runs),
                **effect(share.estimate, share.low, share.high),
                **common,
            )
        )
    words = "The drop of the loss is what the oscillation had added."
    if difference is None:
        return [*found, not_tested(words, SOURCE)]
    return [
        *found,
        Claim(
            claim=words,
            outcome=within(difference.low, difference.high, -SAME, SAME),
            quantity="drop of the loss, at the decay minus to the midpoint of two steps",
            unit="fraction",
            runs=len(met[2]),
            **effect(difference.estimate, difference.low, difference.high),
            **common,
        ),
    ]
