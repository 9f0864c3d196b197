"""Test accuracy against batch size at each batch's own best rate, the remedies for the large batch, and equal train loss."""

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd
from gap_charts import by_batch_chart, matched_chart, rates_chart, remedies_chart
from gap_claims import claims
from gap_conditions import MOMENTUM, PLAIN, Conditions, in_words, of_study, words_of_epochs
from gap_sharpness import GROUP, MEASURE, MEASURES, lines_between, sharpness_notes, solutions
from gap_tables import SMALL, at_equal_train_loss, best_table, equal_updates, remedies, small_minus_large

from optbench.analysis.claim_outcomes import steady, without_each_seed
from optbench.analysis.claims import Claim
from optbench.analysis.findings import Findings
from optbench.analysis.laws.minima import line_chart, measures_chart, ratios
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study

QUESTION = "Do large batches generalize worse than small ones, or are they only tuned worse, and which remedy helps?"

# So many conditions are named in a note.
_NAMED = 4


def analyse(study: Study) -> Findings:
    """Compare the batches at their own best rates, at equal epochs, updates and train loss, and each remedy with none."""
    found = of_study(study)
    if found is None:
        return Findings(QUESTION, "Not enough runs for an answer: none is done without a remedy.")
    best, differences, added = best_table(found), small_minus_large(found), remedies(found)
    updates, matched = equal_updates(found), at_equal_train_loss(found)
    sharpness = solutions(study, found)
    sharper = ratios(sharpness, GROUP, MEASURES)
    lines = lines_between(study, found)
    without = without_each_seed(study.name, study.seeds, partial(_claims_without, study))
    charts = [
        by_batch_chart(best),
        remedies_chart(added),
        matched_chart(found),
        rates_chart(best),
        measures_chart(sharpness, GROUP, MEASURES, "sharpness", "Sharpness of small- and large-batch solutions", True),
        line_chart(lines, found.small, found.large, "optimizer and seed"),
    ]
    tables = {
        "small_minus_large": differences,
        "remedies": added,
        "equal_updates": updates,
        "equal_train_loss": matched,
        "best_rates": best,
        "sharpness": sharpness,
        "large_over_small_sharpness": sharper,
        "without_a_seed": without,
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    notes = [*_notes(found, best, differences, updates, matched), *sharpness_notes(sharper)]
    made = steady(claims(study.runs, found, differences, added, updates, matched, sharper), without)
    drawn = [chart for chart in charts if chart.series]
    return Findings(QUESTION, _answer(found, differences, added), drawn, kept, notes, [MEASURE], claims=made)


def _claims_without(study: Study, seed: int) -> list[Claim]:
    """The claims about the runs without a seed."""
    found = of_study(study, seed)
    if found is None:
        return []
    sharper = ratios(solutions(study, found), GROUP, MEASURES)
    parts = (small_minus_large(found), remedies(found), equal_updates(found), at_equal_train_loss(found), sharper)
    return claims(study.runs[study.runs["seed"] != seed], found, *parts)


# ---- words --------------------------------------------------------------------------------------------------------------


def _points(row: pd.Series, of: str = "search_") -> str:
    """A difference of accuracies in points, with its interval for the search (of: "": for the rates found)."""
    middle = "search_difference" if of else "difference"
    found = Interval(*(100 * row[name] for name in (middle, f"{of}low", f"{of}high")))
    return f"{found:+.2f} points" if math.isfinite(found.estimate) else "not known"


def _answer(found: Conditions, differences: pd.DataFrame, added: pd.DataFrame) -> str:
    rows = differences[differences["metric"] == "test_accuracy"] if len(differences) else differences
    known = rows[rows["search_difference"].notna()] if len(rows) else rows
    if known.empty:
        return (
            "Not enough runs for an answer: no method has runs that are done at the smallest and at the largest batch."
        )
    each = "; ".join(f"{in_words(row['method'])} {_points(row)}" for _, row in known.iterrows())
    words = (
        f"At equal epochs and each at its own best learning rate, batch {found.small:,} has another test accuracy than batch "
        f"{found.large:,} by: {each}."
    )
    remedied = added[(added["remedy"] != SMALL) & added["search_difference"].notna()] if len(added) else added
    if remedied.empty:
        return f"{words} Not enough runs for the remedies."
    top = remedied.loc[remedied["search_difference"].idxmax()]
    words += f" Of the remedies for momentum SGD at the large batch, {top['remedy']} adds the most, {_points(top)}"
    to_win = added[added["remedy"] == SMALL]
    if len(to_win):
        words += f", where the small batch is ahead by {_points(to_win.iloc[0])}"
    return f"{words}."


def _notes(
    found: Conditions, best: pd.DataFrame, differences: pd.DataFrame, updates: pd.DataFrame, matched: pd.DataFrame
) -> Sequence[str]:
    notes = [
        "Intervals in these sentences are for the search: cells that it did not train are drawn from its surrogate, seeds are "
        "resampled, and the rate is chosen again in each draw. The tables also have Student's intervals for the rates that were "
        "found, paired by seed. There is no correction for the number of differences, and what lies inside an interval has not "
        "been ruled out."
    ]
    for _, row in updates[updates["metric"] == "test_accuracy"].iterrows() if len(updates) else ():
        notes.append(
            f"At equal updates, batch {row['small']:,} minus batch {row['large']:,}: {_points(row)}; for the rates found "
            f"{_points(row, '')}."
        )
    for _, row in matched[matched["metric"] == "test_accuracy"].iterrows() if len(matched) else ():
        notes.append(
            f"Where schedules end at the same train loss, {row['train_loss']:.3f}, batch {row['small']:,} minus batch "
            f"{row['large']:,}: {_points(row, '')} over {row['seeds']} seeds, for the rates found."
        )
    if (edge := best["at_edge"]).any():
        notes.append(f"The best rate is an end of its line, and only a bound, {_listed(best, edge)}.")
    if (few := best["seeds"] < 3).any():
        notes.append(f"At the rate found fewer than three seeds have ended {_listed(best, few)}.")
    for _, row in differences.dropna(subset="difference").iterrows() if len(differences) else ():
        if (row["method"], row["metric"]) != (MOMENTUM, "train_loss"):
            continue
        plain = found.best[MOMENTUM, PLAIN, found.large].found("train_loss").mean()
        notes.append(
            f"After {words_of_epochs(found.epochs)} of momentum SGD the large batch is at train loss {plain:.3f}, "
            f"{-row['difference']:.3f} above the small one: at equal epochs it is also trained less."
        )
    return notes


def _listed(best: pd.DataFrame, here: "pd.Series[bool]") -> str:
    """The conditions ``here``, by name if they are few."""
    rows = best[here]
    if len(rows) > _NAMED:
        return f"at {len(rows)} of {len(best)} conditions (table best_rates)"
    names = (f"{in_words(row['method'])}, {row['condition']}, batch {row['batch']:,}" for _, row in rows.iterrows())
    return f"at: {'; '.join(names)}"
