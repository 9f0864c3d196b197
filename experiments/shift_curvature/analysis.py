"""The terms by which curvature raises the test loss, beside the theory of SGD, over training sets, rates and batches."""

import pandas as pd
from shift_charts import covariance_chart, panel, sizes_chart, terms_chart
from shift_claims import COLD, NEAR_ONE, NEAR_PREDICTION, NEAR_RISE, SHARE, claims
from shift_points import (
    EPOCHS,
    REPLACED,
    by_seed,
    interval,
    points,
    regression,
    settings,
    sizes_at_most,
    slopes,
)

from optbench.analysis.findings import Findings
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.study import Study

QUESTION = (
    "How much of the test loss comes from the distance between the minima of train and test loss, and how much from the noise of "
    "SGD?"
)


def analyse(study: Study) -> Findings:
    """The four terms of every setting, their sum beside the measured rise, and the fall of the shift with the training set."""
    table = points(study)
    if not len(table):
        return Findings(QUESTION, "Not enough runs for an answer: none is measured.")
    means, falls = settings(table), slopes(table)
    charts = [terms_chart(means), covariance_chart(means), sizes_chart(means)]
    tables = {"settings": means, "slopes": falls, "points": table}
    answer = _answer(table, means)
    notes = [
        *_criteria(table, means),
        *_networks(table, means),
        *_falls(falls),
        *_epochs(means),
        *_checks(study, table, means),
    ]
    of_paper = claims(study.runs, table, means)
    return Findings(QUESTION, answer, [chart for chart in charts if chart.series], tables, notes, claims=of_paper)


def _largest(means: pd.DataFrame) -> pd.DataFrame:
    """The settings at the largest training set and penalty, by temperature."""
    return sizes_at_most(means).sort_values("temperature")


def _answer(table: pd.DataFrame, means: pd.DataFrame) -> str:
    own = _largest(regression(means))
    if len(own) < 2:
        return "Not enough runs for an answer: softmax regression is to have several temperatures."
    cold, hot = own.iloc[0], own.iloc[-1]
    return (
        f"For softmax regression the shift is {interval(cold, 'share'):.0%} of the sum of all terms at the lowest temperature, "
        f"η/(2b) = {cold['temperature']:.2g}, and {interval(hot, 'share'):.0%} at the highest, {hot['temperature']:.2g}, where "
        f"the covariance of the weights adds {hot['covariance']:.3f} and the shift {hot['shift']:.3f}."
    )


def _range(values: pd.Series, form: str = ".2f") -> str:
    low, high = f"{values.min():{form}}", f"{values.max():{form}}"
    return low if low == high else f"{low} to {high}"


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _criteria(table: pd.DataFrame, means: pd.DataFrame) -> list[str]:
    """The four criteria, each with its numbers; seed by seed where a number is of single runs."""
    own, notes = regression(means), []
    if not len(own):
        return notes
    runs = table[(table["model"] == "logreg") & (table["drawing"] == REPLACED)]
    cold, cold_runs = own[own["temperature"] <= COLD], runs[runs["temperature"] <= COLD]
    if len(cold):
        first = bool((cold["shift_is_largest"] == cold["seeds"]).all() and (cold_runs["share"] >= SHARE).all())
        notes.append(
            f"Criterion 1, the shift is the largest term and at least {SHARE:.0%} of the sum up to a temperature of 1/128: "
            f"{_verdict(first)}. The share is {_range(cold_runs['share'], '.1%')} in {len(cold_runs)} runs."
        )
    predicted = own.dropna(subset=["over_prediction"])
    if len(predicted):
        ratios, both = predicted["over_prediction"], predicted["both_over_prediction"]
        inside = (ratios - 1).abs() <= NEAR_PREDICTION
        low, high = predicted["over_prediction_low"].min(), predicted["over_prediction_high"].max()
        reach = "" if pd.isna(low) else f"; intervals over seeds reach from {low:.2f} to {high:.2f}"
        notes.append(
            f"Criterion 2, the covariance term is within {NEAR_PREDICTION:.0%} of its prediction: "
            f"{_verdict(bool(inside.all()))}. It is {_range(ratios)} times the prediction, and within in {int(inside.sum())} of "
            f"{len(ratios)} settings{reach}."
            + "".join(
                f" Outside: n = {row['examples']}, λ = {row['penalty']:g}, η = {row['learning_rate']:g}, b = {row['batch']} with "
                f"{interval(row, 'over_prediction'):.2f}."
                for _, row in predicted[~inside].iterrows()
            )
            + f" With the bias term, which holds the error of the iterates' mean, it is {_range(both)}."
        )
    ratio = student(by_seed(runs, sizes_at_most(own), "ratio"))
    third = ratio.estimate >= NEAR_ONE
    spread = "; ".join(
        f"λ = {penalty:g}: {', '.join(f'{value:.2f}' for value in part.groupby('examples')['ratio'].mean())}"
        for penalty, part in own.groupby("penalty")
    )
    notes.append(
        f"Criterion 3, Q/G is at least {NEAR_ONE} at the largest training set and penalty: {_verdict(third)}, {ratio:.3f}. Over "
        f"n = {', '.join(str(n) for n in sorted(own['examples'].unique()))} it is, at {spread}."
    )
    off = (own["accuracy"] - 1).abs()
    notes.append(
        f"Criterion 4, the sum of the terms is within {NEAR_RISE:.0%} of the measured rise: "
        f"{_verdict(bool((off <= NEAR_RISE).all()))}. It is {_range(own['accuracy'])} times the rise, and within in "
        f"{int((off <= NEAR_RISE).sum())} of {len(own)} settings."
    )
    return notes


def _networks(table: pd.DataFrame, means: pd.DataFrame) -> list[str]:
    notes = []
    for model, own in means[(means["model"] != "logreg")].groupby("model"):
        runs = table[table["model"] == model]
        predicted, both = own["over_prediction"].dropna(), own["both_over_prediction"].dropna()
        theory = f", and the covariance term is {_range(predicted)} times its prediction" if len(predicted) else ""
        theory += f", {_range(both)} with the bias term" if len(both) else ""
        largest = int(own["shift_is_largest"].sum())
        notes.append(
            f"{panel(str(model))}: the shift is the largest term in {largest} of {len(runs)} runs, Q/G is "
            f"{_range(own['ratio'])}, the sum of the terms is {_range(own['accuracy'])} times the measured rise{theory} (means "
            f"over seeds of {len(own)} settings). The mean of the iterates is {_range(runs['train_bias_norm'])} from the train "
            f"minimum, and the minima are {_range(runs['shift_norm'])} from each other."
        )
    return notes


def _falls(falls: pd.DataFrame) -> list[str]:
    notes = []
    for _, row in falls[falls["quantity"] == "shift"].iterrows() if len(falls) else ():
        found = Interval(row["slope"], row["low"], row["high"])
        without = "" if pd.isna(row["least"]) else f", {row['least']:.2f} to {row['most']:.2f} without one of the sizes"
        notes.append(
            f"{panel(row['model'])}, λ = {row['penalty']:g}: Q falls as n to the power {found:.2f} over {row['sizes']} training "
            f"sets{without}; -1 is the law of least squares with many examples."
        )
    return notes


def _epochs(means: pd.DataFrame) -> list[str]:
    """The setting that also runs without replacement."""
    own = means[(means["drawing"] == EPOCHS) & (means["model"] == "logreg")]
    same = ["model", "examples", "penalty", "learning_rate", "batch"]
    both = own.merge(means[means["drawing"] == REPLACED], on=same, suffixes=("", "_replaced"))
    return [
        f"Without replacement, at b = {row['batch']}, the covariance term is {interval(row, 'over_prediction'):.2f} times the "
        f"prediction for independent draws, and {row['covariance'] / row['covariance_replaced']:.2f} times that with replacement."
        for _, row in both.iterrows()
    ]


def _checks(study: Study, table: pd.DataFrame, means: pd.DataFrame) -> list[str]:
    counts = (
        int((table["converged"] == 0).sum()),
        int((table["barrier"] > 0).sum()),
        int((table["train_barrier"] > 0).sum()),
    )
    notes = [
        f"Of {len(table)} runs {counts[0]} have a descent that did not converge, {counts[1]} a barrier between the minima, and "
        f"{counts[2]} one between the iterates and the train minimum. Intervals are Student's, over seeds, each of which divides "
        "the data anew; all divisions are of the same 1,797 digits, and their test sets overlap."
    ]
    diverged = int((study.runs["status"] == "diverged").sum())
    if diverged:
        notes.append(f"{diverged} runs diverged and have no minima.")
    return notes
