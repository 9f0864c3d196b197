"""The claims of Kunin et al. about settled weights, from the table of the settings and that of all runs."""

from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.claim_outcomes import all_of, below, effect, not_tested, place, within
from optbench.analysis.claims import Claim
from optbench.analysis.statistics.intervals import Interval, student

SOURCE = "Kunin et al. 2021"
#: What counts as agreement: local displacements and frequencies as ratios to their predictions, exponents as differences.
LOCAL, FREQUENCY, EXPONENT = 0.2, 0.1, 0.15
#: The hyperparameters along which the predicted exponents fall.
FALLING = ("learning rate", "batch", "momentum")
#: For each part of the settings, the axes that it has.
PARTS = {"network": ("base", *FALLING), "quadratic model": ("quadratic",)}
DIFFERENCE = "exponent of diffusion, measured minus predicted"


def claims(done: pd.DataFrame, settings: pd.DataFrame, runs: pd.DataFrame) -> list[Claim]:
    """The claims; settings: means over seeds with their intervals; runs: a row for each run; ``done``: with dataset and model.

    A claim holds for all settings of the network, or of the quadratic model; its effect is that of the setting which is
    furthest from it. The control, which has not settled, has no part.
    """
    found = []
    for part, axes in PARTS.items():
        own, each = (table[table["axis"].isin(axes)] for table in (settings, runs))
        on_model = done["model"] == "quadratic"
        common: dict[str, Any] = {"source": SOURCE, "estimand": "W", **place(done[on_model == (part != "network")])}
        if own.empty:
            found.append(not_tested(f"On the {part} settled weights move as a stationary process.", SOURCE))
            continue
        known = own[own["frequency_ratio"].notna()]
        differences = {
            str(case): student((rows["exponent"] - rows["exponent_predicted"]).to_numpy(float))
            for case, rows in each.groupby("case", sort=False)
        }
        found += [
            _furthest(f"On the {part} the mean squared step is that of the prediction.", "mean squared step over its prediction",
                      _intervals(own, "local_ratio"), 1.0, LOCAL, each, common),
            _furthest(f"On the {part} weights diffuse with the predicted exponent.", DIFFERENCE,
                      differences, 0.0, EXPONENT, each, common),
            _furthest(f"On the {part} weights oscillate with the predicted frequency.", "frequency over its prediction",
                      _intervals(known, "frequency_ratio"), 1.0, FREQUENCY, each, common),
        ]  # fmt: skip
    return [*found, *_of_trends(done, runs)]


def _intervals(settings: pd.DataFrame, name: str) -> dict[str, Interval]:
    return {row["case"]: Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for _, row in settings.iterrows()}


def _furthest(
    words: str,
    quantity: str,
    found: dict[str, Interval],
    centre: float,
    width: float,
    runs: pd.DataFrame,
    common: dict[str, Any],
) -> Claim:
    if not found:
        return not_tested(words, SOURCE, quantity=quantity)
    case = max(found, key=lambda name: abs(found[name].estimate - centre))
    value = found[case]
    return Claim(
        claim=words,
        outcome=all_of(within(each.low, each.high, centre - width, centre + width) for each in found.values()),
        quantity=quantity,
        unit="ratio" if centre else "difference",
        condition=f"{case}, the furthest of {len(found)}",
        runs=int(runs["case"].isin(list(found)).sum()),
        **effect(value.estimate, value.low, value.high),
        **common,
    )


def _of_trends(done: pd.DataFrame, runs: pd.DataFrame) -> list[Claim]:
    """The exponent at the largest value of a hyperparameter minus that at the smallest, by seed, is below 0."""
    found = []
    for axis in FALLING:
        words, column = f"The exponent of diffusion falls with the {axis}.", axis.replace(" ", "_")
        own = runs[runs["axis"].isin([axis, "base"])]
        ends = own[column].min(), own[column].max()
        if own.empty or ends[0] == ends[1]:
            found.append(not_tested(words, SOURCE))
            continue
        small, large = (own[np.isclose(own[column], end)].set_index("seed")["exponent"] for end in ends)
        value = student((large - small).dropna().to_numpy(float))
        found.append(
            Claim(
                claim=words,
                source=SOURCE,
                outcome=below(value.low, value.high),
                quantity="exponent of diffusion, large minus small value",
                unit="difference",
                estimand="W",
                condition=f"{axis} {ends[0]:g} and {ends[1]:g}",
                runs=len(small) + len(large),
                **effect(value.estimate, value.low, value.high),
                **place(done[done["model"] != "quadratic"]),
            )
        )
    return found
