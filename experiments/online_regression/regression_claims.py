"""The claims about online gradient regression: the values that its author prints, and what it gains on a network."""

from typing import Any

import pandas as pd
from beale_values import PRINTED

from optbench.analysis.claim_outcomes import below, effect, ended, not_tested, place, within
from optbench.analysis.claims import Claim
from optbench.analysis.names import method

SOURCE = "Duda 2019"
#: The factor within which a value agrees with the printed one; two directions differ so much between draws of the noise.
FACTORS = {"two directions": 2.0}
FACTOR = 1.2


def claims(runs: pd.DataFrame, values: pd.DataFrame, compared: pd.DataFrame) -> list[Claim]:
    """The claims, from the tables beale and differences."""
    on_beale = runs["dataset"] == "beale_starts"
    common: dict[str, Any] = {"source": SOURCE, "estimand": "W"}
    found = []
    printed = values[values["method"].isin(list(PRINTED))] if len(values) else values
    for row in printed.to_dict("records"):
        factor = FACTORS.get(row["method"], FACTOR)
        bounds = [row[name] / row["printed"] for name in ("geometric_mean", "low", "high")]
        found.append(
            Claim(
                claim=f"On Beale's function the variant {row['method']!r} ends where the notebook prints it.",
                outcome=within(*bounds[1:], 1 / factor, factor),
                quantity="final value over the printed one",
                unit="ratio",
                method=row["method"],
                matched_by="steps",
                runs=int(row["seeds"]),
                **effect(*bounds),
                **common,
                **place(runs[on_beale]),
            )
        )
    for row in compared.to_dict("records"):
        own = runs[(runs["dataset"] == row["dataset"]) & runs["optimizer"].isin(["ogr", row["other"]])]
        found.append(
            Claim(
                claim=f"On a network it has a lower test loss than {method(row['other'])}.",
                outcome=below(row["low"], row["high"]),
                quantity="test loss",
                unit="nats an example",
                method="ogr",
                against=row["other"],
                matched_by="steps",
                runs=ended(own),
                **effect(row["difference"], row["low"], row["high"]),
                **common,
                **place(own),
            )
        )
    return found or [not_tested("Curvatures from a regression of gradients save steps.", SOURCE)]
