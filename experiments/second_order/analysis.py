"""The studies of second-order methods that are sweeps: autoencoder, convolutional net, Entropy-SGD, and their follow-ups.

`report` analyses each by its experiment: second_order_autoencoder, second_order_convnet, second_order_entropy. The runs of their
baselines, which are separate experiments, are included. The follow-ups are in second_order_followups.py.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import second_order_charts
import second_order_followups
from second_order_choices import Part, chosen, part_of, reported, scored
from second_order_claims import claims
from second_order_comparisons import comparisons, sentences

from optbench.analysis.findings import Findings
from optbench.analysis.study import Study
from optbench.errors import UserError

QUESTIONS = {
    "autoencoder": "Does K-FAC need fewer steps than Nesterov momentum on a deep autoencoder, and less time?",
    "convnet": "Do K-FAC and EKFAC need fewer steps to a target than SGD with momentum, and the more so the larger the batch?",
    "entropy": "Does Entropy-SGD come to the test error of SGD at equal numbers of gradients?",
}
SCRIPTS = ("experiments/second_order/reruns.py", "experiments/second_order/step_cost.py")


def analyse(study: Study) -> Findings:
    """The results of the chosen options on the seeds that were not used for the choice."""
    part = part_of(study.name)
    runs, evaluations = gathered(part, study)
    ranked = scored(part, runs, evaluations)
    questions = QUESTIONS | second_order_followups.QUESTIONS
    if ranked.empty or not (ranked["seed"] != 0).any():
        return Findings(questions[part.name], "Not enough runs for an answer: no choice has been run on other seeds.")
    if part.name in second_order_followups.QUESTIONS:
        return second_order_followups.analyse(part, study, ranked, evaluations)
    rows = table(part, ranked)
    means = with_processor_seconds(curves(ranked, evaluations), part, study.results_dir / "second_order")
    charts = {
        "autoencoder": lambda: second_order_charts.autoencoder(means),
        "convnet": lambda: second_order_charts.convnet(rows),
        "entropy": lambda: second_order_charts.entropy(means),
    }
    compared = comparisons(part, ranked, evaluations, means)
    notes = [
        *sentences(compared),
        "Choices are made on seed 0 and on validation data; the results are of the other seeds.",
        f"{int(rows['diverged'].sum())} of {int(rows['tried'].sum())} tried options diverged.",
    ]
    tables = {"methods": rows, "curves": means} | ({"comparisons": compared} if len(compared) else {})
    of_papers = claims(part, ranked, compared)
    return Findings(QUESTIONS[part.name], answer(part, rows), [charts[part.name]()], tables, notes, SCRIPTS, of_papers)


def gathered(part: Part, study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of the study and of the latest sweeps of its other experiments, and the evaluations in their histories."""
    studies = [study]
    for name in part.experiments:
        if name != study.name:
            try:
                studies.append(Study.read(study.results_dir, name))
            except UserError:  # the sweep has not been started
                continue
    runs = pd.concat([one.runs for one in studies], ignore_index=True)
    runs = runs.drop_duplicates("run_id", ignore_index=True)
    histories = pd.concat([one.histories() for one in studies], ignore_index=True)
    rows = histories[histories["event"] == "evaluation"] if "event" in histories else histories
    return runs, rows.drop_duplicates(["run_id", "step"], ignore_index=True) if len(rows) else rows


def table(part: Part, runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each method: the tried and chosen options, and mean and standard deviation over the reported seeds."""
    rows = []
    again_of_all = reported(runs)
    for _, best in chosen(runs).iterrows():
        tried = runs[(runs["method"] == best["method"]) & (runs["seed"] == 0)]
        again = again_of_all[again_of_all["method"] == best["method"]]
        row = {
            "method": best["method"],
            "choice": best["choice"],
            "learning_rate": best["learning_rate"],
            "tried": len(tried),
            "diverged": int((tried["status"] == "diverged").sum()),
            "seeds": again["seed"].nunique(),
            "steps": again["config.budget.steps"].max(),
            "seconds": again["seconds_training"].mean(),
        }
        if part.name == "convnet":
            row |= {"reached": int(np.isfinite(tried["score"]).sum()), "steps_to_target_seed_0": best["score"]}
            row |= {
                "steps_to_target": again["score"].median(),
                "least": again["score"].min(),
                "most": again["score"].max(),
            }
        else:
            metrics = ["train_loss", "test_loss"] + (
                ["test_accuracy", "gap_accuracy"] if part.name == "entropy" else []
            )
            for metric in metrics:
                row |= {metric: again[metric].mean(), f"{metric}_deviation": again[metric].std()}
        rows.append(row)
    return pd.DataFrame(rows)


def curves(runs: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    """Evaluations of the reported runs, averaged over seeds."""
    rows = evaluations.merge(reported(runs)[["run_id", "method"]], on="run_id")
    columns = ["seconds", "train_loss", "validation_loss", "test_loss", "validation_accuracy", "test_accuracy"]
    kept = [column for column in columns if column in rows and rows[column].notna().any()]
    return rows.groupby(["method", "step"])[kept].mean().reset_index()


def with_processor_seconds(means: pd.DataFrame, part: Part, folder: Path) -> pd.DataFrame:
    """Curves with the processor seconds of the steps by ``step_cost.py``, if it has been run."""
    path = folder / "step_cost.csv"
    if not path.is_file():
        return means
    costs = pd.read_csv(path)
    of_method = dict(costs.loc[costs["study"] == part.name, ["method", "seconds_a_step"]].to_numpy())
    return means.assign(processor_seconds=means["step"] * means["method"].map(of_method))


def answer(part: Part, rows: pd.DataFrame) -> str:
    """The result of each method in a sentence, the best first."""
    if part.name == "convnet":
        kept = rows.sort_values("steps_to_target")
        words = [
            f"{row.method} {row.steps_to_target:.3g} [{row.least:.3g}, {row.most:.3g}]" for row in kept.itertuples()
        ]
        return f"Steps to the target, the median over seeds and their range: {'; '.join(words)}."
    metric, scale, unit = ("test_accuracy", 100, " %") if part.name == "entropy" else ("train_loss", 1, "")
    kept = rows.sort_values(metric, ascending=part.name != "entropy")
    words = [
        f"{row['method']} {scale * row[metric]:.4g} ± {scale * row[f'{metric}_deviation']:.2g}{unit}"
        for row in kept.to_dict("records")
    ]
    name = metric.replace("_", " ")
    return f"{name.capitalize()} at the end, mean and standard deviation over seeds: {'; '.join(words)}."
