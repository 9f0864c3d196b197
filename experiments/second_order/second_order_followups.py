"""Three further studies with equal batches, fresh factors and longer runs, judged by criteria that were fixed before their runs.

autoencoder_batch: momentum at the batch of K-FAC. convnet_factors: K-FAC with new factors and inverses at every step, at batch
4,096. entropy_long: Entropy-SGD and SGD at several lengths, with their flatness at equal training loss.
"""

import math

import numpy as np
import pandas as pd
from second_order_charts import shown
from second_order_choices import EVERY_STEP, Part, reported
from second_order_comparisons import steps_to_loss

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.claim_outcomes import above, below
from optbench.analysis.findings import Findings
from optbench.analysis.laws.minima import rise
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

QUESTIONS = {
    "autoencoder_batch": "At equal batches, does K-FAC need fewer steps than momentum on a deep autoencoder?",
    "convnet_factors": "Does K-FAC need fewer steps at a large batch if its factors and inverses are new at every step?",
    "entropy_long": "Does Entropy-SGD find flatter minima than SGD at the same training loss, and as low a test error?",
}
KFAC, NATURAL, MOMENTUM = "K-FAC", "K-FAC, natural", "momentum SGD"
#: Of steps to K-FAC's last loss: the ratio in examples that the study at batch 200 had, all that is left to K-FAC if momentum
#: uses the larger batch perfectly.
FEWER_STEPS = 3.0
#: Of a ratio of which only a lower bound is known, which has no interval.
LEAST_SEEDS = 3
#: Of test accuracies: the standard error of a difference between two shares of 86 % among 10,000 images.
ACCURACY_MARGIN = 0.005
#: The distance along filter-normalized directions at which the rise of the loss is taken, as in the study landscape.
DISTANCE = 0.5
#: The measure by which flatness is judged; the others are shown beside it.
JUDGED = "filter_rise"
MEASURES = {
    "filter_rise": f"rise at {DISTANCE} along filter-normalized directions",
    "eigenvalues_top": "largest eigenvalue",
    "trace": "trace",
    "sharpness_adaptive": "adaptive sharpness (ASAM)",
    "sharpness_sam": "sharpness in a ball (SAM)",
    "sharpness_keskar": "sharpness in a box (Keskar)",
}
ENTROPY, SGD = "Entropy-SGD", "SGD"


def analyse(part: Part, study: Study, ranked: pd.DataFrame, evaluations: pd.DataFrame) -> Findings:
    """The findings of one of these studies; ranked, evaluations: of `second_order_choices.scored`."""
    analyses = {
        "autoencoder_batch": lambda: _autoencoder_batch(ranked, evaluations),
        "convnet_factors": lambda: _convnet_factors(ranked, evaluations),
        "entropy_long": lambda: _entropy_long(study, ranked),
    }
    return analyses[part.name]()


def _of_log(ratios: pd.Series) -> Interval:
    """The geometric mean of ratios with its Student interval; of a censored one only that they are above the least is known."""
    values = ratios.dropna().to_numpy(float)
    if np.isinf(values).any():
        return Interval(math.inf, math.nan, math.inf)
    return student(np.log(values)).exp()


# ---- momentum at the batch of K-FAC -----------------------------------------------------------------------------------------


def _autoencoder_batch(ranked: pd.DataFrame, evaluations: pd.DataFrame) -> Findings:
    runs = reported(ranked)
    histories = evaluations.merge(runs[["run_id", "method", "seed"]], on="run_id").sort_values("step")
    of_run = dict(list(histories.groupby(["method", "seed"])))
    rows = []
    for (method, seed), history in of_run.items():
        row = {"method": method, "seed": seed, "steps": history["step"].max()}
        row |= {"train_loss": history["train_loss"].iloc[-1], "test_loss": history["test_loss"].iloc[-1]}
        kfac = of_run.get((NATURAL, seed))
        if kfac is not None:
            steps, loss = int(kfac["step"].iloc[-1]), float(kfac["train_loss"].iloc[-1])
            row["train_loss_at_equal_steps"] = np.interp(steps, history["step"], history["train_loss"])
            row["ratio_of_steps"] = steps_to_loss(history, loss) / steps
            # A run that does not come to the loss needs more than all of its steps.
            row["ratio_is_above"] = history["step"].max() / steps
        rows.append(row)
    table = pd.DataFrame(rows)
    outcomes = pd.DataFrame([_fewer_steps(table, method) for method in sorted(set(table["method"]) - {NATURAL})])
    words = [f"{row['method']} {row['words']}" for _, row in outcomes.iterrows()]
    answer = f"At batch 1,000, steps to the last training loss of K-FAC over those of K-FAC: {'; '.join(words)}."
    return Findings(
        QUESTIONS["autoencoder_batch"],
        answer,
        [_losses_chart(histories)],
        {"agreement": outcomes.drop(columns="words"), "runs_of_the_choices": table, "tried": _tried(ranked)},
        [
            "Options are chosen on seed 0 by validation loss; those of K-FAC are of the earlier search of six trials. All "
            "results are of other seeds.",
            f"By the criterion that was fixed before the runs, a ratio agrees if its interval lies above {FEWER_STEPS:g}.",
        ],
    )


def _fewer_steps(table: pd.DataFrame, method: str) -> dict[str, object]:
    own = table[table["method"] == method].dropna(subset=["ratio_of_steps"])
    ratios, bound = own["ratio_of_steps"], own["ratio_is_above"].min()
    kfac = table[table["method"] == NATURAL].set_index("seed")["train_loss"]
    lower = int((own.set_index("seed")["train_loss_at_equal_steps"] > kfac).sum())
    row: dict[str, object] = {"method": method, "seeds": len(own), "seeds_with_kfac_lower_at_equal_steps": lower}
    reached = ratios[np.isfinite(ratios)]
    if len(reached) == len(ratios):
        found = _of_log(ratios)
        row |= {"estimate": found.estimate, "low": found.low, "high": found.high}
        row |= {"outcome": above(found.low, found.high, FEWER_STEPS), "words": f"{found:.1f}"}
    else:
        # The least that is known of each seed.
        least = ratios.where(np.isfinite(ratios), own["ratio_is_above"])
        row |= {"estimate": math.inf, "low": float(least.min()), "high": math.inf}
        # Where a chosen option does not train on another seed, its search has failed, and with few seeds that is all one knows.
        outcome = "agrees" if least.min() > FEWER_STEPS and len(ratios) >= LEAST_SEEDS else "undecided"
        row |= {
            "outcome": outcome,
            "words": f"above {bound:.1f} in {len(ratios) - len(reached)} of {len(ratios)} seeds",
        }
    return row | {"least": FEWER_STEPS}


def _tried(ranked: pd.DataFrame) -> pd.DataFrame:
    """The options that were tried on seed 0 with their scores, the best of each method first."""
    return ranked.loc[ranked["seed"] == 0, ["method", "choice", "score", "status"]].reset_index(drop=True)


def _losses_chart(histories: pd.DataFrame) -> Chart:
    series = []
    for method, rows in histories.groupby("method"):
        along = rows.groupby("step")["train_loss"]
        ends = {"low": along.min(), "high": along.max()}
        mean = along.mean()
        series.append(Series(label=shown(method), x=mean.index, y=mean, kind="curve", band=True, **ends))
    return Chart(
        name="losses",
        title="Training loss of a deep autoencoder at batch 1,000",
        caption="Nats an image, mean over the seeds that options were not chosen on, bands from the least to the most.",
        x_label="Step",
        y_label="Training loss (nats an image)",
        log_x=True,
        log_y=True,
        series=series,
    )


# ---- factors at every step ----------------------------------------------------------------------------------------------------


def _convnet_factors(ranked: pd.DataFrame, evaluations: pd.DataFrame) -> Findings:
    runs = seeds_only(ranked, ["method"])
    table = runs[["method", "seed", "choice", "score"]].rename(columns={"score": "steps_to_target"})
    wide = table.pivot_table(index="seed", columns="method", values="steps_to_target", aggfunc="first")
    rows = []
    for method, other in ((EVERY_STEP, KFAC), (EVERY_STEP, MOMENTUM), (KFAC, MOMENTUM)):
        if {method, other} <= set(wide):
            found = _of_log(wide[method] / wide[other])
            row = {
                "method": method,
                "against": other,
                "ratio_of_steps": found.estimate,
                "low": found.low,
                "high": found.high,
            }
            rows.append(row | {"seeds": int(wide[[method, other]].notna().all(axis=1).sum()), "most": 1.0})
            rows[-1]["outcome"] = below(found.low, found.high, 1)
    outcomes = pd.DataFrame(rows)
    medians = table.groupby("method")["steps_to_target"].agg(["median", "min", "max"])
    words = [f"{name} {row['median']:.3g} [{row['min']:.3g}, {row['max']:.3g}]" for name, row in medians.iterrows()]
    return Findings(
        QUESTIONS["convnet_factors"],
        f"Steps to 80 % validation accuracy at batch 4,096, the median over seeds and their range: {'; '.join(words)}.",
        [_factors_chart(evaluations.merge(runs[["run_id", "method", "seed"]], on="run_id"))],
        ({"agreement": outcomes} if rows else {}) | {"steps_to_target": table},
        [
            "All options are those that the earlier search chose, for K-FAC with factors every 10 steps: only the two periods "
            "of K-FAC are changed.",
            "By the criterion that was fixed before the runs, a ratio of steps, paired by seed, agrees with an advantage of the "
            "first method if its 95 % interval lies below 1.",
        ],
    )


def _factors_chart(histories: pd.DataFrame) -> Chart:
    series = []
    for (method, seed), rows in histories.sort_values("step").groupby(["method", "seed"]):
        series.append(
            Series(
                label=shown(method), x=rows["step"], y=rows["validation_accuracy"], kind="curve", panel=f"seed {seed}"
            )
        )
    return Chart(
        name="accuracies",
        title="Validation accuracy of a convolutional net at batch 4,096",
        caption="Each run ends at the first evaluation at 80 % or above.",
        x_label="Step",
        y_label="Validation accuracy",
        percent_y=True,
        columns=3,
        series=series,
    )


# ---- long runs and their flatness ---------------------------------------------------------------------------------------------


def _entropy_long(study: Study, ranked: pd.DataFrame) -> Findings:
    table = _minima(study, ranked)
    matched = _matched(table)
    rows = []
    for name, meaning in MEASURES.items():
        ratios = matched[name] if len(matched) else pd.Series(dtype=float)
        found = _of_log(ratios)
        row = {
            "quantity": meaning,
            "estimate": found.estimate,
            "low": found.low,
            "high": found.high,
            "least": 0.0,
            "most": 1.0,
        }
        rows.append(row | {"outcome": below(found.low, found.high, 1), "judged": name == JUDGED, "seeds": len(ratios)})
    for steps, own in table.groupby("steps"):
        both = own.pivot(index="seed", columns="method", values="test_accuracy")
        if {ENTROPY, SGD} <= set(both):
            found = student((both[ENTROPY] - both[SGD]).dropna().to_numpy())
            row = {
                "quantity": f"test accuracy after {steps:,} gradients, minus that of SGD",
                "estimate": found.estimate,
            }
            row |= {"low": found.low, "high": found.high, "least": -ACCURACY_MARGIN, "most": 1.0}
            rows.append(
                row
                | {
                    "outcome": above(found.low, found.high, -ACCURACY_MARGIN),
                    "judged": True,
                    "seeds": len(both.dropna()),
                }
            )
    outcomes = pd.DataFrame(rows)
    first = outcomes.iloc[list(MEASURES).index(JUDGED)]
    ratio = Interval(first["estimate"], first["low"], first["high"])
    last = outcomes.iloc[-1]
    difference = Interval(100 * last["estimate"], 100 * last["low"], 100 * last["high"])
    answer = (
        f"At equal training loss the {first['quantity']} of Entropy-SGD is {ratio:.2f} times that of SGD; its "
        f"{last['quantity']} is {difference:+.2f} points."
    )
    return Findings(
        QUESTIONS["entropy_long"],
        answer,
        [_flatness_chart(table)],
        {"agreement": outcomes, "matched": matched, "minima": table},
        [
            "Options are those of the earlier search at 1,600 gradients on seed 0. Test accuracies at 1,600 gradients had been "
            "seen on these seeds, too; longer runs and measures of flatness had not.",
            "Ratios are paired by seed, at the higher of the two training losses that the longest runs of a seed reach: the "
            "measure of the method that goes lower is interpolated between its lengths, as a power of the training loss.",
            "By the criteria fixed before the runs, flatter minima are a ratio whose 95 % interval lies below 1, judged "
            f"by the {MEASURES[JUDGED]}; the others are shown beside it without a correction for their number. Test accuracies "
            f"agree if the difference is above -{100 * ACCURACY_MARGIN:.1f} points.",
        ],
    )


def _minima(study: Study, runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each run that is done: its losses, accuracies and measures."""
    rows = []
    for _, run in runs[runs["status"] == "done"].iterrows():
        lines = study.measurements(run["run_id"], "landscape")
        traces = study.measurements(run["run_id"], "trace")
        if not lines or not traces:
            continue
        arrays = lines[-1].arrays()
        row = {"method": run["method"], "seed": int(run["seed"]), "steps": int(run["steps"])}
        row |= {name: run[name] for name in ("train_loss", "test_loss", "test_accuracy", "gap_accuracy")}
        row["filter_rise"] = rise(arrays["positions"], arrays["loss"].mean(axis=0), 0, DISTANCE)
        row["trace"] = traces[-1].values["value"]
        row |= {name: run[name] for name in MEASURES if name not in row}
        rows.append(row)
    columns = ["method", "seed", "steps"]
    return pd.DataFrame(rows).sort_values(columns).reset_index(drop=True) if rows else pd.DataFrame(columns=columns)


def _matched(table: pd.DataFrame) -> pd.DataFrame:
    """For each seed the measures of Entropy-SGD over those of SGD at the lowest training loss that both reach."""
    rows = []
    for seed, own in table.groupby("seed"):
        curves = {name: runs.sort_values("train_loss") for name, runs in own.groupby("method")}
        if not {ENTROPY, SGD} <= set(curves):
            continue
        loss = max(curves[name]["train_loss"].iloc[0] for name in (ENTROPY, SGD))
        if any(curves[name]["train_loss"].iloc[-1] < loss for name in (ENTROPY, SGD)):
            continue  # they have no training loss in common
        at = {name: _at(curves[name], loss) for name in (ENTROPY, SGD)}
        rows.append({"seed": seed, "train_loss": loss} | {name: at[ENTROPY][name] / at[SGD][name] for name in MEASURES})
    return pd.DataFrame(rows)


def _at(curve: pd.DataFrame, loss: float) -> dict[str, float]:
    """The measures at a training loss, interpolated in logarithms; ``curve`` is sorted by it."""
    losses = np.log(curve["train_loss"].to_numpy(float))
    return {
        name: float(np.exp(np.interp(np.log(loss), losses, np.log(curve[name].to_numpy(float))))) for name in MEASURES
    }


def _flatness_chart(table: pd.DataFrame) -> Chart:
    series = []
    for name, meaning in MEASURES.items():
        for (method, _), rows in table.sort_values("train_loss").groupby(["method", "seed"]):
            label, x, y = shown(method), rows["train_loss"], rows[name]
            series.append(Series(label=label, x=x, y=y, panel=meaning))
    return Chart(
        name="flatness",
        title="Flatness against training loss",
        caption="Each line joins the two lengths of one seed.",
        x_label="Training loss",
        log_x=True,
        log_y=True,
        share_y=False,
        columns=2,
        series=series,
    )
