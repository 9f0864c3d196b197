"""The findings in words, from the tables of the study."""

from collections.abc import Mapping, Sequence

import pandas as pd
from target_tables import ADVANCED, PLAIN, Curves

from optbench.analysis.claims import Claim
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study

Tables = Mapping[str, pd.DataFrame]
REGIMES = {
    "perfect": "perfect scaling (a slope of at most -0.9)",
    "diminishing": "diminishing returns",
    "maximal": "no further saving (a slope above -0.1)",
}
#: At least this share of the runs of a cell of the search should reach the target.
_TRAINED = 0.5
# So many places are named in a note.
_NAMED = 6


def answer(tables: Tables, target: float, metric: str) -> str:
    """The critical batches at the target, and the trend of K-FAC's advantage."""
    table = tables["critical_batch"]
    rows = table[table["target"] == target] if len(table) else table
    if rows.empty:
        return "Not enough runs for a critical batch size: no optimizer has reached the target at three batch sizes."
    ordered = rows.sort_values("critical_batch")
    known, unknown = ordered[ordered["not_identified"] == ""], ordered[ordered["not_identified"] != ""]
    each = ", ".join(f"{_text(row, 'critical_batch')} for {method(row['optimizer'])}" for _, row in known.iterrows())
    words = f"To a {metric.replace('_', ' ')} of {target:g}, larger batches save steps up to a critical batch, in examples, of "
    words += each or "a size that is not identified for any optimizer"
    if len(unknown):
        listed = ", ".join(f"{method(row['optimizer'])} ({row['not_identified']})" for _, row in unknown.iterrows())
        words += f"{'; not identified: ' if each else ': '}{listed}"
    return f"{words}. {_told_apart(tables['critical_batch_ratios'])}{_trends(tables['advantage'])}".strip()


def _text(row: pd.Series, name: str) -> str:
    bound = {"perfect scaling": "at least ", "no scaling": "at most "}.get(row["limit"], "")
    return f"{bound}{Interval(row[name], row[f'{name}_low'], row[f'{name}_high']):.3g}"


def _ratio(row: pd.Series, digits: str = ".2g") -> str:
    return f"{Interval(row['ratio'], row['low'], row['high']):{digits}}"


def _told_apart(ratios: pd.DataFrame) -> str:
    """A sentence on which critical batches differ from that of plain SGD, by the intervals of their ratios."""
    over = ratios[(ratios["over"] == PLAIN) & ratios["low"].notna()] if len(ratios) else ratios
    if over.empty:
        return ""
    larger, smaller = over["identified"] & (over["low"] > 1), over["identified"] & (over["high"] < 1)
    parts = _parts(
        over["optimizer"], {"larger than": larger, "smaller than": smaller, "not told from": ~larger & ~smaller}
    )
    return " ".join(f"That of {names} is {words} {method(PLAIN)}'s." for words, names in parts) + " "


def _trends(table: pd.DataFrame) -> str:
    """A sentence on the trends of the ratios of steps to those of K-FAC."""
    trends = table[table["batch"].isna()] if len(table) else table
    if trends.empty:
        return ""
    grows, shrinks = trends["low"] > 0, trends["high"] < 0
    here = {"grows over": grows, "shrinks over": shrinks, "has no clear trend over": ~grows & ~shrinks}
    each = ", ".join(f"{words} {names}" for words, names in _parts(trends["over"], here))
    return f"As the batch grows, {method(ADVANCED)}'s advantage in steps {each}."


def _parts(optimizers: pd.Series, here: Mapping[str, pd.Series]) -> list[tuple[str, str]]:
    """The words with the names of the optimizers for which they hold, without those that hold for none."""
    names = {words: [str(method(name)) for name in optimizers[where]] for words, where in here.items()}
    return [(words, " and ".join(filter(None, [", ".join(own[:-1]), own[-1]]))) for words, own in names.items() if own]


def notes(tables: Tables, targets: Sequence[float], found: Curves, study: Study) -> list[str]:
    """Sentences about the meaning of the numbers, and about the content of the tables."""
    chosen = tables["chosen_rates"]
    return [
        "Steps are restricted means over seeds: a run that does not reach the target counts as the budget. Intervals of steps, "
        "slopes, ratios and critical batches are for another search: cells that were not trained are drawn from the surrogate of "
        "the search, seeds are resampled, and the rate is chosen again in each draw.",
        *_of_choices(chosen, found, study),
        *_of_fits(tables["critical_batch"], targets),
        *_of_ratios(tables["critical_batch_ratios"]),
        *_of_regimes(tables["regimes"]),
        *_of_advantage(tables["advantage"]),
        *_of_noise(tables["noise_scale"], tables["critical_batch"], targets[0]),
    ]


def hanging(of_all: Sequence[Claim], kept: Sequence[Claim]) -> list[str]:
    """A sentence about the claims that all runs decide, and the runs without one of the seeds do not."""
    lost = [claim for claim, now in zip(of_all, kept, strict=True) if claim.outcome != now.outcome]
    if not lost:
        return []
    each = "; ".join(f"{claim.claim.rstrip('.')} ({method(claim.method)}: {claim.outcome})" for claim in lost)
    return [f"Decided by all runs, but not without one of the seeds, so that they count as undecided: {each}."]


def _of_choices(chosen: pd.DataFrame, found: Curves, study: Study) -> list[str]:
    said = []
    names = set(study.runs["optimizer"].dropna()) - set(found)
    if names:
        said.append(f"No run of {', '.join(map(method, sorted(names)))} has reached the target.")
    for here, words in (
        (chosen["rate"].isna(), "No run reached the target"),
        (chosen["edge"] != "", "The chosen rate is an end of its line, and only a bound"),
        (chosen["tied"] > 1, "Neither the mean nor the worst seed tells some rates apart, and the first is shown"),
        (
            chosen["reached_share"] < 1,
            "Some runs at the chosen rate did not reach the target, and count as the budget",
        ),
        (chosen["trained"] < _TRAINED, "Fewer than half of the runs that the search chose reached the target"),
    ):
        if here.any():
            said.append(f"{words}: {_listed(chosen[here], len(chosen))}.")
    return said


def _listed(rows: pd.DataFrame, count: int) -> str:
    if len(rows) > _NAMED:
        return f"at {len(rows)} of {count} pairs of optimizer and batch (table chosen_rates)"
    edges = [f" ({edge})" if edge else "" for edge in rows["edge"]]
    places = zip(rows["optimizer"], rows["batch"], edges, strict=True)
    return ", ".join(f"{method(name)} at batch {batch}{edge}" for name, batch, edge in places)


def _of_fits(table: pd.DataFrame, targets: Sequence[float]) -> list[str]:
    if table.empty:
        return []
    order = {t: list(rows.sort_values("critical_batch")["optimizer"]) for t, rows in table.groupby("target")}
    complete = [order[target] for target in targets if target in order]
    same = len(complete) == len(targets) and all(each == complete[0] for each in complete)
    listed = ", ".join(f"{target:g}" for target in targets)
    said = [
        f"The order of the optimizers by critical batch size is {'' if same else 'not '}the same at the targets {listed}."
    ]
    rows = table[(table["target"] == targets[0]) & table["critical_batch"].notna()]
    if len(rows):
        least = "; ".join(
            f"{method(row['optimizer'])} {_text(row, 'steps_min')} steps and {_text(row, 'examples_min')} examples"
            for _, row in rows.iterrows()
        )
        said.append(
            f"The least steps (at large batches) and the least examples (at small ones) of the fits are: {least}."
        )
    for column, words in (
        ("unresolved", "Times shorter than five intervals between evaluations are not resolved, at the batch sizes"),
        ("bounds", "Less than 80 % of the runs at the chosen rate reached the target, so that the time is a bound, at"),
    ):
        there = rows[rows[column] != ""]
        if len(there):
            each = "; ".join(f"{method(row['optimizer'])} {row[column]}" for _, row in there.iterrows())
            said.append(f"{words}: {each}.")
    return said


def _of_ratios(ratios: pd.DataFrame) -> list[str]:
    """The critical batches over that of plain SGD."""
    over = ratios[(ratios["over"] == PLAIN) & ratios["low"].notna()] if len(ratios) else ratios
    each = ", ".join(f"{method(row['optimizer'])} {_ratio(row)}" for _, row in over.iterrows())
    return [f"Critical batches over that of {method(PLAIN)}: {each}."] if each else []


def _of_regimes(regimes: pd.DataFrame) -> list[str]:
    """The counts of regimes, and what the ends of the batch sizes save in steps and spend in examples."""
    if regimes.empty:
        return []
    counts = regimes["regime"].value_counts()
    listed = ", ".join(f"{count} with {REGIMES[name]}" for name, count in counts.items())
    said = [f"Of the pairs of neighbouring batch sizes, over all optimizers: {listed}."]
    pairs = [*regimes.groupby(["batch_low", "batch_high"])]
    ends = pairs if len(pairs) < 2 else [pairs[0], pairs[-1]]
    parts = [
        f"from batch {low:g} to {high:g} the steps are divided by {_span(rows['steps_saved'])} and the examples multiplied by "
        f"{_span(rows['examples_spent'])}"
        for (low, high), rows in ends
    ]
    return [*said, f"Over the optimizers, {'; '.join(parts)} (table regimes)."]


def _span(values: pd.Series) -> str:
    least, most = f"{values.min():.2g}", f"{values.max():.2g}"
    return least if least == most else f"{least} to {most}"


def _of_advantage(table: pd.DataFrame) -> list[str]:
    """The ratios of the others' steps to those of K-FAC at the ends of the batch sizes."""
    if table.empty:
        return []
    parts = []
    for other, rows in table[table["batch"].notna()].groupby("over", sort=False):
        ends = [rows.iloc[0], rows.iloc[-1]] if len(rows) > 1 else [rows.iloc[0]]
        parts.append(
            f"{method(str(other))} " + " and ".join(f"{_ratio(row)} at batch {row['batch']:g}" for row in ends)
        )
    trends = table[table["batch"].isna()]
    slopes = ", ".join(f"{method(row['over'])} {_ratio(row, '.2f')}" for _, row in trends.iterrows())
    said = [
        f"Steps over those of {method(ADVANCED)}, which at equal batch are examples over its examples: {'; '.join(parts)}."
    ]
    return (
        [*said, f"The slopes of the logarithms of these ratios over that of the batch: {slopes}."] if slopes else said
    )


def _of_noise(noise: pd.DataFrame, fits: pd.DataFrame, target: float) -> list[str]:
    """The range of the noise scales of all runs, beside B_c."""
    if noise.empty:
        return []
    said = []
    for name, rows in noise.groupby("optimizer"):
        each = rows.groupby(["batch", "seed"])["noise_scale"].median()
        words = (
            f"The gradient noise scale of {method(str(name))}, the median of each of {len(each)} runs, lies from "
            f"{each.min():.3g} to {each.max():.3g} examples; single measurements from {rows['noise_scale'].min():.3g} to "
            f"{rows['noise_scale'].max():.3g}"
        )
        own = (
            fits[(fits["target"] == target) & (fits["optimizer"] == name)].dropna(subset="critical_batch")
            if len(fits)
            else fits
        )
        words += f", beside a critical batch of {_text(own.iloc[0], 'critical_batch')}" if len(own) else ""
        said.append(f"{words}. All runs that measured it count.")
    return said
