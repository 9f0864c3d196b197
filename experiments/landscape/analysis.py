"""Small- and large-batch minima, with and without weight decay: their order by each measure of sharpness."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from landscape_claims import claims

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.charts.landscape import surface
from optbench.analysis.findings import Findings
from optbench.analysis.laws.minima import line_chart, measures_chart, over_seeds, ratios, rise
from optbench.analysis.statistics.inclusion import holm
from optbench.analysis.statistics.rank_correlation import UNITS, rank_correlation
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study
from optbench.errors import UserError

QUESTION = (
    "Which measure of sharpness orders small- and large-batch minima as their test errors do, and which changes its mind with "
    "weight decay?"
)
MEASURE = "experiments/landscape/between.py"
DISTANCE = 0.5  # the distance along filter-normalized directions at which the rise of the loss is taken
SHARE = 0.25  # the part of the way between two minima at which it is taken
Arrays = dict[str, np.ndarray]


@dataclass
class Minimum:
    """The minimum at the end of one run.

    values: its measures. curve: the loss (n,) at ``positions``, the mean over filter-normalized directions. plane: the
        measurement of between.py.
    """

    batch: int
    decay: float
    seed: int
    values: dict[str, float]
    positions: np.ndarray
    curve: np.ndarray
    plane: Arrays = field(default_factory=dict)


#: The names of the measures.
MEASURES = {
    "test_error": "test error",
    "filter_rise": f"rise at {DISTANCE} along filter-normalized directions",
    "adaptive": "adaptive sharpness (ASAM)",
    "sam": "sharpness in a ball (SAM)",
    "keskar": "sharpness in a box (Keskar), %",
    "top": "largest eigenvalue",
    "interpolation_rise": f"rise {SHARE:.0%} of the way along the line between the minima",
    "norm": "norm of the weights",
}


def analyse(study: Study) -> Findings:
    """The measures of all minima, the differences that the batch makes, and the curves and lines behind them."""
    ways = _ways(study)
    minima = _minima(study, ways)
    if not minima:
        raise UserError(f"{study.name}: none of its runs has a measurement of the probe landscape yet")
    table = _table(minima)
    differences, correlations = ratios(table, "weight_decay", MEASURES), _correlations(table)
    words = table["weight_decay"].map(lambda decay: f"decay {decay:g}")
    charts = [
        measures_chart(
            table.assign(words=words), "words", MEASURES, "measures", "Test error and measures of sharpness", log_y=True
        ),
        _curves_chart(minima),
    ]
    if ways:
        lines = {_panel(decay): [line for (own, _), line in ways.items() if own == decay] for decay, _ in sorted(ways)}
        small, large = _axis(minima, "batch")[0], _axis(minima, "batch")[-1]
        charts.append(line_chart(lines, small, large, "seed and weight decay"))
    charts += _planes(minima)
    tables = {"minima": table, "differences": differences, "correlations": correlations}
    notes = [*_correlation_notes(correlations), *_notes(minima, differences, bool(ways))]
    of_papers = claims(study.runs, differences, correlations)
    return Findings(QUESTION, _answer(differences), charts, tables, notes, [MEASURE], of_papers)


def _ways(study: Study) -> dict[tuple[float, int], Arrays]:
    """The lines from the small- to the large-batch minimum, by weight decay and seed."""
    found = {}
    for _, run in study.runs.iterrows():
        for measured in study.measurements(run["run_id"], "interpolation"):
            found[_decay(run), int(run["seed"])] = measured.arrays()
    return found


def _decay(run: pd.Series) -> float:
    return float(run["cell.optimizer.weight_decay"])


def _minima(study: Study, ways: dict[tuple[float, int], Arrays]) -> list[Minimum]:
    runs, found = seeds_only(study.runs, ["batch", "cell.optimizer.weight_decay"]), []
    for _, run in runs.iterrows():
        lines = study.measurements(run["run_id"], "landscape")
        if run["state"] != "done" or not lines:
            continue
        arrays, seed = lines[-1].arrays(), int(run["seed"])
        positions, curve = arrays["positions"], arrays["loss"].mean(axis=0)
        values = {"test_error": 1 - run["test_accuracy"], "filter_rise": rise(positions, curve, 0, DISTANCE)}
        values |= {name: run[f"sharpness_{name}"] for name in ("adaptive", "sam", "keskar")}
        values |= {"top": run["eigenvalues_top"], "norm": run["displacement_norm"], "train_loss": run["train_loss"]}
        values["test_loss"] = run["test_loss"]
        way = ways.get((_decay(run), seed))
        if way is not None:
            end = 0 if run["batch"] == runs["batch"].min() else 1
            values["interpolation_rise"] = rise(way["positions"], way["train_loss"], end, SHARE)
        planes = study.measurements(run["run_id"], "plane")
        plane = planes[-1].arrays() if planes else {}
        found.append(Minimum(int(run["batch"]), _decay(run), seed, values, positions, curve, plane))
    return sorted(found, key=lambda one: (one.decay, one.batch, one.seed))


def _of(minima: Sequence[Minimum], **wanted: float) -> list[Minimum]:
    return [one for one in minima if all(getattr(one, name) == value for name, value in wanted.items())]


def _axis(minima: Sequence[Minimum], name: str) -> list[Any]:
    return sorted({getattr(one, name) for one in minima})


# ---- tables -------------------------------------------------------------------------------------------------------------


def _table(minima: Sequence[Minimum]) -> pd.DataFrame:
    rows = [{"weight_decay": m.decay, "batch": m.batch, "seed": m.seed, **m.values} for m in minima]
    return pd.DataFrame(rows)


def _correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of every measure with the test error over all minima, and within batches, settings being the units.

    p_holm is over the measures.
    """
    rows = []
    for name in [name for name in MEASURES if name != "test_error" and name in table]:
        found, within = (
            rank_correlation(table, name, "test_error", ["weight_decay", "batch"], partial=partial)
            for partial in ((), ("batch",))
        )
        row = {"measure": name, "meaning": MEASURES[name], "rho": found.rho, "low": found.low, "high": found.high}
        row |= {"p": found.p, "rho_within_batch": within.rho, "p_within_batch": within.p}
        rows.append(row | {"settings": found.units, "minima": found.runs})
    made = pd.DataFrame(rows)
    made.insert(6, "p_holm", holm(made["p"].to_numpy(float)))
    return made


# ---- charts -------------------------------------------------------------------------------------------------------------


def _name(batch: int) -> str:
    return f"batch {batch:,}"


def _panel(decay: float) -> str:
    return f"weight decay {decay:g}"


def _curves_chart(minima: Sequence[Minimum]) -> Chart:
    series = []
    for decay in _axis(minima, "decay"):
        for batch in _axis(minima, "batch"):
            chosen = _of(minima, batch=batch, decay=decay)
            if chosen:
                found = over_seeds([one.curve for one in chosen])
                x = chosen[0].positions
                series.append(Series(label=_name(batch), x=x, kind="curve", band=True, panel=_panel(decay), **found))
    return Chart(
        name="curves",
        title="The loss along filter-normalized directions",
        caption="Training loss, the mean over random directions and seeds; bands from the smallest to the largest seed.",
        x_label="Filter-normalized position",
        y_label="Training loss",
        columns=3,
        series=series,
    )


def _planes(minima: Sequence[Minimum]) -> list[Chart]:
    """The planes around the two minima without weight decay."""
    smallest = _axis(minima, "decay")[0]
    return [_plane(one) for one in minima if one.plane and one.decay == smallest]


def _plane(one: Minimum) -> Chart:
    title = f"The loss around the minimum of batch {one.batch:,}"
    caption = (
        f"Training loss, {_panel(one.decay)}, seed {one.seed}; the same two random directions before normalization."
    )
    arrays = (one.plane["x"], one.plane["y"], one.plane["loss_surface"])
    scaled = "filter-normalized"
    return surface(*arrays, normalization=scaled, name=f"plane_batch_{one.batch}", title=title, caption=caption)


# ---- words --------------------------------------------------------------------------------------------------------------


def _verdict(low: float, high: float) -> str:
    if not low <= 1 <= high and np.isfinite([low, high]).all():
        return "larger" if low > 1 else "smaller"
    return "not told apart"


def _answer(differences: pd.DataFrame) -> str:
    """The number of weight decays with distinguishable test errors, and the measures that call the large batch sharper."""
    verdicts = {
        str(name): [_verdict(row["low"], row["high"]) for _, row in rows.iterrows()]
        for name, rows in differences.groupby("measure", sort=False)
    }
    if not np.isfinite(differences["low"]).any():
        return "With one seed nothing is told apart: there are no intervals."
    errors = verdicts.pop("test_error", [])
    told = sum(verdict != "not told apart" for verdict in errors)
    verdicts.pop("norm", None)
    always = [MEASURES[name] for name, found in verdicts.items() if set(found) == {"larger"}]
    mixed = [
        f"{MEASURES[name]} (at {found.count('larger')} of {len(found)})"
        for name, found in verdicts.items()
        if set(found) != {"larger"}
    ]
    flips = [MEASURES[name] for name, found in verdicts.items() if {"larger", "smaller"} <= set(found)]
    return (
        f"The test errors of small- and large-batch minima are told apart at {told or 'none'} of {len(errors)} weight decays. "
        f"The large-batch minimum is the sharper one at every weight decay by {_listed(always)}; at some, or none, by "
        f"{_listed(mixed)}. With weight decay the order flips for {_listed(flips)}."
    )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "no measure"


def _correlation_notes(correlations: pd.DataFrame) -> list[str]:
    """The measure that follows the test error most closely over all minima, and how many settings there are for that."""
    known = correlations.dropna(subset="rho")
    if known.empty:
        return []
    row = known.loc[known["rho"].abs().idxmax()]
    within = "" if np.isnan(row["rho_within_batch"]) else f"; within batches it is {row['rho_within_batch']:+.2f}"
    note = (
        f"Over all {row['minima']} minima the test error follows {row['meaning']} most closely: Spearman's correlation "
        f"{row['rho']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], p = {row['p']:.2g} by permutation of the {row['settings']} "
        f"settings, {row['p_holm']:.2g} with Holm's correction for {len(known)} measures{within}."
    )
    if row["settings"] < UNITS:
        note += f" Seeds of a setting are no units of their own: to say more takes {UNITS} settings or more."
    return [note]


def _notes(minima: Sequence[Minimum], differences: pd.DataFrame, has_ways: bool) -> list[str]:
    notes = ["Ratios are geometric means over seeds, paired by seed, with 95 % Student intervals."]
    for name, label in MEASURES.items():
        rows = differences[differences["measure"] == name]
        said = [f"{_verdict(row['low'], row['high'])} at decay {row['weight_decay']:g}" for _, row in rows.iterrows()]
        verdicts = {_verdict(row["low"], row["high"]) for _, row in rows.iterrows()}
        turns = " The order flips." if {"larger", "smaller"} <= verdicts else ""
        if said:
            notes.append(f"{label[0].upper()}{label[1:]}: with the large batch {', '.join(said)}.{turns}")
    losses = [
        f"{_name(batch)}, {_panel(decay)}: {np.mean([m.values['train_loss'] for m in _of(minima, batch=batch, decay=decay)]):.2g}"
        for decay in _axis(minima, "decay")
        for batch in _axis(minima, "batch")
        if _of(minima, batch=batch, decay=decay)
    ]
    notes.append(
        f"Mean training losses at the end: {'; '.join(losses)}. They differ, so not all are equally deep minima."
    )
    if not has_ways:
        notes.append(f"The lines between minima have not been measured yet: python {MEASURE}")
    return notes
