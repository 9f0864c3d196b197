"""The claims of the papers beside what the runs say; criteria: the README of the study."""

import math
from typing import Any

import pandas as pd
from gap_conditions import MOMENTUM, WHOLE, Conditions, words_of_epochs
from gap_sharpness import GROUP, LOSS
from gap_tables import SMALL

from optbench.analysis import claim_outcomes
from optbench.analysis.claim_outcomes import SHARPNESS, SMALL_MINUS_LARGE, above, batches, below, effect, not_tested
from optbench.analysis.claims import Claim, Outcome

Place = dict[str, Any]
#: Differences of test accuracy below this count as none.
MARGIN = 0.005


def claims(
    runs: pd.DataFrame,
    found: Conditions,
    differences: pd.DataFrame,
    added: pd.DataFrame,
    updates: pd.DataFrame,
    matched: pd.DataFrame,
    sharper: pd.DataFrame,
) -> list[Claim]:
    """One claim for each method at equal epochs, and those of the remedies, of equal updates and of sharpness."""
    place: Place = {**claim_outcomes.place(runs)}
    made = []
    at_epochs = {row["method"]: row for _, row in _accuracies(differences).iterrows()}
    for method in found.methods:
        row = at_epochs[method]
        made.append(
            _claim(
                "At equal epochs a large batch generalizes worse.",
                "Keskar et al. 2017, table 2",
                _sign(row, 1),
                row,
                place | {"method": method, "matched_by": "epochs", "condition": batches(found.small, found.large)},
                found,
            )
        )
    rows = {row["remedy"]: row for _, row in added.iterrows()} if len(added) else {}
    longest = [name for name in map(words_of_epochs, found.longer(found.large)) if name in rows]
    remedies = (
        ("Training longer repairs the large batch.", "Hoffer et al. 2017, section 5", longest[-1] if longest else ""),
        ("The square-root rule keeps the accuracy.", "Hoffer et al. 2017, section 4", "square-root scaling"),
        ("The linear rule keeps the accuracy.", "Goyal et al. 2017, section 2.1", "linear scaling"),
        ("LARS keeps the accuracy.", "You et al. 2017", "LARS"),
    )
    for words, source, remedy in remedies:
        made.append(_repaired(words, source, rows.get(remedy), rows.get(SMALL), place, remedy, found))
    made.append(_ghost(rows.get(WHOLE), place, found))
    made.append(_at_updates(updates, place, found))
    made.append(_sharper(sharper, place, found))
    return made


def _accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["metric"] == "test_accuracy"] if len(rows) else rows


def _sign(row: pd.Series, sign: int) -> Outcome:
    """agrees if the interval of the search is on the side of ``sign``, disagrees if it is on the other one."""
    return (above if sign > 0 else below)(row["search_low"], row["search_high"])


def _claim(
    words: str,
    source: str,
    outcome: Outcome,
    row: pd.Series,
    place: Place,
    found: Conditions,
    quantity: str = SMALL_MINUS_LARGE,
) -> Claim:
    """A claim about a difference of test accuracies in points, for the search."""
    if math.isnan(row["search_difference"]):
        return not_tested(words, source, **place)
    return Claim(
        claim=words,
        source=source,
        outcome=outcome,
        quantity=quantity,
        unit="points",
        estimand="S",
        **effect(row["search_difference"], row["search_low"], row["search_high"], 100),
        runs=sum(
            len(best.runs) for (method, *_), best in found.best.items() if method == place.get("method", MOMENTUM)
        ),
        **place,
    )


def _repaired(
    words: str,
    source: str,
    row: pd.Series | None,
    small: pd.Series | None,
    place: Place,
    remedy: str,
    found: Conditions,
) -> Claim:
    """The remedy repairs if what it adds is at least what the small batch is ahead by, up to `MARGIN`.

    Undecided if the interval of its gain holds that bound. The effect is the gain over the plain large batch.
    """
    own = place | {"method": MOMENTUM, "condition": f"batch={found.large}, {remedy}", "matched_by": "epochs"}
    if row is None or small is None or math.isnan(row["search_low"]):
        return not_tested(words, source, **own)
    bound = small["search_difference"] - MARGIN
    outcome: Outcome = (
        "agrees" if row["search_low"] >= bound else "disagrees" if row["search_high"] < bound else "undecided"
    )
    return _claim(words, source, outcome, row, own, found, f"test accuracy gained by {remedy}")


def _ghost(row: pd.Series | None, place: Place, found: Conditions) -> Claim:
    words, source = "Ghost batch norm improves the large batch.", "Hoffer et al. 2017, section 4"
    own = place | {"method": MOMENTUM, "condition": f"batch={found.large}, {WHOLE}", "matched_by": "epochs"}
    if row is None or math.isnan(row["search_low"]):
        return not_tested(words, source, **own)
    return _claim(words, source, _sign(row, -1), row, own, found, f"test accuracy gained by {WHOLE}")


def _at_updates(updates: pd.DataFrame, place: Place, found: Conditions) -> Claim:
    words, source = "At equal updates the large batch generalizes as well.", "Hoffer et al. 2017, section 5"
    rows = _accuracies(updates)
    if rows.empty or math.isnan(rows.iloc[0]["search_low"]):
        return not_tested(words, source, **place)
    row = rows.iloc[0]
    outcome: Outcome = (
        "agrees" if row["search_high"] <= MARGIN else "disagrees" if row["search_low"] > MARGIN else "undecided"
    )
    own = place | {"method": MOMENTUM, "condition": batches(row["small"], row["large"]), "matched_by": "steps"}
    return _claim(words, source, outcome, row, own, found)


def _sharper(sharper: pd.DataFrame, place: Place, found: Conditions) -> Claim:
    """By the sharpness in Keskar's box of solutions at equal train loss, over seeds of the rates that were found."""
    words, source = "Large batches end in sharper minima.", "Keskar et al. 2017, table 3"
    own = place | {"method": MOMENTUM, "matched_by": "train loss", "condition": batches(found.small, found.large)}
    rows = sharper[(sharper["measure"] == "keskar") & (sharper[GROUP] == LOSS)] if len(sharper) else sharper
    if rows.empty or math.isnan(rows.iloc[0]["low"]):
        return not_tested(words, source, **own)
    row = rows.iloc[0]
    return Claim(
        claim=words,
        source=source,
        outcome=above(row["low"], row["high"], 1.0),
        quantity=SHARPNESS["keskar"],
        unit="ratio",
        estimand="W",
        **effect(row["ratio"], row["low"], row["high"]),
        runs=2 * int(row["seeds"]),
        **own,
    )
