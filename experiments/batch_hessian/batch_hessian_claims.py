"""The claims of Granziol et al. about batch Hessians and the largest stable rates, from the tables of the study."""

from typing import Any

import numpy as np
import pandas as pd
from batch_hessian_agreement import CRITICAL_BATCH_FACTOR, CURVE_FACTOR, FITTED_FROM, SLOPE_MARGIN

from optbench.analysis.claim_outcomes import batches, below, effect, not_tested, place, within
from optbench.analysis.claims import EXPONENT, Claim, Outcome
from optbench.analysis.statistics.intervals import Interval, student

SOURCE = "Granziol et al. 2022"
#: The exponent of the largest stable rate below the threshold, by optimizer.
RULES = {"sgd": 1.0, "adam": 0.5}
RATE = "exponent of the largest stable learning rate in the batch"
LABELS = {"sgd": "SGD", "adam": "Adam"}


def over_seeds(values: "pd.Series[float]") -> Interval:
    """The geometric mean with Student's interval."""
    return student(np.log(values.to_numpy(float))).exp()


def claims(runs: pd.DataFrame, stars: pd.DataFrame, exponents: pd.DataFrame, rates: pd.DataFrame | None) -> list[Claim]:
    """The claims, from the tables critical_batches, exponents and maximal_learning_rates (None before it is measured)."""
    common: dict[str, Any] = {"source": SOURCE, "estimand": "W", **place(runs)}
    found = []
    for point, own in stars.groupby("point", sort=False):
        here = common | {"condition": str(point), "runs": len(own)}
        form = over_seeds(own["off_by_fitted"])
        ratio = over_seeds(own["b_star_isotropic"] / own[f"b_star_fitted_from_{FITTED_FROM}"])
        found += [
            Claim(
                claim="The largest eigenvalue of the batch Hessian grows as 1 + b*/b.",
                outcome=below(form.low, form.high, CURVE_FACTOR),
                quantity="factor between the fitted curve and the largest eigenvalue of the batch Hessian",
                unit="ratio",
                **effect(form.estimate, form.low, form.high),
                **here,
            ),
            Claim(
                claim="Its constant b* is that of noise which is equally large in every direction.",
                outcome=within(ratio.low, ratio.high, 1 / CRITICAL_BATCH_FACTOR, CRITICAL_BATCH_FACTOR),
                quantity="b*, isotropic prediction over fit",
                unit="ratio",
                **effect(ratio.estimate, ratio.low, ratio.high),
                **here,
            ),
        ]
    return [*found, *_of_exponents(exponents, common), *_of_rates(rates, common)]


def _of_exponents(exponents: pd.DataFrame, common: dict[str, Any]) -> list[Claim]:
    """The slopes over the smaller and over the larger half of the batch sizes."""
    found = []
    for name, power in RULES.items():
        rule = f"The largest stable rate of {LABELS[name]} grows {'linearly' if power == 1 else 'with the square root'}"
        rows = exponents[exponents["quantity"].str.endswith(f"rate of {LABELS[name]}")]
        if rows.empty:
            found.append(not_tested(f"{rule}.", SOURCE, method=name))
        for point, own in rows.groupby("point", sort=False):
            ends = own["smallest_batch"].min(), own["largest_batch"].max()
            for row in own.to_dict("records"):
                small, large = row["smallest_batch"] == ends[0], row["largest_batch"] == ends[1]
                if small == large:  # over all sizes
                    continue
                expected = power if small else 0.0
                margins = expected - SLOPE_MARGIN, expected + SLOPE_MARGIN
                outcome: Outcome = within(row["low"], row["high"], *margins)
                found.append(
                    Claim(
                        claim=f"{rule} at small batches."
                        if small
                        else f"Above a threshold that of {LABELS[name]} is constant.",
                        outcome=outcome,
                        quantity=RATE,
                        unit=EXPONENT,
                        method=name,
                        condition=f"{batches(row['smallest_batch'], row['largest_batch'])}, {point}",
                        runs=row["seeds"],
                        **effect(row["exponent"], row["low"], row["high"]),
                        **common,
                    )
                )
    return found


def _of_rates(rates: pd.DataFrame | None, common: dict[str, Any]) -> list[Claim]:
    """SGD's largest stable rate over 2/λ₁', at the smallest and at the largest batch."""
    words = "The largest stable rate of SGD is 2 over the largest eigenvalue of the batch Hessian."
    if rates is None:
        return [not_tested(words, SOURCE, method="sgd")]
    found = []
    for (point, batch), own in rates.groupby(["point", "batch"], sort=False):
        if batch in (rates["batch"].min(), rates["batch"].max()):
            ratio = over_seeds(own["sgd"] / own["two_over_top"])
            found.append(
                Claim(
                    claim=words,
                    outcome=within(ratio.low, ratio.high, 1 / CURVE_FACTOR, CURVE_FACTOR),
                    quantity="largest stable rate of SGD over 2/λ₁'",
                    unit="ratio",
                    method="sgd",
                    condition=f"{batches(batch)}, {point}",
                    runs=len(own),
                    **effect(ratio.estimate, ratio.low, ratio.high),
                    **common,
                )
            )
    return found
