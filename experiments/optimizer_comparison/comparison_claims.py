"""The claims of papers about optimizers at equal tuning budgets, from the tables of the study; criteria: its README."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from comparison_ranks import CONTAINS

from optbench.analysis.claim_outcomes import above, all_of, below, decided, effect, ended, not_tested, place, steady
from optbench.analysis.claims import Claim, Outcome
from optbench.analysis.names import method
from optbench.analysis.statistics.tuning_gains import Gains

SCHMIDT, SIVAPRASAD, CHOI = "Schmidt et al. 2021", "Sivaprasad et al. 2020", "Choi et al. 2019"
GAIN = "test loss, default minus tuned, over the spread of tuned methods"
AHEAD = "test loss, contained minus containing method, over the spread of tuned methods"
#: "Many" methods are at least this share of the others.
MANY = 0.5
#: A container that is not shown to lose more than so many spreads does not lose.
NONE = 0.5
ADAM = ("adam", "adamw", "nadam", "amsgrad", "adamax")


def claims(runs: pd.DataFrame, ranks: pd.DataFrame, gains: Gains | None, failures: pd.DataFrame) -> list[Claim]:
    """The claims, from the tables ranks and failed_searches and the gains of tuning."""
    return [*_of_ranks(runs, ranks), *_of_gains(runs, gains), *_of_inclusion(runs, failures)]


def steadied(found: Sequence[Claim], without: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """The claims, undecided where they change without a seed, or, but for those about the settings found, a problem or a trial.

    without: the tables of `without_each` for each part.
    """
    kept = list(found)
    for part, table in without.items():
        own = steady(kept, table, part)
        kept = [
            claim if part != "seed" and claim.estimand == "W" else other for claim, other in zip(kept, own, strict=True)
        ]
    return kept


def _of_ranks(runs: pd.DataFrame, ranks: pd.DataFrame) -> list[Claim]:
    """Most ranks are not told apart from the best by their differences for new searches, and the first one changes."""
    many, everywhere = "Many tuned methods are not told apart from the best.", "No method is the best on every problem."
    over_all = ranks[ranks["problem"] == "all"].iloc[1:] if len(ranks) else ranks
    if over_all.empty:
        return [not_tested(words, SCHMIDT, matched_by="steps") for words in (many, everywhere)]
    fields = {"runs": ended(runs), "matched_by": "steps", **place(runs)}
    known = over_all["behind_low"].notna().all()
    share = float((over_all["behind_low"] > 0).mean()) if known else math.nan
    first = ranks[ranks["problem"] != "all"].groupby("problem", sort=False)["optimizer"].first()
    return [
        Claim(
            claim=many,
            source=SCHMIDT,
            outcome=decided(share <= 1 - MANY) if known else "undecided",
            quantity="share of the methods whose rank is told apart from the best",
            unit="fraction",
            estimand="S",
            **effect(share),
            **fields,  # type: ignore[arg-type]
        ),
        Claim(
            claim=everywhere,
            source=SCHMIDT,
            outcome=decided(first.nunique() > 1) if len(first) > 1 else "undecided",
            **fields,  # type: ignore[arg-type]
        ),
    ]


def _of_gains(runs: pd.DataFrame, gains: Gains | None) -> list[Claim]:
    """The median gain is above the spread of the tuned methods; the gains of Adam's family are below the median one."""
    words = "Tuning gains as much as the choice of the method."
    small = "Tuning adds little to the defaults."
    if gains is None or math.isnan(gains.median.estimate):
        return [
            not_tested(words, SCHMIDT, quantity=GAIN),
            not_tested(small, SIVAPRASAD, method="adam", quantity=GAIN),
        ]
    middle = gains.median
    found = [
        _gain(
            words,
            SCHMIDT,
            (middle.estimate, middle.low, middle.high),
            above(middle.low, middle.high, 1.0),
            runs,
            "",
            "median gain of all optimizers",
        )
    ]
    for _, row in gains.table[gains.table["method"].isin(ADAM)].dropna(subset="gain").iterrows():
        outcome = below(row["behind_low"], row["behind_high"])
        own = runs[runs["optimizer"] == row["method"]]
        found.append(_gain(small, SIVAPRASAD, row[["gain", "low", "high"]], outcome, own, row["method"], ""))
    return found


def _gain(
    words: str,
    source: str,
    values: "pd.Series | tuple[float, float, float]",
    outcome: Outcome,
    runs: pd.DataFrame,
    name: str,
    condition: str,
) -> Claim:
    return Claim(
        claim=words,
        source=source,
        outcome=outcome,
        quantity=GAIN,
        unit="spreads",
        estimand="S",
        method=name,
        condition=condition,
        matched_by="steps",
        runs=ended(runs),
        **effect(*values),
        **place(runs),
    )


def _of_inclusion(runs: pd.DataFrame, failures: pd.DataFrame) -> list[Claim]:
    """For each container the problem on which it fares worst, by the winners of both searches; a failed search disagrees."""
    found = []
    for container, contained in CONTAINS:
        words = f"Tuned, {method(container)} does not lose to {method(contained)}, which it contains."
        own = failures[(failures["container"] == container) & (failures["contained"] == contained)]
        own = own[own["difference"].notna()] if len(own) else own
        if own.empty:
            found.append(not_tested(words, CHOI, method=container, against=contained))
            continue
        outcomes: list[Outcome] = [
            "disagrees" if row["failed"] else "agrees" if row["low"] > -NONE else "undecided"
            for _, row in own.iterrows()
        ]
        worst = own.loc[own["difference"].idxmin()]
        trained = runs[runs["optimizer"].isin([container, contained])]
        found.append(
            Claim(
                claim=words,
                source=CHOI,
                outcome=all_of(outcomes),
                quantity=AHEAD,
                unit="spreads",
                estimand="W",
                method=container,
                against=contained,
                condition="the worst problem",
                matched_by="steps",
                runs=ended(trained),
                **effect(worst["difference"], worst["low"], worst["high"]),
                **place(trained),
            )
        )
    return found
