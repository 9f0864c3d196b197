"""First-order methods at their defaults on LeNet-5 and Fashion-MNIST: the test accuracy of each, over seeds."""

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.claim_outcomes import decided, effect, place
from optbench.analysis.claims import Claim
from optbench.analysis.findings import Findings
from optbench.analysis.names import method
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

QUESTION = "Does every optimizer that the bench ships train LeNet-5 on Fashion-MNIST, as it is configured by default?"
COLUMNS = ("optimizer", "batch", "steps", "learning_rate")
EXPECTED = 0.8


def analyse(study: Study) -> Findings:
    """The methods that reach the expected accuracy, and the accuracy of each."""
    rows = table(study.runs)
    if rows.empty:
        return Findings(QUESTION, "Not enough runs for an answer: none has ended.")
    below = rows[~(rows["test_accuracy"] >= EXPECTED)]
    answer = f"{len(rows) - len(below)} of {len(rows)} settings come to a test accuracy of {EXPECTED:.0%}"
    if len(below):
        answer += "; not " + ", ".join(_words(row) for row in below.to_dict("records"))
    notes = [
        f"{int(rows['diverged'].sum())} of {int(rows['runs'].sum())} runs diverged.",
        "No learning rate was tuned: nothing here says that one method is better than another.",
    ]
    share = 1 - len(below) / len(rows)
    expected = Claim(
        claim=f"Every method comes to a test accuracy of {EXPECTED:.0%} at its defaults.",
        source="expectation of this study",
        outcome=decided(below.empty),
        quantity=f"share of settings with a test accuracy of {EXPECTED:.0%}",
        unit="fraction",
        estimand="W",
        matched_by="epochs",
        runs=int(rows["runs"].sum()),
        **effect(share),
        **place(study.runs),
    )
    return Findings(QUESTION, f"{answer}.", [_chart(rows)], {"accuracies": rows}, notes, claims=[expected])


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and worst of the test accuracy over seeds, the best setting first; NaN if all runs diverged."""
    ended = runs[runs["status"].isin(["done", "diverged"])]
    if ended.empty or "test_accuracy" not in ended:
        return pd.DataFrame()
    groups = seeds_only(ended, COLUMNS).groupby(list(COLUMNS), dropna=False)
    rows = groups.agg(
        runs=("seed", "size"),
        seeds=("seed", "nunique"),
        diverged=("status", lambda status: int((status == "diverged").sum())),
        test_accuracy=("test_accuracy", "mean"),
        deviation=("test_accuracy", "std"),
        worst=("test_accuracy", "min"),
        gap_accuracy=("gap_accuracy", "mean"),
    ).reset_index()
    return rows.sort_values("test_accuracy", ascending=False, ignore_index=True)


def _words(row: dict) -> str:
    return f"{method(row['optimizer'])} at batch {row['batch']:.0f} ({100 * row['test_accuracy']:.1f} %)"


def _chart(rows: pd.DataFrame) -> Chart:
    kept = rows[np.isfinite(rows["test_accuracy"])]
    twice = kept["optimizer"].duplicated(keep=False)
    names = [
        f"{method(name)}, batch {batch:.0f}" if again else str(method(name))
        for name, batch, again in zip(kept["optimizer"], kept["batch"], twice, strict=True)
    ]
    spread = kept["deviation"].fillna(0.0)
    ends = {"low": kept["test_accuracy"] - spread, "high": kept["test_accuracy"] + spread}
    return Chart(
        name="accuracies",
        title="Test accuracy at the defaults",
        caption="Mean over seeds of the last step's test accuracy; bars are one standard deviation.",
        y_label="Test accuracy",
        percent_y=True,
        horizontal=True,
        series=[Series(label="test accuracy", x=names, y=kept["test_accuracy"], kind="points", **ends)],
        references=[Reference(EXPECTED, "expected")],
    )
