"""The claims of Sutskever et al., one or two for each criterion, from the errors of every cell and seed."""

import math
from typing import Any

import pandas as pd
from momentum_tables import (
    GAIN,
    HEAVY_BALL,
    LARGE,
    NESTEROV,
    SAME,
    SGD,
    SMALL,
    SOLVED,
    against_sgd,
    cell,
    final_phase,
    lead_over_heavy_ball,
    of_scales,
    plain,
    ratio,
)

from optbench.analysis.claim_outcomes import above, below, decided, effect, ended, not_tested, within
from optbench.analysis.claims import Claim, Outcome
from optbench.analysis.statistics.intervals import Interval

SOURCE = "Sutskever et al. 2013"
SQUARED, WRONG = "squared error on the training set", "wrong answers on the test set"
NAMES = {SGD: "sgd", NESTEROV: "nesterov", HEAVY_BALL: "momentum"}


def claims(
    runs: pd.DataFrame, pictures: pd.DataFrame, sequences: pd.DataFrame, blind: "pd.Series[float]"
) -> list[Claim]:
    """The claims; pictures, sequences: `momentum_tables.by_seed` of the autoencoders and of the tasks; ``blind``: by task."""
    delayed = runs["config.momentum_schedule.name"] == "delayed"
    found = [*_autoencoders(runs[~delayed], pictures), *_initialization(runs[~delayed], pictures)]
    return [*found, *_recurrent(runs[delayed], sequences, blind)]


def _claim(words: str, outcome: Outcome, quantity: str, found: Interval, unit: str = "ratio", **fields: Any) -> Claim:
    known = math.isfinite(found.estimate)
    bounds: dict[str, Any] = effect(found.estimate, found.low, found.high) if known else {}
    return Claim(
        claim=words,
        source=SOURCE,
        outcome=outcome,
        quantity=quantity,
        unit=unit,
        estimand="W",
        matched_by="steps",
        **bounds,
        **fields,
    )


def _autoencoders(runs: pd.DataFrame, pictures: pd.DataFrame) -> list[Claim]:
    """Criteria 1 to 3."""
    found = []
    for model, own in plain(pictures).groupby("model", sort=False):
        here = {"model": str(model), "dataset": "/".join(sorted(runs["dataset"].unique()))}
        here |= {"runs": ended(runs[runs["model"] == model])}
        best, gain = against_sgd(own)
        found.append(
            _claim(
                "The best momentum at least halves the error of SGD on a deep autoencoder.",
                below(gain.low, gain.high, GAIN),
                SQUARED, gain, method="nesterov", against="sgd", condition=f"momentum {best:g}", **here,
            )
        )  # fmt: skip
        for momentum, words in (
            (SMALL, "At a moderate momentum Nesterov's method and the heavy ball do not differ."),
            (LARGE, "At a large momentum Nesterov's method has the lower error."),
        ):
            both = (cell(own, method=name, momentum=momentum) for name in (NESTEROV, HEAVY_BALL))
            value = ratio(*both)
            same = within(value.low, value.high, 1 - SAME, 1 + SAME)
            found.append(
                _claim(
                    words,
                    same if momentum == SMALL else below(value.low, value.high, 1.0),
                    SQUARED, value, method="nesterov", against="momentum", condition=f"momentum {momentum:g}", **here,
                )
            )  # fmt: skip
        quotient = ratio(*(final_phase(own, HEAVY_BALL, momentum) for momentum in (LARGE, SMALL)))
        found.append(
            _claim(
                "The heavy ball gains more from a lower momentum at the end where its momentum was large.",
                below(quotient.low, quotient.high, 1.0),
                "error after over before the final phase, large over small momentum",
                quotient, method="momentum", condition=f"momentum {LARGE:g} and {SMALL:g}", **here,
            )
        )  # fmt: skip
    return found or [not_tested("The best momentum at least halves the error of SGD on a deep autoencoder.", SOURCE)]


def _initialization(runs: pd.DataFrame, pictures: pd.DataFrame) -> list[Claim]:
    """Criterion 4, for the smallest and the largest scale."""
    words = "Weights of the recommended scale are better than {} ones."
    found = []
    for (model, momentum), ratios in of_scales(pictures):
        for scale, size in ((min(ratios), "smaller"), (max(ratios), "larger")):
            value = ratios[scale]
            found.append(
                _claim(
                    words.format(size), above(value.low, value.high, 1.0),
                    "squared error, initialization with a scale over that with scale 1",
                    value, method="nesterov", condition=f"scale {scale:g}, momentum {momentum:g}", model=model,
                    runs=ended(runs[runs["config.init.scale"].astype(float).isin([1.0, scale]) & (runs["model"] == model)]),
                    dataset="/".join(sorted(runs["dataset"].unique())),
                )
            )  # fmt: skip
    return found or [not_tested(words.format(size), SOURCE) for size in ("smaller", "larger")]


def _recurrent(runs: pd.DataFrame, sequences: pd.DataFrame, blind: "pd.Series[float]") -> list[Claim]:
    """Criteria 5, for each task that SGD does not solve, and 6, over the tasks."""
    words = "Momentum at least halves the errors of SGD on a recurrent task."
    found = []
    for task, own in sequences.groupby("task", sort=False) if len(sequences) else ():
        errors = cell(own, method=SGD)
        best, value = against_sgd(own)
        if errors.empty or math.isnan(best):
            continue
        solved = errors.mean() <= SOLVED * blind[task]
        # Without errors in a seed a ratio by seed does not exist; then the means decide, as in the criterion.
        halved = cell(own, method=NESTEROV, momentum=best).mean() <= GAIN * errors.mean()
        outcome = below(value.low, value.high, GAIN) if math.isfinite(value.low) else decided(bool(halved))
        found.append(
            _claim(
                words, "not tested" if solved else outcome, WRONG, value,
                method="nesterov", against="sgd", dataset=str(task), condition=f"momentum {best:g}",
                runs=ended(runs), model="/".join(sorted(runs["model"].unique())),
            )
        )  # fmt: skip
    lead = lead_over_heavy_ball(sequences, blind)
    if lead is None:
        return found or [not_tested(words, SOURCE)]
    momentum, table, value = lead
    return [
        *found,
        _claim(
            "At a large momentum Nesterov's method makes fewer errors than the heavy ball on recurrent tasks.",
            below(value.low, value.high), "share of the errors without the sequence", value, "difference",
            method="nesterov", against="momentum", condition=f"momentum {momentum:g}", dataset="/".join(map(str, table)),
            runs=ended(runs), model="/".join(sorted(runs["model"].unique())),
        ),
    ]  # fmt: skip
