"""Momentum and initialization on deep autoencoders and recurrent networks: the two tables, and the criteria beside them."""

import math

import pandas as pd
from momentum_charts import initialization_chart, momentum_chart, recurrent_chart
from momentum_claims import claims
from momentum_tables import (
    AUTOENCODER,
    BEFORE,
    ERROR,
    GAIN,
    HEAVY_BALL,
    LARGE,
    NESTEROV,
    RECURRENT,
    SAME,
    SGD,
    SMALL,
    SOLVED,
    TEST_ERRORS,
    VALIDATION_ERRORS,
    against_sgd,
    autoencoder_runs,
    best_momentum,
    by_seed,
    cell,
    final_phase,
    geometric_mean,
    lead_over_heavy_ball,
    of_scales,
    plain,
    ratio,
    recurrent_runs,
    summary,
)

from optbench.analysis.findings import Findings
from optbench.analysis.study import Study

QUESTION = "How much do momentum and the initialization help on deep autoencoders and recurrent networks?"


def analyse(study: Study) -> Findings:
    """The squared errors and wrong answers of every method and momentum, and the six criteria."""
    ended = study.runs[study.runs["status"].isin(["done", "diverged"])]
    if not (ended["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    networks = autoencoder_runs(ended, study.histories(["event", "step", ERROR]))
    tasks = recurrent_runs(ended)
    pictures = by_seed(networks, AUTOENCODER, ERROR, [ERROR, BEFORE])
    sequences = by_seed(tasks, RECURRENT, VALIDATION_ERRORS, [TEST_ERRORS])
    tables: dict[str, pd.DataFrame] = {}
    charts = []
    if len(pictures):
        tables["autoencoder"] = summary(pictures, AUTOENCODER, [ERROR, BEFORE])
        charts.append(momentum_chart(tables["autoencoder"]))
        scaled = pictures.loc[pictures["init_scale"] != 1, "momentum"]
        if len(scaled):
            charts.append(initialization_chart(tables["autoencoder"], float(scaled.iloc[0])))
    blind = tasks.groupby("task")["blind"].first() if len(tasks) else pd.Series(dtype=float)
    if len(sequences):
        found = summary(sequences, RECURRENT, [TEST_ERRORS])
        tables["recurrent"] = found.assign(blind=found["task"].map(blind))
        charts.append(recurrent_chart(tables["recurrent"]))
    notes = [
        *_autoencoders(pictures),
        *_initialization(pictures),
        *_recurrent(sequences, tables),
        *_checks(ended, tables),
    ]
    return Findings(
        QUESTION,
        _answer(pictures, sequences, tables),
        [chart for chart in charts if chart.series],
        tables,
        notes,
        claims=claims(ended, pictures, sequences, blind),
    )


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _answer(pictures: pd.DataFrame, sequences: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> str:
    words = []
    for model, own in plain(pictures).groupby("model", sort=False):
        best, found = against_sgd(own)
        if math.isfinite(found.estimate):
            words.append(
                f"The {_network(model)} has {found:.2f} times the squared error of SGD with Nesterov's method at a largest "
                f"momentum of {best:g}."
            )
    fell = [against_sgd(own)[1].estimate for _, own in sequences.groupby("task")] if len(sequences) else []
    if fell:
        halved = sum(value <= GAIN for value in fell)
        words.append(
            f"On {halved} of {len(fell)} recurrent tasks the best momentum at least halves the wrong answers of SGD."
        )
    return " ".join(words) or "Not enough runs for an answer: SGD or Nesterov's method is missing, or has one seed."


def _network(model: object) -> str:
    return str(model).replace("_", " of ", 1)


def _autoencoders(pictures: pd.DataFrame) -> list[str]:
    """Criteria 1 to 3 for every autoencoder."""
    notes = []
    for model, own in plain(pictures).groupby("model", sort=False):
        best, gain = against_sgd(own)
        if math.isfinite(gain.estimate):
            notes.append(
                f"Criterion 1, the best Nesterov run of the {_network(model)} has at most half of SGD's error: "
                f"{_verdict(gain.estimate <= GAIN)}. At {best:g} it is {gain:.2f} times SGD's."
            )
        small, large = (
            ratio(cell(own, method=NESTEROV, momentum=value), cell(own, method=HEAVY_BALL, momentum=value))
            for value in (SMALL, LARGE)
        )
        if math.isfinite(small.estimate) and math.isfinite(large.estimate):
            holds = abs(small.estimate - 1) <= SAME and large.high < 1
            notes.append(
                f"Criterion 2, Nesterov and heavy ball agree at {SMALL:g}, and Nesterov is better at {LARGE:g}: "
                f"{_verdict(holds)}. Nesterov's error over heavy ball's is {small:.2f} and {large:.2f}. "
                + _between(own)
            )
        final = {value: final_phase(own, HEAVY_BALL, value) for value in (SMALL, LARGE)}
        if all(len(values) for values in final.values()):
            gains = [geometric_mean(values) for values in final.values()]
            quotient = ratio(final[LARGE], final[SMALL])
            nesterov = geometric_mean(final_phase(own, NESTEROV, LARGE))
            notes.append(
                f"Criterion 3, heavy ball gains more from the final phase at {LARGE:g} than at {SMALL:g}: "
                f"{_verdict(quotient.high < 1)}. The error after it is {gains[1]:.2f} and {gains[0]:.2f} times that before it, a "
                f"quotient of {quotient:.2f}; Nesterov's at {LARGE:g} is {nesterov:.2f} times."
            )
    return notes


def _between(own: pd.DataFrame) -> str:
    """The best momentum of either method."""
    best = {method: best_momentum(own, method) for method in (NESTEROV, HEAVY_BALL)}
    found = ratio(*(cell(own, method=method, momentum=value) for method, value in best.items()))
    return (
        f"Each at its best momentum, {best[NESTEROV]:g} and {best[HEAVY_BALL]:g}, Nesterov's error is {found:.2f} times heavy "
        "ball's."
    )


def _initialization(pictures: pd.DataFrame) -> list[str]:
    notes = []
    for (_, momentum), found in of_scales(pictures):
        ends = [found[scale].low for scale in (min(found), max(found))]
        said = ", ".join(f"{scale:g}: {value:.2f}" for scale, value in found.items())
        notes.append(
            f"Criterion 4, scale 1 of the initialization is better than {min(found):g} and {max(found):g}: "
            f"{_verdict(all(value > 1 for value in ends))}. Errors over those at scale 1, Nesterov at {momentum:g}, are {said}."
        )
    return notes


def _recurrent(sequences: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> list[str]:
    """Criteria 5 and 6, over the tasks."""
    if sequences.empty:
        return []
    blind = tables["recurrent"].groupby("task")["blind"].first()
    said, halved = [], []
    for task, own in sequences.groupby("task", sort=False):
        errors = cell(own, method=SGD)
        if errors.empty or best_momentum(own, NESTEROV) != best_momentum(own, NESTEROV):
            continue
        best, found = against_sgd(own)
        levels = f"{errors.mean():.3g} wrong answers for SGD"
        if errors.mean() <= SOLVED * blind[task]:
            said.append(f"{task} is solved without momentum ({levels}, {blind[task]:.3g} without the sequence)")
            continue
        nesterov = cell(own, method=NESTEROV, momentum=best).mean()
        share = nesterov / errors.mean()
        halved.append(share <= GAIN)
        paired = f", {found:.2f} times" if math.isfinite(found.estimate) else ""
        said.append(
            f"{task}: {levels}, {nesterov:.3g} with Nesterov at {best:g}{paired} ({blind[task]:.3g} without the sequence)"
        )
    notes = []
    if said:
        notes.append(
            "Criterion 5, the best momentum at least halves the wrong answers on every task that SGD does not solve: "
            f"{_verdict(bool(halved) and all(halved))}. {'; '.join(said)}."
        )
    lead = lead_over_heavy_ball(sequences, blind)
    if lead is not None:
        momentum, table, found = lead
        parts = ", ".join(f"{task} {values.mean():+.2f}" for task, values in table.items())
        left = sequences["task"].nunique() - len(table.columns)
        notes.append(
            f"Criterion 6, at {momentum:g} Nesterov has no more errors than heavy ball on average over the tasks: "
            f"{_verdict(found.high <= 0)}. Nesterov's minus heavy ball's share of the errors without the sequence is "
            f"{found:.2f}: {parts}{f'; runs diverged on {left} other tasks' if left else ''}."
        )
    return notes


def _checks(ended: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> list[str]:
    diverged = int((ended["status"] == "diverged").sum())
    edges = sum(int(table["at_edge"].sum()) for table in tables.values())
    choices = sum(int(table["seeds"].sum()) for table in tables.values())
    return [
        f"{diverged} of {len(ended)} runs diverged, and count as the worst. Of {choices} choices of the learning rate "
        f"{edges} are an end of its grid. The best momentum of a method is chosen afterwards, on the errors that are reported. "
        "Intervals are Student's over seeds, those of ratios on a logarithmic scale with runs "
        "paired by seed."
    ]
