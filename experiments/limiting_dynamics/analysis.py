"""SGD with momentum once it has settled: local displacement, diffusion and oscillation, each beside its prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from limiting_charts import diffusion_chart, exponent_chart, frequency_chart, local_chart, portrait_chart
from limiting_claims import EXPONENT, FREQUENCY, LOCAL, claims
from limiting_runs import AT, AXES, CLEAR, POINTS, RELAXATIONS, SAMPLING, WINDOW, Settled, named, slope

from optbench.analysis.findings import Findings
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.study import Study

QUESTION = (
    "Do the weights of a network that has settled move as a stationary process on a quadratic: in one step, over many steps, and "
    "in their oscillations, at every learning rate, batch and momentum?"
)
#: The measured exponents, and those predicted for noise in proportion to the Hessian and for isotropic noise.
KINDS = ("", "_predicted", "_isotropic")
Rows = list[dict[str, Any]]


def analyse(study: Study) -> Findings:
    """A row for each run, its settings over seeds, and the directions of every run."""
    done = study.runs[study.runs["status"] == "done"]
    runs_done = named(done) if len(done) else done
    records = {run["run_id"]: Settled.read(study, run) for run in runs_done.to_dict("records")}
    stable = {run_id: record for run_id, record in records.items() if record is not None and record.stable}
    rows = [_row(run, stable[run["run_id"]]) for run in runs_done.to_dict("records") if run["run_id"] in stable]
    if not rows:
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    runs = pd.DataFrame(rows)
    directions = pd.concat(
        [
            stable[row["run_id"]].directions().assign(case=row["case"], axis=row["axis"], seed=row["seed"])
            for row in rows
        ],
        ignore_index=True,
    )
    settings = _settings(runs, directions)
    by_setting = {
        str(name): [stable[run_id] for run_id in own["run_id"]] for name, own in runs.groupby("case", sort=False)
    }
    charts = [
        diffusion_chart(runs, by_setting),
        local_chart(settings),
        exponent_chart(settings),
        frequency_chart(directions),
        portrait_chart(by_setting),
    ]
    tables = {
        "local_displacement": _table(settings, ["local_ratio"]),
        "exponents": _table(settings, [f"exponent{even}{kind}" for even in ("", "_even") for kind in KINDS]),
        "displacements": _table(settings, [f"displacement_ratio_{step}" for step in AT]),
        "sampling": _table(settings[settings["sampling_in_epochs"].notna()], SAMPLING),
        "single_directions": _table(settings, ["frequency_ratio", "equipartition", "position_slope", "velocity_slope"]),
        "directions": directions,
        "each_run": runs.drop(columns="run_id"),
    }
    return Findings(
        QUESTION,
        _answer(settings),
        [chart for chart in charts if chart.series],
        {name: table for name, table in tables.items() if len(table)},
        _notes(settings, directions, len(records) - len(stable)),
        ["experiments/limiting_dynamics/sampling.py"],
        claims(runs_done, settings, runs),
    )


def _row(run: Mapping[Any, Any], record: Settled) -> dict[str, Any]:
    row = {name: run[name] for name in ("run_id", "axis", "case", "seed")}
    row |= {"learning_rate": record.learning_rate, "batch": record.batch, "momentum": record.momentum}
    row |= {"weight_decay": record.weight_decay, "trace": record.trace, "top": float(record.eigenvalues[0])}
    return row | record.local() | record.diffusion() | record.sampling()


def _settings(runs: pd.DataFrame, directions: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting: means over seeds with 95 % Student intervals, of each run's numbers."""
    rows: Rows = []
    for name, own in runs.groupby("case", sort=False):
        row: dict[str, Any] = {"case": name, "axis": own["axis"].iloc[0], "seeds": len(own)}
        row |= {name: own[name].iloc[0] for name in ("learning_rate", "batch", "momentum")}
        values = {
            column: own[column]
            for column in own.columns
            if column.startswith(("local", "exponent", "displace", "sampling"))
        }
        mine = directions[directions["case"] == name]
        ratio = mine["frequency"] / mine["frequency_predicted"]
        values["frequency_ratio"] = ratio.groupby(mine["seed"]).mean()
        values["equipartition"] = mine["equipartition"].groupby(mine["seed"]).mean()
        for kind in ("position", "velocity"):
            slopes = [slope(one["curvature"].to_numpy(), one[kind].to_numpy()) for _, one in mine.groupby("seed")]
            values[f"{kind}_slope"] = pd.Series(slopes)
        for column, numbers in values.items():
            found = student(numbers.dropna().to_numpy(dtype=float))
            row |= {column: found.estimate, f"{column}_low": found.low, f"{column}_high": found.high}
        rows.append(row)
    order = {axis: place for place, axis in enumerate(["base", *AXES, "quadratic"])}
    frame = pd.DataFrame(rows)
    return frame.sort_values("axis", key=lambda axes: axes.map(order), kind="stable").reset_index(drop=True)


def _table(settings: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    chosen = [f"{column}{bound}" for column in columns for bound in ("", "_low", "_high")]
    return settings[["case", "seeds", *chosen]]


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(settings: pd.DataFrame) -> str:
    network = settings[~settings["axis"].isin(["quadratic", "weight decay"])]
    if network.empty:
        return "Not enough runs for an answer: none of the network is done."
    local, differences = network["local_ratio"], network["exponent"] - network["exponent_predicted"]
    words = [
        f"In {len(network)} settings of a network that has settled, the mean squared step is {local.min():.2f} to "
        f"{local.max():.2f} times its prediction",
        f"the exponents of diffusion are {network['exponent'].min():.2f} to {network['exponent'].max():.2f} and differ from "
        f"their predictions by {differences.min():+.2f} to {differences.max():+.2f}",
    ]
    frequencies = network["frequency_ratio"].dropna()
    if len(frequencies):
        words.append(
            f"and oscillations have {frequencies.min():.2f} to {frequencies.max():.2f} times the predicted frequency"
        )
    return f"{'; '.join(words)}."


def _notes(settings: pd.DataFrame, directions: pd.DataFrame, left_out: int) -> list[str]:
    network = settings[settings["axis"] != "quadratic"]
    notes = [
        "Intervals are 95 % Student intervals over seeds. Every prediction uses the trace of the noise and the spectrum of the "
        "Hessian at the first measurement; nothing is fitted to the path.",
        f"Exponents are slopes for {WINDOW[0]} ≤ k ≤ {WINDOW[1]} through {POINTS} points that are evenly spaced in log k; the "
        "even ones, through all recorded steps. Each is that of one path from one starting point.",
    ]
    notes += _verdicts("network", network[network["axis"] != "weight decay"])
    notes += _verdicts("quadratic model", settings[settings["axis"] == "quadratic"])
    control = network[network["axis"] == "weight decay"]
    for _, row in control.iterrows():
        notes.append(
            f"With {row['case']}, where training has not settled, the exponent over all steps is "
            f"{_of(row, 'exponent_even'):.2f}, and {row['exponent_even_predicted']:.2f} is predicted for a stationary process."
        )
    for axis in ("learning rate", "batch", "momentum"):
        notes += _trend(network, axis)
    notes += _sampling(network)
    notes += _against_others(network[network["axis"] != "weight decay"])
    base = directions[directions["axis"] == "base"]
    if base["frequency"].notna().any():
        notes.append(
            f"Frequencies are those of directions whose angular frequency is at least {CLEAR:g} times their rate of decay, "
            f"variances those of directions that relax {RELAXATIONS} times in the record."
        )
    if left_out:
        notes.append(
            f"{left_out} runs are left out: a measurement is missing, or their curvatures allow no stationary state."
        )
    return notes


def _of(row: pd.Series, column: str) -> Interval:
    return Interval(row[column], row[f"{column}_low"], row[f"{column}_high"])


def _verdicts(where: str, settings: pd.DataFrame) -> list[str]:
    if settings.empty:
        return []
    local = (settings["local_ratio"] - 1).abs() <= LOCAL
    exponent = (settings["exponent"] - settings["exponent_predicted"]).abs() <= EXPONENT
    known = settings[settings["frequency_ratio"].notna()]
    frequency = (known["frequency_ratio"] - 1).abs() <= FREQUENCY
    notes = [
        f"On the {where}, {local.sum()} of {len(settings)} settings have a mean squared step within {LOCAL:.0%} of the predicted "
        f"one, {exponent.sum()} an exponent within {EXPONENT}, and {frequency.sum()} of {len(known)} a frequency within "
        f"{FREQUENCY:.0%}."
    ]
    wrong = [
        *[f"{row['case']}: step {_of(row, 'local_ratio'):.2f} times" for _, row in settings[~local].iterrows()],
        *[
            f"{row['case']}: exponent {_of(row, 'exponent'):.2f}, not {row['exponent_predicted']:.2f}"
            for _, row in settings[~exponent].iterrows()
        ],
        *[
            f"{row['case']}: frequency {_of(row, 'frequency_ratio'):.2f} times"
            for _, row in known[~frequency].iterrows()
        ],
    ]
    if wrong:
        notes.append(f"Outside of these bounds on the {where}: {'; '.join(wrong)}.")
    ratio = settings["equipartition"].dropna()
    if len(ratio):
        notes.append(
            f"On the {where}, variances of positions over those of velocities are {ratio.min():.2f} to {ratio.max():.2f} times "
            "the ratio that holds for any noise on a quadratic."
        )
    return notes


def _trend(network: pd.DataFrame, axis: str) -> list[str]:
    """The exponents along one hyperparameter, with the base among them, beside their predictions."""
    own = network[network["axis"].isin([axis, "base"])].sort_values(axis.replace(" ", "_"))
    if len(own) < 3:
        return []
    pairs = ", ".join(f"{_of(row, 'exponent'):.2f} ({row['exponent_predicted']:.2f})" for _, row in own.iterrows())
    measured, predicted = np.diff(own["exponent"].to_numpy()), np.diff(own["exponent_predicted"].to_numpy())
    same = int((np.sign(measured) == np.sign(predicted)).sum())
    return [
        f"With a growing {axis} the exponent is {pairs}, predictions in parentheses: it changes in the predicted direction "
        f"between {same} of {len(measured)} neighbours."
    ]


def _against_others(network: pd.DataFrame) -> list[str]:
    """The error of the predicted exponents beside that of isotropic noise, and of the mean of all, which knows no setting."""
    if len(network) < 3:
        return []
    guesses = network["exponent_predicted"], network["exponent_isotropic"], network["exponent"].mean()
    errors = [float((network["exponent"] - guess).abs().mean()) for guess in guesses]
    return [
        f"Over the settings of the network the predicted exponents are off by {errors[0]:.3f} on average. With noise of the same "
        f"trace that is equal in all directions they would be off by {errors[1]:.3f}, and their common measured mean is off by "
        f"{errors[2]:.3f}."
    ]


def _sampling(network: pd.DataFrame) -> list[str]:
    """The exponents with both kinds of sampling, where they were measured."""
    known = network[network["sampling_in_epochs"].notna()].sort_values("batch")
    if known.empty:
        return []
    each = [
        f"{_of(row, 'sampling_with_replacement'):.2f} and not {_of(row, 'sampling_in_epochs'):.2f} at batch {row['batch']} "
        f"(predicted {row['exponent_predicted']:.2f})"
        for _, row in known.iterrows()
    ]
    return [f"If examples are drawn with replacement, and not in epochs, the exponent is {', '.join(each)}."]
