"""Small- and large-batch minima at equal train loss and at equal epochs: their order, and which measure follows the test."""

import math
from collections.abc import Sequence

import pandas as pd
from landscape_charts import charts
from landscape_claims import claims, meets_condition
from landscape_minima import COMPARED, LINE, MATCHED, OUTCOMES, PROTOCOLS, Minima, of_study
from landscape_tables import DEEP, correlations, depth, differences, equally_deep, of_condition, settings

from optbench.analysis.findings import Findings
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.statistics.rank_correlation import UNITS
from optbench.analysis.study import Study
from optbench.errors import UserError

QUESTION = (
    "Which measure of sharpness follows the test loss over equally deep minima, and which changes the order of small- and "
    "large-batch minima with weight decay?"
)
MEASURE = "experiments/landscape/between.py"


def analyse(study: Study) -> Findings:
    """The measures of all minima, what the batch makes of them in both protocols, and which measures follow the test loss."""
    minima = of_study(study)
    if minima.table.empty:
        raise UserError(f"{study.name}: none of its runs has a measurement of the probe landscape yet")
    ratios, ranks = differences(minima), correlations(minima)
    tables = {
        "settings": settings(study.runs),
        "differences": ratios,
        "depth": depth(minima),
        "correlations": ranks,
        "minima": minima.table,
    }
    kept = {name: table for name, table in tables.items() if len(table)}
    notes = [
        *_reached_notes(tables["settings"]),
        *_correlation_notes(ranks),
        *_depth_notes(tables["depth"]),
        *_order_notes(ratios, minima),
    ]
    if not minima.lines:
        notes.append(f"The lines between minima have not been measured yet: python {MEASURE}")
    of_papers = claims(study.runs, ratios, ranks, minima.rate)
    return Findings(QUESTION, _answer(ranks, ratios, minima), charts(minima, ratios), kept, notes, [MEASURE], of_papers)


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(ranks: pd.DataFrame, ratios: pd.DataFrame, minima: Minima) -> str:
    return f"{_followers(ranks)} {' '.join(_flips(ratios, minima, protocol) for protocol in PROTOCOLS)}"


def _followers(ranks: pd.DataFrame) -> str:
    """The measures that follow the test loss over all minima."""
    known = ranks[(ranks["scope"] == "all minima") & ranks["rho"].notna()] if len(ranks) else ranks
    if known.empty or known["settings"].max() < UNITS:
        found = 0 if known.empty else known["settings"].max()
        return f"There are {found} settings of equal train loss; {UNITS} are needed to say which measure follows the test loss."
    parts = [_follows(known[known["outcome"] == outcome], name) for outcome, name in OUTCOMES.items()]
    return (
        f"Over {known['minima'].max()} minima of equal train loss in {known['settings'].max()} settings "
        f"{' and '.join(part for part in parts if part)}."
    )


def _follows(known: pd.DataFrame, outcome: str) -> str:
    """With which measures a result rises and falls, of rank correlations that Holm's correction leaves; empty without any row."""
    told = known[known["p_holm"] < 0.05]
    if told.empty:
        return f"the {outcome} is not known to follow any of {len(known)} measures" if len(known) else ""
    words = []
    for verb, rows in (("rises", told[told["rho"] > 0]), ("falls", told[told["rho"] < 0])):
        measures = [f"{row['meaning']} ({row['rho']:+.2f})" for _, row in rows.iterrows()]
        words += [f"{verb} with {_listed(measures)}"] if measures else []
    return f"the {outcome} {' and '.join(words)}"


def _flips(ratios: pd.DataFrame, minima: Minima, protocol: str) -> str:
    rows = _at_rate(ratios, LINE, protocol, minima.rate)
    if rows.empty:
        return f"At {protocol} no line between minima is measured."
    each = [
        f"{_ratio(row):{',.0f' if row['ratio'] > 100 else '.1f'}} at weight decay {row['weight_decay']:g}"
        for _, row in rows.iterrows()
    ]
    return f"At {protocol} the rise along the line at the large batch, over that at the small one, is {_listed(each)}."


def _at_rate(ratios: pd.DataFrame, measure: str, protocol: str, rate: float) -> pd.DataFrame:
    if ratios.empty:
        return ratios
    chosen = (ratios["measure"] == measure) & (ratios["protocol"] == protocol) & (ratios["learning_rate"] == rate)
    return ratios[chosen].sort_values("weight_decay")


def _ratio(row: pd.Series) -> Interval:
    return Interval(row["ratio"], row["low"], row["high"])


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def _reached_notes(found: pd.DataFrame) -> list[str]:
    """The settings of which a run did not reach the target."""
    matched = found[found["protocol"] == MATCHED] if len(found) else found
    short = matched[matched["reached"] < matched["runs"]] if len(matched) else matched
    if matched.empty:
        return []
    note = (
        f"{matched['reached'].sum()} of {matched['runs'].sum()} runs reached the train loss at which they were to end."
    )
    if len(short):
        words = [
            f"{row['reached']} of {row['runs']} at weight decay {row['weight_decay']:g}, learning rate {row['learning_rate']:g}, "
            f"batch {row['batch']:,}"
            for _, row in short.iterrows()
        ]
        note += (
            f" The others have no part in any comparison, nor these settings in the correlations: {'; '.join(words)}."
        )
    return [note]


def _correlation_notes(ranks: pd.DataFrame) -> list[str]:
    """For test loss and test error, the measure that follows it most closely over all minima, and within batches."""
    notes = []
    for outcome, name in OUTCOMES.items():
        known = ranks[(ranks["outcome"] == outcome) & ranks["rho"].notna()] if len(ranks) else ranks
        every = known[known["scope"] == "all minima"] if len(known) else known
        if every.empty:
            continue
        row = every.loc[every["rho"].abs().idxmax()]
        note = (
            f"Over all {row['minima']} minima the {name} is most closely related to {row['meaning']}: Spearman's correlation "
            f"{Interval(row['rho'], row['low'], row['high']):+.2f}, p = {row['p']:.2g} by permutation of the "
            f"{row['settings']} settings, {row['p_holm']:.2g} with Holm's correction"
        )
        within = known[(known["scope"] == "within batches") & (known["measure"] == row["measure"])]
        note += f"; within batches {within['rho'].iloc[0]:+.2f}." if len(within) else "."
        if row["settings"] < UNITS:
            note += f" Seeds of a setting are no units of their own: to say more takes {UNITS} settings or more."
        notes.append(note)
    return notes


def _depth_notes(found: pd.DataFrame) -> list[str]:
    """The part of each factor of equal epochs that is gone at equal train loss, and the factor that is left."""
    notes = []
    for _, row in found.iterrows():
        if row["measure"] in ("norm", "train_loss") or math.isnan(row["share"]):
            continue
        share = Interval(*(100 * row[name] for name in ("share", "share_low", "share_high")))
        notes.append(
            f"Weight decay {row['weight_decay']:g}, {row['meaning']}: large over small batch is {row['at_epochs']:.2g} at equal "
            f"epochs and {row['at_loss']:.2g} at equal train loss; depth makes {share:.0f} % of the logarithm."
        )
    return notes


def _order_notes(ratios: pd.DataFrame, minima: Minima) -> list[str]:
    notes = [
        "Ratios are geometric means over seeds, paired by seed, with 95 % Student intervals, not corrected for their number."
    ]
    for protocol in PROTOCOLS:
        for measure in (*OUTCOMES, "filter_rise", "norm"):
            rows = _at_rate(ratios, measure, protocol, minima.rate)
            each = [f"{_ratio(row):.2f} at weight decay {row['weight_decay']:g}" for _, row in rows.iterrows()]
            if each:
                notes.append(f"At {protocol}, {COMPARED[measure]}, large over small batch: {_listed(each)}.")
    for decay in sorted(minima.of(MATCHED)["weight_decay"].unique()):
        row = of_condition(ratios, "train_loss", MATCHED, decay, minima.rate)
        if row is not None and not equally_deep(ratios, decay, minima.rate):
            notes.append(
                f"At weight decay {decay:g} the train losses that were to be equal have the ratio {_ratio(row):.2f}, not "
                f"known to lie within a factor of {DEEP:g}: nothing is claimed of these minima."
            )
    return [*notes, *_preconditions(ratios, minima)]


def _preconditions(ratios: pd.DataFrame, minima: Minima) -> list[str]:
    """The weight decays at which the norms of the weights do not meet the condition of the reversal, for each protocol."""
    notes = []
    for protocol in PROTOCOLS:
        norms = _at_rate(ratios, "norm", protocol, minima.rate)
        unmet = [f"{row['weight_decay']:g}" for _, row in norms.iterrows() if not meets_condition(row)]
        if unmet:
            notes.append(
                f"At {protocol} the condition of the paper's reversal, larger small-batch weights without weight decay and "
                f"smaller ones with it, is not met at weight decay {_listed(unmet)}."
            )
    return notes
