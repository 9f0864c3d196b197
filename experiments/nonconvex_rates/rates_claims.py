"""The claims of the review of rates on non-convex problems, one for each criterion, from the tables of the study."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from measured_rates import TOLERANCE as FACTOR_TOLERANCE
from oracle_cells import RIDGE
from without_gradients import TOLERANCE

from optbench.analysis.claim_outcomes import all_of, decided, effect, ended, not_tested, place, within
from optbench.analysis.claims import EXPONENT, Claim, Outcome
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval

SOURCE = "Danilova et al. 2020"
#: The methods that are to come away from a ridge, and those that are not.
LEAVING, STAYING = ("cubic_newton", "saddle_free", "perturbed_sgd"), ("sgd", "momentum", "nesterov", "adam", "lbfgs")
#: The slope of the gradient of SGD on the length of a run, and that of a ratio that does not depend on the dimension.
BOUND, FLAT = -0.25, 0.1


def claims(
    runs: pd.DataFrame,
    calls: pd.DataFrame,
    factors: pd.DataFrame,
    kept: pd.DataFrame,
    across: Interval | None,
    share: pd.DataFrame,
    grown: Mapping[str, Interval],
) -> list[Claim]:
    """The claims, from the oracle calls, local factors, bounds, slope of SGD, and sums of step sizes with their slopes."""
    return [
        *_of_ridge(runs, calls),
        *_of_factors(factors),
        _of_bounds(runs, kept),
        _of_noise(runs, across),
        *_without_gradients(runs, share, grown),
    ]


def _claim(words: str, outcome: Outcome, **fields: Any) -> Claim:
    return Claim(claim=words, source=SOURCE, outcome=outcome, **({"estimand": "W"} | fields))


def _of_ridge(runs: pd.DataFrame, calls: pd.DataFrame) -> list[Claim]:
    ridge = calls[calls["problem"] == RIDGE].set_index("optimizer") if len(calls) else calls
    found = []
    for name in (*LEAVING, *STAYING):
        leaves = name in LEAVING
        words = f"{method(name)} {'leaves' if leaves else 'does not leave'} the ridge of a saddle point."
        if name not in ridge.index:
            found.append(not_tested(words, SOURCE, method=name))
            continue
        row = ridge.loc[name]
        arrived = row["arrived"] == row["seeds"] if leaves else row["arrived"] == 0
        here = runs[runs["optimizer"] == name]
        found.append(
            _claim(
                words, decided(bool(arrived)), quantity="share of seeds that come from the ridge to a minimum",
                unit="fraction", method=name, dataset="saddle", model="/".join(sorted(here["model"].unique())),
                runs=int(row["seeds"]), **effect(row["arrived"] / row["seeds"]),
            )
        )  # fmt: skip
    return found


def _of_factors(factors: pd.DataFrame) -> list[Claim]:
    """The median of log measured over log predicted, of each linear method, is within a tenth of 1."""
    words = "Near a minimum {} converges with the factor of the theory."
    found = []
    for name, own in factors.groupby("optimizer", sort=False) if len(factors) else ():
        middle = float(own["ratio"].median())
        found.append(
            _claim(
                words.format(method(name)), decided(abs(middle - 1) <= FACTOR_TOLERANCE),
                quantity="log of the local factor, measured over predicted", unit="ratio", method=str(name),
                runs=int(own["runs"].sum()) if "runs" in own else len(own), **effect(middle),
            )
        )  # fmt: skip
    return found or [not_tested(words.format("a linear method"), SOURCE)]


def _of_bounds(runs: pd.DataFrame, kept: pd.DataFrame) -> Claim:
    words = "No bound of gradient descent is exceeded."
    if kept.empty:
        return not_tested(words, SOURCE, method="sgd")
    largest = float(kept[["share", "gradient_share"]].max().max())
    return _claim(
        words, decided(largest <= 1), quantity="largest share of a bound along gradient descent", unit="fraction",
        method="sgd", dataset="/".join(sorted(kept["problem"].unique())), runs=len(kept), **effect(largest),
    )  # fmt: skip


def _of_noise(runs: pd.DataFrame, across: Interval | None) -> Claim:
    words = "The gradient of SGD falls at least as the fourth root of the length of a run."
    noisy = runs.get("config.dataset.noise", pd.Series(0.0, runs.index))
    own = runs[pd.to_numeric(noisy, errors="coerce") > 0]
    if across is None:
        return not_tested(words, SOURCE, method="sgd")
    # Met if the interval holds the exponent of the bound, or lies below it.
    outcome: Outcome = "undecided" if across.low != across.low else decided(across.low <= BOUND)
    return _claim(
        words, outcome, quantity="exponent of the gradient in the length of a run", unit=EXPONENT, method="sgd",
        runs=ended(own), **effect(across.estimate, across.low, across.high), **place(own),
    )  # fmt: skip


def _without_gradients(runs: pd.DataFrame, share: pd.DataFrame, grown: Mapping[str, Interval]) -> list[Claim]:
    """In all settings the sum of step sizes is near that of gradient descent, and their ratio does not grow with the weights."""
    flow = "Descent without gradients needs the sum of step sizes of gradient descent."
    dimension = "Its steps grow in proportion to the number of weights."
    own = runs[runs["optimizer"] == "zeroth_order"]
    names = {"method": "zeroth_order", "against": "sgd"}
    known = share[share["ratio"].notna()] if len(share) else share
    found = [not_tested(flow, SOURCE, **names)]
    if len(known):
        far = known.loc[(known["ratio"] - 1).abs().idxmax()]
        # A seed that does not arrive needs more than the run has.
        outcomes: list[Outcome] = [
            within(row["low"], row["high"], 1 / TOLERANCE, TOLERANCE) if row["arrived"] == row["seeds"] else "disagrees"
            for _, row in known.iterrows()
        ]
        found = [
            _claim(
                flow, all_of(outcomes), quantity="sum of step sizes without gradients over that with them",
                unit="ratio", condition=f"{far['weights']} weights, c = {far['c']:g}, the furthest of {len(known)}",
                matched_by="target", runs=int(known["seeds"].sum()), dataset="digits",
                model="/".join(sorted(known["model"].unique())), **names,
                **effect(far["ratio"], far["low"], far["high"]),
            )
        ]  # fmt: skip
    if "ratio" not in grown:
        return [*found, not_tested(dimension, SOURCE, **names)]
    slope = grown["ratio"]
    return [
        *found,
        _claim(
            dimension, within(slope.low, slope.high, -FLAT, FLAT),
            quantity="exponent of the ratio of sums of step sizes in the number of weights", unit=EXPONENT,
            matched_by="target", runs=ended(own[own["model"] == "mlp"]), **names,
            **effect(slope.estimate, slope.low, slope.high), **place(own[own["model"] == "mlp"]),
        ),
    ]  # fmt: skip
