"""The claims of Böttcher & Wheeler about random slices and the trace, from the table of all points and seeds."""

from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.claim_outcomes import decided, effect, not_tested, place, within
from optbench.analysis.claims import Claim, Outcome
from optbench.analysis.statistics.intervals import Interval, student

SOURCE = "Böttcher & Wheeler 2024"
#: Of a saddle rate: a lower rate is at most a few of several thousand slices, and such a formula is not tested.
RESOLUTION = 1e-3
#: The accepted difference between an observed saddle rate and the formula: the standard error of a share of 27 % (that before
#: the first step in earlier runs) among a hundred independent slices.
RATE_MARGIN = 0.045
#: That of a curvature or a trace, in units of the trace: two standard errors of the probe `trace` at its default tolerance.
CURVATURE_MARGIN = 0.1
#: Standard errors between two values that agree, and residuals below zero of an eigenvalue that is negative.
ERRORS, RESIDUALS = 2, 3


def errors_apart(slices: pd.DataFrame) -> "pd.Series[float]":
    """The joint standard errors between the observed and the predicted saddle rate, for every point and seed."""
    variance = slices["saddle_rate_error"] ** 2 + slices["predicted_saddle_rate_error"] ** 2
    return (slices["saddle_rate"] - slices["predicted_saddle_rate"]).abs() / (variance**0.5).clip(lower=RESOLUTION)


def saddles(slices: pd.DataFrame) -> "pd.Series[bool]":
    """True where the smallest eigenvalue is below zero by more than three residuals."""
    return slices["bottom"] < -RESIDUALS * slices["bottom_residual"]


def pooled_ratio(slices: pd.DataFrame) -> Interval:
    """The trace by projections over Hutchinson's, with Student's interval over seeds: the points of one are on one path."""
    by_seed = [np.average(own["ratio"], weights=own["ratio_error"] ** -2) for _, own in slices.groupby("seed")]
    return student(np.array(by_seed))


def claims(runs: pd.DataFrame, slices: pd.DataFrame) -> list[Claim]:
    """The claims; slices: the table of the findings, a row for each point and seed."""
    common: dict[str, Any] = {"source": SOURCE, "estimand": "W", **place(runs)}
    if slices.empty:
        return [not_tested("Random slices hide the saddles of the loss.", SOURCE)]
    found = []
    for point, own in slices.groupby("point", sort=False):
        here = common | {"condition": str(point), "runs": len(own)}
        rate, off = own["saddle_rate"], own["saddle_rate"] - own["predicted_saddle_rate"]
        hidden = bool((rate < RESOLUTION).all())
        outcome: Outcome = decided(hidden) if saddles(own).all() else "not tested"
        mean = student(off.to_numpy(float))
        small = bool((own["predicted_saddle_rate"] < RESOLUTION).all())
        found += [
            Claim(
                claim="Random slices hide a saddle that the eigenvectors show.",
                outcome=outcome,
                quantity="share of saddles among random slices",
                unit="fraction",
                **_mean(rate),
                **here,
            ),
            Claim(
                claim="The share of saddles among random slices is that of the formula.",
                outcome="not tested" if small else within(mean.low, mean.high, -RATE_MARGIN, RATE_MARGIN),
                quantity="share of saddles among random slices, observed minus predicted",
                unit="fraction",
                **_mean(off),
                **here,
            ),
        ]
    ratio = pooled_ratio(slices)
    return [
        *found,
        Claim(
            claim="Projections of the loss give the trace of the Hessian without products with it.",
            outcome=within(ratio.low, ratio.high, 1 - CURVATURE_MARGIN, 1 + CURVATURE_MARGIN),
            quantity="trace by projections over trace by products",
            unit="ratio",
            runs=len(slices),
            **effect(ratio.estimate, ratio.low, ratio.high),
            **common,
        ),
    ]


def _mean(values: "pd.Series[float]") -> dict[str, float]:
    found = student(values.to_numpy(float))
    return effect(found.estimate, found.low, found.high)
