"""The largest eigenvalue of batch Hessians and the largest stable learning rates against the batch size."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import batch_hessian_agreement as agreement
import numpy as np
import pandas as pd
from batch_hessian_agreement import FITTED_FROM
from batch_hessian_claims import claims

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.laws.scaling_laws import power_law, references
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study
from optbench.errors import UserError
from optbench.theory import effective_batch

QUESTION = (
    "How does the largest eigenvalue of the Hessian grow as the batch shrinks, and is that how the largest stable learning "
    "rate falls?"
)
PREDICTIONS = ("isotropic", "directional", "fitted")
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
#: Slopes of the largest stable rates on the smaller and on the larger half of the batch sizes.
EXPECTED_SLOPES = {"sgd": (1.0, 0.0), "adam": (0.5, 0.0)}
MEASURE_RATES = "experiments/batch_hessian/maximal_learning_rates.py"
Arrays = dict[str, np.ndarray]


@dataclass
class Point:
    """A step of training at which every seed was measured.

    hessians: by seed, the arrays of the probe. rates: by seed, the arrays of maximal_learning_rates.py. losses: by seed.
    """

    name: str
    hessians: dict[int, Arrays] = field(default_factory=dict)
    rates: dict[int, Arrays] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)

    @property
    def batch_sizes(self) -> np.ndarray:
        """The batch sizes, which are equal for all seeds."""
        return next(iter(self.hessians.values()))["batch_sizes"]

    def growth(self, name: str) -> np.ndarray:
        """The measured ("top") or a predicted largest eigenvalue over that of all examples, (seeds, B)."""
        found = []
        for arrays in self.hessians.values():
            curve = arrays[name].mean(axis=1) if name == "top" else arrays[name]
            found.append(curve / arrays["full_top"])
        return np.array(found)

    def predicted_rates(self) -> np.ndarray:
        """2/λ₁' with the mean over draws of the measured eigenvalues, (seeds, B)."""
        return np.array([2 / arrays["top"].mean(axis=1) for arrays in self.hessians.values()])


def analyse(study: Study) -> Findings:
    """The growth of the eigenvalue with its three predictions, and the exponents of the largest stable rates."""
    points = _points(study)
    if not points:
        raise UserError(f"{study.name}: none of its runs has a measurement of the probe batch_hessian yet")
    measured = [point for point in points if point.rates]
    exponents = _exponents(points)
    charts = [_growth_chart(points)]
    if measured:
        charts.append(_rates_chart(measured))
    tables = {
        "agreement": _agreement(points, exponents),
        "critical_batches": _critical_batches(points),
        "eigenvalues": _eigenvalues(points),
        "exponents": exponents,
    }
    if measured:
        tables["maximal_learning_rates"] = _rates(measured)
    notes = [_outcomes(tables["agreement"]), *_notes(points)]
    of_paper = claims(study.runs, tables["critical_batches"], exponents, tables.get("maximal_learning_rates"))
    return Findings(QUESTION, _answer(points, exponents), charts, tables, notes, [MEASURE_RATES], of_paper)


def _points(study: Study) -> list[Point]:
    models = study.runs["model"].nunique()
    points: dict[str, Point] = {}
    for _, run in seeds_only(study.runs, ["model", "config.budget.epochs"]).iterrows():
        rates = {found.step: found for found in study.measurements(run["run_id"], "maximal_learning_rates")}
        for found in study.measurements(run["run_id"], "batch_hessian"):
            name = f"after {found.step:,} steps" if models == 1 else f"{run['model']}, after {found.step:,} steps"
            point, seed = points.setdefault(name, Point(name)), int(run["seed"])
            point.hessians[seed] = found.arrays()
            if found.step in rates:
                point.rates[seed] = rates[found.step].arrays()
                point.losses[seed] = rates[found.step].values["start_loss"]
    return list(points.values())


# ---- tables -------------------------------------------------------------------------------------------------------------


def _factor(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The factor by which a prediction is off: from the root mean square of the logarithm of the ratio."""
    return float(np.exp(np.sqrt(np.mean(np.log(predicted / measured) ** 2))))


def _fit(arrays: Arrays) -> float:
    """b* by least squares of λ₁'/λ₁ - 1 on 1/b̃ through the origin, as in the probe, from batches of FITTED_FROM on."""
    kept = arrays["batch_sizes"] >= FITTED_FROM
    inverse = 1 / np.asarray(effective_batch(arrays["batch_sizes"][kept], int(arrays["examples"])))
    growth = arrays["top"][kept].mean(axis=1) / arrays["full_top"] - 1
    return float(inverse @ growth / (inverse @ inverse))


def _critical_batches(points: Sequence[Point]) -> pd.DataFrame:
    rows = []
    for point in points:
        for place, (seed, arrays) in enumerate(point.hessians.items()):
            row = {"point": point.name, "seed": seed, "train_loss": point.losses.get(seed, np.nan)}
            row |= {"top": float(arrays["full_top"]), "bottom": float(arrays["full_bottom"])}
            row |= {f"b_star_{name}": float(arrays[f"b_star_{name}"]) for name in PREDICTIONS}
            row[f"b_star_fitted_from_{FITTED_FROM}"] = _fit(arrays)
            measured = point.growth("top")[place]
            row |= {f"off_by_{name}": _factor(point.growth(name)[place], measured) for name in PREDICTIONS}
            rows.append(row)
    return pd.DataFrame(rows)


def _agreement(points: Sequence[Point], exponents: pd.DataFrame) -> pd.DataFrame:
    """A row for each statement of the protocol, judged as `batch_hessian_agreement` says."""
    rows = []
    for point in points:
        tops = [arrays["top"] for arrays in point.hessians.values()]
        null, measured = agreement.null_factor(tops), point.growth("top")
        for name in PREDICTIONS:
            curves = zip(point.growth(name), measured, strict=True)
            row = agreement.curve([agreement.deviation(*both) for both in curves], null)
            rows.append({"point": point.name, "statement": f"λ₁' on the {name} curve (factor)"} | row)
        for name in PREDICTIONS[:2]:
            row = agreement.ratio([float(one[f"b_star_{name}"]) / _fit(one) for one in point.hessians.values()])
            rows.append({"point": point.name, "statement": f"{name} b* over the fitted one (ratio)"} | row)
        if not point.rates:
            continue
        rates = [arrays["sgd"] for arrays in point.rates.values()]
        both = zip(point.predicted_rates(), rates, strict=True)
        row = agreement.curve([agreement.deviation(*pair) for pair in both], null)
        rows.append({"point": point.name, "statement": "rates of SGD at 2/λ₁' (factor)"} | row)
        rows += [{"point": point.name} | row for row in _slopes(exponents[exponents["point"] == point.name])]
    return pd.DataFrame(rows)


def _slopes(exponents: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for name, expected in EXPECTED_SLOPES.items():
        quantity = f"largest stable rate of {OPTIMIZERS[name]}"
        # The first row is over all sizes.
        halves = exponents[exponents["quantity"] == quantity].iloc[1:]
        for (_, found), wanted in zip(halves.iterrows(), expected, strict=False):
            span = f"{found['smallest_batch']} to {found['largest_batch']}"
            statement = f"slope {wanted:g} of {OPTIMIZERS[name]}'s rates, batches {span}"
            rows.append({"statement": statement} | agreement.slope(found.to_dict(), wanted))
    return rows


def _eigenvalues(points: Sequence[Point]) -> pd.DataFrame:
    rows = []
    for point in points:
        for seed, arrays in point.hessians.items():
            for index, batch in enumerate(arrays["batch_sizes"]):
                row = {"point": point.name, "seed": seed, "batch": int(batch), "top": arrays["top"][index].mean()}
                row |= {"top_deviation": arrays["top"][index].std(ddof=1), "bottom": arrays["bottom"][index].mean()}
                rows.append(row | {name: float(arrays[name][index]) for name in PREDICTIONS})
    return pd.DataFrame(rows)


def _rates(points: Sequence[Point]) -> pd.DataFrame:
    rows = []
    for point in points:
        for place, (seed, arrays) in enumerate(point.rates.items()):
            predicted = point.predicted_rates()[place]
            for index, batch in enumerate(arrays["batch_sizes"]):
                row = {"point": point.name, "seed": seed, "batch": int(batch), "two_over_top": predicted[index]}
                row["two_over_top_after"] = 2 / float(arrays["top_after_sgd"][index])
                rows.append(row | {name: float(arrays[name][index]) for name in OPTIMIZERS})
    return pd.DataFrame(rows)


def _exponents(points: Sequence[Point]) -> pd.DataFrame:
    """Log-log slopes against the batch: over all sizes, and over their smaller and their larger half."""
    rows = []
    for point in points:
        sizes = point.batch_sizes
        curves = {"2/λ₁' of the batch Hessian": point.predicted_rates()}
        for name, label in OPTIMIZERS.items():
            if point.rates:
                curves[f"largest stable rate of {label}"] = np.array([arrays[name] for arrays in point.rates.values()])
        half = len(sizes) // 2
        for quantity, values in curves.items():
            for part in (slice(None), slice(None, half), slice(half, None)):
                if len(sizes[part]) > 1:
                    slopes = [power_law(sizes[part], curve[part]).exponent for curve in values]
                    found = student(np.array(slopes))
                    row = {"point": point.name, "quantity": quantity, "smallest_batch": int(sizes[part][0])}
                    row |= {"largest_batch": int(sizes[part][-1]), "exponent": found.estimate, "low": found.low}
                    rows.append(row | {"high": found.high, "seeds": len(slopes)})
    return pd.DataFrame(rows)


# ---- charts -------------------------------------------------------------------------------------------------------------


def _over_seeds(values: np.ndarray) -> dict[str, Any]:
    """The geometric mean over the seeds, and their range."""
    return {"y": np.exp(np.log(values).mean(axis=0)), "low": values.min(axis=0), "high": values.max(axis=0)}


def _growth_chart(points: Sequence[Point]) -> Chart:
    series = []
    for point in points:
        sizes = point.batch_sizes
        series.append(
            Series(label="measured", x=sizes, panel=point.name, kind="points", **_over_seeds(point.growth("top")))
        )
        for name in PREDICTIONS:
            predicted = np.exp(np.log(point.growth(name)).mean(axis=0))
            series.append(Series(label=name, x=sizes, y=predicted, panel=point.name, kind="curve"))
    return Chart(
        name="batch_hessian",
        title="The largest eigenvalue of the batch Hessian",
        caption="Relative to the Hessian of all training examples. Points: geometric mean over seeds of the mean over draws, "
        "bars from the smallest to the largest seed. Lines: the three predictions, each with its own b*.",
        x_label="Batch size (examples)",
        y_label="λ₁' / λ₁",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=series,
        references=[Reference(1.0)],
    )


def _rates_chart(points: Sequence[Point]) -> Chart:
    series = []
    for point in points:
        sizes = point.batch_sizes
        for name, label in OPTIMIZERS.items():
            panel = f"{label}, {point.name}"
            found = _over_seeds(np.array([arrays[name] for arrays in point.rates.values()]))
            series.append(Series(label="largest stable rate", x=sizes, panel=panel, **found))
            if name == "sgd":
                predicted = _over_seeds(point.predicted_rates())["y"]
                series.append(Series(label="2/λ₁' at the start", x=sizes, y=predicted, panel=panel, kind="curve"))
                after = np.array([2 / arrays["top_after_sgd"] for arrays in point.rates.values()])
                series.append(
                    Series(label="2/λ₁ at the end", x=sizes, y=_over_seeds(after)["y"], panel=panel, kind="curve")
                )
            for law, fit in references(sizes, found["y"]).items():
                series.append(Series(label=law, x=sizes, y=fit(sizes), panel=panel, kind="reference"))
    return Chart(
        name="maximal_learning_rates",
        title="The largest stable learning rate",
        caption="Geometric mean over seeds, bars from the smallest to the largest seed. Dashed: the best lines of slope 1 "
        "(linear) and 1/2 (square root). 2/λ₁' at the start: of the batch Hessian; 2/λ₁ at the end: of all examples, "
        "where 100 steps with almost the largest stable rate end.",
        x_label="Batch size (examples)",
        y_label="Learning rate",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        share_y=False,
        series=series,
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(points: Sequence[Point], exponents: pd.DataFrame) -> str:
    """The answer for the last point: the batch at which λ₁' doubles, and the slopes over all batch sizes."""
    last = points[-1]
    star = student(np.array([_fit(arrays) for arrays in last.hessians.values()]))
    here = exponents[exponents["point"] == last.name].drop_duplicates("quantity")  # the first is over all sizes
    slopes = [
        f"{row['quantity']} as batch^{Interval(row['exponent'], row['low'], row['high']):.2f}"
        for _, row in here.iterrows()
    ]
    span = f"from batch {last.batch_sizes[0]:.0f} to {last.batch_sizes[-1]:.0f}"
    return (
        f"{last.name[0].upper()}{last.name[1:]}, the largest eigenvalue of a batch's Hessian doubles at a batch of "
        f"{star:.1f} (fitted to batches of {FITTED_FROM} and more). These grow {span}: {', '.join(slopes)}; the rules say "
        "1 for SGD and 1/2 for Adam."
    )


def _outcomes(table: pd.DataFrame) -> str:
    """The statements by outcome."""
    parts = []
    for outcome in ("agrees", "disagrees", "undecided"):
        some = table[table["outcome"] == outcome]
        if len(some):
            words = (f"{row['statement']} {row['point']}" for _, row in some.iterrows())
            parts.append(f"{outcome} ({len(some)}): {'; '.join(words)}")
    return f"By criteria that were fixed before the runs, {'. '.join(parts)}."


def _notes(points: Sequence[Point]) -> list[str]:
    notes = ["Intervals are 95 % Student intervals over seeds; with one seed there are none."]
    for point in points:
        stars = {
            name: student(np.array([float(arrays[f"b_star_{name}"]) for arrays in point.hessians.values()]))
            for name in PREDICTIONS
        }
        later = student(np.array([_fit(arrays) for arrays in point.hessians.values()]))
        measured = point.growth("top")
        off = {name: _factor(point.growth(name), measured) for name in PREDICTIONS}
        notes.append(
            f"{point.name[0].upper()}{point.name[1:]}, λ₁' doubles at b* = {stars['fitted']:.1f} by the fit "
            f"(by one to batches of {FITTED_FROM} and more, {later:.1f}), "
            f"{stars['directional']:.1f} by the directional prediction and {stars['isotropic']:.2f} by the isotropic "
            f"one; the curves are off by factors of {off['fitted']:.2f}, {off['directional']:.2f} and {off['isotropic']:.2f}."
        )
        if point.rates:
            ratio = np.array([arrays["sgd"] for arrays in point.rates.values()]) / point.predicted_rates()
            low, high = np.exp(np.log(ratio).mean(axis=0))[[0, -1]]
            notes.append(
                f"{point.name[0].upper()}{point.name[1:]}, SGD's largest stable rate is {low:.2f} times 2/λ₁' at batch "
                f"{point.batch_sizes[0]:.0f} and {high:.2f} times at batch {point.batch_sizes[-1]:.0f}."
            )
    if not any(point.rates for point in points):
        notes.append(f"The largest stable learning rates have not been measured yet: python {MEASURE_RATES}")
    return notes
