"""Saddles in random slices and along Hessian directions, and the trace by two estimators, before and during training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from directions_claims import (
    CURVATURE_MARGIN,
    ERRORS,
    RATE_MARGIN,
    RESOLUTION,
    claims,
    errors_apart,
    pooled_ratio,
    saddles,
)

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.charts.landscape import surface
from optbench.analysis.claim_outcomes import within
from optbench.analysis.findings import Findings
from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study
from optbench.theory.random_slices import saddle_frequency

QUESTION = (
    "Do random slices of the loss hide its saddles as the theory says, and do random projections of the loss give the trace of "
    "the Hessian without a product with it?"
)
MEASURE = "experiments/hessian_directions/slices.py"


@dataclass(frozen=True)
class Slices:
    """The measurement of slices.py at one step of the path of one seed; ``values`` are described there."""

    point: str
    step: int
    seed: int
    values: dict[str, Any]
    planes: dict[str, np.ndarray]

    @property
    def predicted_rate(self) -> float:
        """The share of saddles among random slices by the formula, with constants from other vectors than the slices."""
        return float(self.values["predicted_saddle_rate"])

    @property
    def ratio(self) -> tuple[float, float]:
        """The trace by projections over Hutchinson's, and its standard error; each has its own vectors."""
        one, other = self.values["projected_trace"], self.values["trace"]
        errors = self.values["projected_trace_error"] / one, self.values["trace_error"] / other
        return one / other, abs(one / other) * math.hypot(*errors)


def analyse(study: Study) -> Findings:
    """Traces, saddle rates and the extreme eigenvalues at every point, and sections of the loss."""
    found = _slices(study)
    if not found:
        scale = f" --scale {study.scale}" if study.scale else ""
        words = f"Not enough measurements for an answer: the slices are measured by python {MEASURE}{scale}"
        return Findings(QUESTION, f"{words}, once runs are done.")
    charts = [_saddle_chart(found), _curvatures_chart(found), _trace_chart(found)]
    if any(one.planes for one in found):
        charts += [_sections_chart(found), *_surfaces(found)]
    table = _table(found)
    tables = {"agreement": _agreement(found), "slices": table, "points": _by_point(found)}
    of_paper = claims(study.runs, table)
    return Findings(QUESTION, _answer(found, table), charts, tables, _notes(found, table), [MEASURE], of_paper)


def _slices(study: Study) -> list[Slices]:
    found = []
    for _, run in seeds_only(study.runs, ["config.budget.epochs"]).iterrows():
        for measured in study.measurements(run["run_id"], "slices"):
            point = "before the first step" if measured.step == 0 else f"after {measured.step:,} steps"
            found.append(Slices(point, measured.step, int(run["seed"]), measured.values, measured.arrays()))
    return sorted(found, key=lambda one: (one.step, one.seed))


def _points(found: Sequence[Slices]) -> dict[str, list[Slices]]:
    return {name: [one for one in found if one.point == name] for name in dict.fromkeys(one.point for one in found)}


# ---- tables -------------------------------------------------------------------------------------------------------------


def _agreement(found: Sequence[Slices]) -> pd.DataFrame:
    """A row for each statement of the protocol at each point: the mean over seeds, its interval and the accepted range."""
    rows = []
    for point, some in _points(found).items():
        negative = saddles(_table(some))
        hidden = sum(one.values["saddle_rate"] == 0 and below for one, below in zip(some, negative, strict=True))
        row = {"point": point, "statement": "seeds with a negative eigenvalue and no saddle among the slices"}
        rows.append(row | {"estimate": hidden, "least": len(some), "most": len(some), "seeds": len(some)})
        rows[-1]["outcome"] = "agrees" if hidden == len(some) else "disagrees"
        if max(one.predicted_rate for one in some) < RESOLUTION:
            # An observed rate of 0 would agree with every small prediction.
            rows.append({"point": point, "statement": "saddle rate minus the formula", "outcome": "not tested"})
        else:
            differences = [one.values["saddle_rate"] - one.predicted_rate for one in some]
            rows.append(
                {"point": point, "statement": "saddle rate minus the formula"} | _judged(differences, RATE_MARGIN)
            )
        for name in ("smaller", "larger"):
            key = f"{name}_curvature"
            differences = [(one.values[key] - one.values[f"predicted_{key}"]) / one.values["trace"] for one in some]
            statement = f"mean {name} curvature minus the formula, over the trace"
            rows.append({"point": point, "statement": statement} | _judged(differences, CURVATURE_MARGIN))
        differences = [one.ratio[0] - 1 for one in some]
        statement = "trace by projections minus Hutchinson's, over the latter"
        rows.append({"point": point, "statement": statement} | _judged(differences, CURVATURE_MARGIN))
    return pd.DataFrame(rows)


def _judged(differences: Sequence[float], margin: float) -> dict[str, Any]:
    mean = student(np.array(differences))
    row = {"estimate": mean.estimate, "low": mean.low, "high": mean.high, "least": -margin, "most": margin}
    return row | {"outcome": within(mean.low, mean.high, -margin, margin), "seeds": len(differences)}


def _table(found: Sequence[Slices]) -> pd.DataFrame:
    rows = []
    for one in found:
        values = one.values
        row = {"point": one.point, "seed": one.seed}
        row |= {name: values[name] for name in ("loss", "top", "bottom", "bottom_residual", "trace", "trace_error")}
        row |= {"projected_trace": values["projected_trace"], "projected_trace_error": values["projected_trace_error"]}
        row |= dict(zip(("ratio", "ratio_error"), one.ratio, strict=True))
        row |= {"frobenius": math.sqrt(values["squared_frobenius"])}
        row |= {"carrying_eigenvalues": values["carrying_eigenvalues"]}
        for name in ("saddle_rate", "smaller_curvature", "larger_curvature"):
            row |= {key: values[key] for key in (name, f"{name}_error", f"predicted_{name}", f"predicted_{name}_error")}
        rows.append(row)
    return pd.DataFrame(rows)


def _by_point(found: Sequence[Slices]) -> pd.DataFrame:
    """Means over seeds."""
    table = _table(found)
    return table.drop(columns="seed").groupby("point", sort=False).mean().reset_index()


# ---- charts -------------------------------------------------------------------------------------------------------------


def _bars(found: Sequence[Slices], name: str, error: str, errors: float = 2) -> dict[str, Any]:
    values = [one.values[name] for one in found]
    widths = [errors * one.values[error] for one in found]
    return {
        "y": values,
        "low": [value - width for value, width in zip(values, widths, strict=True)],
        "high": [value + width for value, width in zip(values, widths, strict=True)],
    }


def _saddle_chart(found: Sequence[Slices]) -> Chart:
    # The x axis is the quantity on which the formula depends.
    signal = [one.values["trace"] / math.sqrt(one.values["squared_frobenius"]) for one in found]
    grid = np.linspace(min(0.0, *signal), max(4.0, *signal) * 1.05, 200)
    series = [Series(label="formula", x=grid, y=[saddle_frequency(x, 1.0) for x in grid], kind="reference")]
    for name, some in _points(found).items():
        x = [one.values["trace"] / math.sqrt(one.values["squared_frobenius"]) for one in some]  # from other vectors
        series.append(Series(label=name, x=x, kind="points", **_bars(some, "saddle_rate", "saddle_rate_error")))
    return Chart(
        name="saddle_rate",
        title="Share of random slices that show a saddle",
        caption="Every point is a seed; bars are two jackknife standard errors. The formula is that of many eigenvalues of "
        "comparable size.",
        x_label="tr H / |H| (Frobenius norm)",
        y_label="Saddles among random slices",
        percent_y=True,
        series=series,
    )


def _curvatures_chart(found: Sequence[Slices]) -> Chart:
    series = []
    for name, some in _points(found).items():
        seeds = [f"seed {one.seed}" for one in some]
        for which in ("smaller", "larger"):
            for label, key in (("observed", f"{which}_curvature"), ("formula", f"predicted_{which}_curvature")):
                bars = _bars(some, key, f"{key}_error")
                series.append(Series(label=f"{which}, {label}", x=seeds, kind="points", panel=name, **bars))
    return Chart(
        name="curvatures",
        title="Mean principal curvatures of random slices",
        caption="The formula has its trace and Frobenius norm from other vectors than the slices. Bars are two jackknife "
        "standard errors.",
        y_label="Curvature",
        columns=3,
        series=series,
    )


def _trace_chart(found: Sequence[Slices]) -> Chart:
    series = []
    for name, some in _points(found).items():
        seeds = [f"seed {one.seed}" for one in some]
        for label, key in (("Hutchinson", "trace"), ("projections", "projected_trace")):
            bars = _bars(some, key, f"{key}_error")
            series.append(Series(label=label, x=seeds, kind="points", panel=name, **bars))
    return Chart(
        name="trace",
        title="The trace of the Hessian by two estimators",
        caption="Bars are two standard errors; each estimator has normal vectors of its own, the same number.",
        y_label="tr H",
        columns=3,
        series=series,
    )


def _sections_chart(found: Sequence[Slices]) -> Chart:
    series = []
    for one in found:
        if not one.planes:
            continue
        x, middle = one.planes["positions"], len(one.planes["positions"]) // 2
        lines = {
            "largest eigenvalue": one.planes["hessian"][middle],
            "smallest eigenvalue": one.planes["hessian"][:, middle],
        }
        random = [name for name in one.planes if name.startswith("random")]
        lines |= {f"random direction {number}": one.planes[name][middle] for number, name in enumerate(random, 1)}
        series += [Series(label=label, x=x, y=y, kind="curve", panel=one.point) for label, y in lines.items()]
    return Chart(
        name="sections",
        title="The loss along Hessian directions and along random ones",
        caption="All directions have length 1. Random ones look flat: their expected curvature is the mean of all eigenvalues.",
        x_label="Distance along the direction",
        y_label="Loss",
        share_y=False,
        columns=3,
        series=series,
        references=[Reference(0.0, axis="x")],
    )


def _surfaces(found: Sequence[Slices]) -> list[Chart]:
    """The plane of the Hessian directions and a random one, at the first and at the last point of the path of one seed."""
    measured = [one for one in found if one.planes]
    axes = {
        "hessian": ("Largest eigenvalue", "Smallest eigenvalue"),
        "random_1": ("Random direction 1", "Random direction 2"),
    }
    ends = {"": measured[0]} | ({"_trained": measured[-1]} if len(measured) > 1 else {})
    return [_surface(one, name, names, suffix) for suffix, one in ends.items() for name, names in axes.items()]


def _surface(one: Slices, name: str, names: tuple[str, str], suffix: str) -> Chart:
    x, loss = one.planes["positions"], one.planes[name]
    kind = "the Hessian directions" if name == "hessian" else "two random directions"
    caption = (
        f"Loss {one.point}, seed {one.seed}; both directions have length 1. Eigenvalues along the Hessian directions: "
        f"{one.values['top']:.3g} and {one.values['bottom']:.3g}."
    )
    title = f"The plane of {kind}, {one.point}"
    return surface(
        x, x, loss, names=names, normalization="unit length", name=f"plane_{name}{suffix}", title=title, caption=caption
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(found: Sequence[Slices], table: pd.DataFrame) -> str:
    parts = []
    for name, some in _points(found).items():
        observed, predicted = (
            np.mean(rates) for rates in zip(*((o.values["saddle_rate"], o.predicted_rate) for o in some), strict=True)
        )
        parts.append(f"{observed:.0%} {name} (formula {predicted:.0%})")
    return (
        f"Of random slices {', '.join(parts)} are saddles; the trace from values of the loss is {pooled_ratio(table):.2f} "
        "times that from products with the Hessian."
    )


def _notes(found: Sequence[Slices], table: pd.DataFrame) -> list[str]:
    notes = []
    for name, some in _points(found).items():
        means = {key: float(np.mean([one.values[key] for one in some])) for key in some[0].values}
        shown = int(saddles(table[table["point"] == name]).sum())
        notes.append(
            f"{name[0].upper()}{name[1:]}: eigenvalues from {means['bottom']:.3g} to {means['top']:.3g}, trace "
            f"{means['trace']:.3g}, Frobenius norm {math.sqrt(means['squared_frobenius']):.3g}, carried by about "
            f"{means['carrying_eigenvalues']:.0f} of {means['dimension']:,.0f} eigenvalues. A negative eigenvalue beyond three "
            f"times its residual is there in {shown} of {len(some)} seeds."
        )
    tested = table[table["predicted_saddle_rate"] >= RESOLUTION]
    off = int((errors_apart(tested) > ERRORS).sum())
    notes.append(
        "Observed and predicted saddle rates, whose vectors are independent, are more than two joint standard errors apart at "
        f"{off} of the {len(tested)} points at which the formula gives a rate above {RESOLUTION:.1%}; chance alone gives one in "
        "twenty. The formula takes z'Hz for normal, which it is not where few eigenvalues carry the norm."
    )
    apart = sum(abs(ratio - 1) > 2 * error for ratio, error in (one.ratio for one in found))
    notes.append(f"The two traces are more than two standard errors apart at {apart} of {len(found)} points.")
    return notes
