"""Steps to a target against the batch: the noisy quadratic model in theory and trained, and a network beside it."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from network_steps import LOSSES, SEARCH_SEEDS, STEPS, chosen, target_of
from quadratic_cells import compare, fewest
from quadratic_charts import NAMES, model_chart, network_chart, ratio_chart, saving_chart, slope_chart
from quadratic_claims import claims, trend_notes, trends

from optbench.analysis.findings import Findings
from optbench.analysis.laws.critical_batch import fit_critical_batch, local_slopes
from optbench.analysis.statistics.intervals import Interval, bootstrap
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.statistics.targets import TIMES
from optbench.analysis.study import Study

QUESTION = (
    "At which batch sizes does a larger batch, momentum, preconditioning or averaging save steps, and does the noisy quadratic "
    "model describe a network?"
)
THEORY = Path(__file__).with_name("tuned_steps.csv")
REPETITIONS = 2000


def analyse(study: Study) -> Findings:
    """The tuned theory, every trained cell beside the theory of its hyperparameters, and the network's steps and slopes."""
    ended = study.runs[study.runs["status"].isin(["done", "diverged"])]
    if not (ended["status"] == "done").any():
        return Findings(QUESTION, "Not enough runs for an answer: none is done.")
    ended = seeds_only(ended, ["dataset", "optimizer", "batch", "base_learning_rate"])
    history = study.histories(["event", *dict.fromkeys(LOSSES.values()), *TIMES.values()])
    is_model = ended["dataset"] == "quadratic"
    theory, measured = pd.read_csv(THEORY), compare(ended[is_model], history)
    tuned = chosen(ended[~is_model], history)
    steps = {"theory": _single(theory), "trained": _single(fewest(measured)), "network": _several(tuned)}
    slopes, savings, critical = _slopes(steps), _savings(steps), _critical(steps)
    tables = {
        "trained_and_theory": measured,
        "fewest_steps": fewest(measured),
        "network": tuned.drop(columns="values", errors="ignore"),
        "tuned_theory": theory,
        "critical_batch": critical,
        "local_slopes": slopes,
        "savings": savings,
        "savings_trends": trends(savings),
    }
    charts = [
        model_chart(theory, fewest(measured)),
        ratio_chart(measured),
        network_chart(steps["network"]),
        saving_chart(savings),
        slope_chart(slopes),
    ]
    return Findings(
        QUESTION,
        _answer(measured, savings),
        [chart for chart in charts if chart.series],
        {name: frame for name, frame in tables.items() if len(frame)},
        [*_notes(measured, tuned, savings, ended[~is_model]), *trend_notes(tables["savings_trends"])],
        claims=claims(ended, measured, savings, slopes, tables["savings_trends"]),
    )


Steps = dict[str, dict[int, np.ndarray]]  # of each method at each batch, one value for each run that reports


def _single(table: pd.DataFrame) -> Steps:
    """The column steps of a table with one row for each method and batch."""
    found: Steps = {}
    for row in table.to_dict("records"):
        found.setdefault(row["method"], {})[int(row["batch"])] = np.array([float(row["steps"])])
    return found


def _several(tuned: pd.DataFrame) -> Steps:
    found: Steps = {}
    for row in tuned.to_dict("records"):
        if len(row["values"]):
            found.setdefault(row["method"], {})[int(row["batch"])] = row["values"]
    return found


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> Interval:
    """The ratio of the medians, with a bootstrap over runs; no bounds if both are single runs, NaN if a median is infinite."""
    if not (np.isfinite(np.median(numerator)) and np.isfinite(np.median(denominator))):
        return Interval(math.nan, math.nan, math.nan)
    if max(len(numerator), len(denominator)) < 2:
        return Interval(float(numerator[0] / denominator[0]), math.nan, math.nan)

    def statistic(runs: list[np.ndarray]) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a resample may not have reached the target on either side
            return np.asarray(np.median(runs[0], axis=-1) / np.median(runs[1], axis=-1))

    return bootstrap(statistic, [numerator, denominator], REPETITIONS)


def _slopes(steps: Mapping[str, Steps]) -> pd.DataFrame:
    """The slopes of log steps against log batch between neighbouring batch sizes, of every source and method."""
    parts = []
    for source, methods in steps.items():
        for name, own in methods.items():
            batches = sorted(own)
            table = local_slopes(np.array(batches), np.array([np.median(own[batch]) for batch in batches]))
            ratios = [_ratio(own[high], own[low]) for low, high in pairwise(batches)]
            with np.errstate(divide="ignore"):
                for bound in ("low", "high"):
                    logs = np.log([getattr(ratio, bound) for ratio in ratios])
                    table[bound] = logs / np.log(np.array(batches[1:]) / np.array(batches[:-1]))
            table.insert(0, "source", source)
            table.insert(1, "method", name)
            parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _savings(steps: Mapping[str, Steps]) -> pd.DataFrame:
    """The steps of plain SGD over those of each other method at the same batch, where both reach the target."""
    rows = []
    for source, methods in steps.items():
        plain = methods.get("sgd", {})
        for name, own in methods.items():
            for batch in sorted(set(own) & set(plain)) if name != "sgd" else ():
                factor = _ratio(plain[batch], own[batch])
                if math.isfinite(factor.estimate):
                    row = {"source": source, "method": name, "batch": batch, "factor": factor.estimate}
                    rows.append(row | {"low": factor.low, "high": factor.high})
    return pd.DataFrame(rows)


def _critical(steps: Mapping[str, Steps]) -> pd.DataFrame:
    """S_min and B_c of every source and method that reaches the target at three batch sizes."""
    rows = []
    for source, methods in steps.items():
        for name, own in methods.items():
            medians = np.array([np.median(own[batch]) for batch in sorted(own)])
            if np.isfinite(medians).sum() < 3:
                continue  # two parameters always fit two points
            fit = fit_critical_batch(np.array(sorted(own)), medians)
            row = {"source": source, "method": name, "critical_batch": fit.batch, "steps_min": fit.steps_min}
            rows.append(row | {"residual": fit.residual, "limit": fit.limit})
    return pd.DataFrame(rows)


# ---- words --------------------------------------------------------------------------------------------------------------


def _answer(measured: pd.DataFrame, savings: pd.DataFrame) -> str:
    if measured.empty:
        return "Not enough runs for an answer: none on the quadratic model is done."
    counts = measured["verdict"].value_counts()
    ratios = measured.loc[measured["ratio"].notna() & (measured["verdict"] != "undecided"), "ratio"]
    words = (
        f"On the quadratic model, {counts.get('agrees', 0)} of {len(measured)} trained cells agree with their theory, "
        f"{counts.get('disagrees', 0)} disagree and {counts.get('undecided', 0)} are undecided"
    )
    if len(ratios):
        words += f"; measured over predicted steps go from {ratios.min():.2f} to {ratios.max():.2f}"
    own = savings[savings["source"] == "network"] if len(savings) else savings
    if own.empty:
        return f"{words}."
    ends = (own["batch"].min(), own["batch"].max())
    each = [f"{_factors(own[own['batch'] == batch])} at batch {batch}" for batch in dict.fromkeys(ends)]
    return f"{words}. On the network plain SGD takes {' and '.join(each)}."


def _factors(savings: pd.DataFrame) -> str:
    return ", ".join(
        f"{Interval(row['factor'], row['low'], row['high']):.2f} times the steps of {NAMES[row['method']]}"
        for _, row in savings.iterrows()
    )


def _notes(measured: pd.DataFrame, tuned: pd.DataFrame, savings: pd.DataFrame, network: pd.DataFrame) -> list[str]:
    notes = []
    wrong = measured[measured["verdict"] == "disagrees"] if len(measured) else measured
    for _, row in wrong.iterrows():
        notes.append(
            f"{NAMES[row['method']]} at batch {row['batch']} with learning rate {row['learning_rate']:g} disagrees with its "
            f"theory: {_count(row['steps'])} measured and {_count(row['theory'])} predicted."
        )
    if len(measured):
        never = measured[np.isinf(measured["theory"]) & (measured["verdict"] != "undecided")]
        notes.append(
            f"Of {len(never)} cells that do not reach the target in theory, {int(np.isinf(never['steps']).sum())} did not."
        )
    for batch in (64, 256) if len(savings) else ():
        found = savings[
            (savings["source"] == "theory") & (savings["method"] == "momentum") & (savings["batch"] == batch)
        ]
        notes += [
            f"In theory finely tuned momentum takes {1 - 1 / factor:.0%} fewer steps than plain SGD at batch {batch}."
            for factor in found["factor"]
        ]
    if len(tuned):
        lost = tuned[~np.isfinite(tuned[STEPS])]
        notes.append(
            f"Target of the network: validation loss {target_of(network):.3g}; learning rates are chosen by the smallest median "
            f"of the seeds {', '.join(map(str, SEARCH_SEEDS))} and reported on the others. {len(lost)} of {len(tuned)} points "
            "did not reach it."
        )
        if edge := int(tuned["at_edge"].sum()):
            notes.append(
                f"At {edge} of {len(tuned)} points the best learning rate is the smallest or largest of the lattice."
            )
    return notes


def _count(steps: float) -> str:
    return f"{steps:.0f} steps" if math.isfinite(steps) else "no crossing"
