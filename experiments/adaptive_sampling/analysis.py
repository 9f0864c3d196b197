"""Step sizes at equal gradient work: the final training loss of each method, its range over step sizes, and the batch."""

import math

import numpy as np
import pandas as pd
from sampling_claims import SHARE, claims

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.findings import Findings
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

QUESTION = (
    "At equal gradient work, how much does the final training loss depend on the first step size: of SGD, of damped quasi-Newton "
    "steps, and of steps whose size and batch are adapted?"
)
SGD, PLAIN, CONTROLLED, REDUCED, ADAPTIVE = "SGD", "SdLBFGS", "SdLBFGS, controlled", "SdLBFGS-VR", "ARAS"
METHODS = (SGD, PLAIN, CONTROLLED, REDUCED, ADAPTIVE)
PROBLEMS = {"logreg": "Softmax regression", "mlp": "Network with tanh", "allcnnc": "All-CNN-C"}
#: Works are equal within this share.
EQUAL = 0.15
NAMES = {"sgd": SGD, "plain": PLAIN, "controlled": CONTROLLED, "adaptive": ADAPTIVE}
MODELS = {problem: model for model, problem in PROBLEMS.items()}
KEYS = ["problem", "method", "step_size"]


def analyse(study: Study) -> Findings:
    """Final losses, their ranges over step sizes, the largest and the smallest of each method, and the batches of ARAS."""
    runs = _runs(study)
    if runs.empty:
        return Findings(QUESTION, "Not enough runs for an answer: none has ended.")
    losses, ranges = _losses(runs), _ranges(runs)
    charts = [_loss_chart(losses), _batch_chart(runs)]
    tables = {"losses": losses, "ranges": ranges}
    return Findings(
        QUESTION,
        _answer(ranges),
        [chart for chart in charts if chart.series],
        {name: frame for name, frame in tables.items() if len(frame)},
        _notes(runs, losses, ranges),
        claims=claims(study.runs, losses, ranges, NAMES, MODELS),
    )


def _runs(study: Study) -> pd.DataFrame:
    """One row a run that has ended: problem, method, step_size, seed, loss (infinite if it diverged), work in epochs, batches."""
    runs = study.runs[study.runs["status"].isin(["done", "diverged"])]
    if runs.empty:
        return pd.DataFrame()
    runs = runs.assign(method=[_method(run) for run in runs.to_dict("records")], problem=runs["model"].map(PROBLEMS))
    sigma = runs.get("config.optimizer.sigma", pd.Series(np.nan, index=runs.index))
    # ARAS is given the inverse of its first step size.
    runs["step_size"] = runs["base_learning_rate"].where(runs["method"] != ADAPTIVE, 1 / sigma.astype(float)).round(9)
    runs = seeds_only(runs, KEYS)
    history = study.histories(["event", "step", "samples", "optimizer_batch", "optimizer_phase"])
    history = history[history["event"] == "train"]
    rows = []
    for run in runs.to_dict("records"):
        own = history[history["run_id"] == run["run_id"]].sort_values("step")
        examples = run["samples"] / run["epochs"]
        done = run["status"] == "done"
        adaptive = run["method"] == ADAPTIVE
        gradients = (own["optimizer_batch"] * (3 - own["optimizer_phase"])).sum() if adaptive else math.nan
        rows.append({
            **{key: run[key] for key in (*KEYS, "seed")},
            "loss": run["train_loss"] if done and math.isfinite(run["train_loss"]) else math.inf,
            "test_accuracy": run.get("test_accuracy", math.nan) if done else math.nan,
            "steps": run["steps"],
            # Two gradients of each example in the first phase of ARAS, one in the second.
            "work": gradients / examples if adaptive else run["oracle_gradients"] * run["batch"] / examples,
            "batches": own["optimizer_batch"].tolist() if adaptive else [],
            "epochs": (own["samples"] / examples).tolist() if adaptive else [],
            "second_phase": bool(adaptive and (own["optimizer_phase"] == 2).any()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _method(run: dict) -> str:
    if run["optimizer"] != "sdlbfgs":
        return SGD if run["optimizer"] == "sgd" else ADAPTIVE
    if run["config.optimizer.variance_reduction"]:
        return REDUCED
    return PLAIN if run["config.optimizer.control"] == "none" else CONTROLLED


def _losses(runs: pd.DataFrame) -> pd.DataFrame:
    """The mean of the final loss over seeds with Student's interval, of every method and step size; infinite if one diverged."""
    rows = []
    for key, group in runs.groupby(KEYS, sort=False):
        found = _mean(group["loss"])
        rows.append({
            **dict(zip(KEYS, key, strict=True)),
            "seeds": len(group),
            "diverged": int(np.isinf(group["loss"]).sum()),
            "loss": found.estimate,
            "low": found.low,
            "high": found.high,
            "work": group["work"].mean(),
            "steps": group["steps"].mean(),
        })  # fmt: skip
    return _ordered(pd.DataFrame(rows)).sort_values(["problem", "order", "step_size"]).drop(columns="order")


def _mean(values: pd.Series) -> Interval:
    finite = values[np.isfinite(values)]
    if len(finite) < len(values):
        return Interval(math.inf, math.nan, math.nan, 0.95)
    return student(finite.to_numpy())


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(order=frame["method"].map(METHODS.index))


def _ranges(runs: pd.DataFrame) -> pd.DataFrame:
    """For every problem and method: the largest less the smallest loss over step sizes, of each seed, its mean and interval."""
    rows = []
    for (problem, method), group in runs.groupby(["problem", "method"], sort=False):
        by_seed = group.pivot_table(index="seed", columns="step_size", values="loss", aggfunc="first")
        whole = by_seed.dropna()  # seeds with all step sizes
        if whole.empty:
            continue
        best, worst = whole.min(axis=1), whole.max(axis=1)
        spread, low = _mean(worst - best), _mean(best)
        rows.append({
            "problem": problem, "method": method, "seeds": len(whole), "step_sizes": whole.shape[1],
            "range": spread.estimate, "range_low": spread.low, "range_high": spread.high,
            "smallest_range": float((worst - best).min()), "largest_range": float((worst - best).max()),
            "best": low.estimate, "worst": float(worst.mean()),
            "best_step_size": float(whole.mean().idxmin()),
        })  # fmt: skip
    return _ordered(pd.DataFrame(rows)).sort_values(["problem", "order"]).drop(columns="order") if rows else _EMPTY


_EMPTY = pd.DataFrame(columns=["problem", "method"])


def _at(frame: pd.DataFrame, problem: str, method: str) -> dict | None:
    rows = frame[(frame["problem"] == problem) & (frame["method"] == method)].to_dict("records")
    return rows[0] if rows else None


def _problems(ranges: pd.DataFrame) -> list[str]:
    return [problem for problem in PROBLEMS.values() if problem in set(ranges["problem"])]


def _answer(ranges: pd.DataFrame) -> str:
    said = []
    for problem in _problems(ranges):
        ours, sgd = _at(ranges, problem, ADAPTIVE), _at(ranges, problem, SGD)
        if ours is None or sgd is None:
            continue
        said.append(
            f"{problem}: over {ours['step_sizes']} first step sizes the final loss of ARAS ranges over {_interval(ours)}, that "
            f"of SGD over {_interval(sgd)}"
        )
    if not said:
        return "Not enough runs for an answer: ARAS and SGD with all step sizes are needed."
    return "; ".join(said) + "."


def _interval(row: dict) -> str:
    if not math.isfinite(row["range"]):
        return "an infinite range, as runs diverged"
    bounds = "" if math.isnan(row["range_low"]) else f" [{row['range_low']:.3g}, {row['range_high']:.3g}]"
    return f"{row['range']:.3g}{bounds}"


def _notes(runs: pd.DataFrame, losses: pd.DataFrame, ranges: pd.DataFrame) -> list[str]:
    notes = []
    for problem in _problems(ranges):
        notes += _without_ends(runs, problem)
        ours, sgd, plain, controlled, reduced = (
            _at(ranges, problem, each) for each in (ADAPTIVE, SGD, PLAIN, CONTROLLED, REDUCED)
        )
        if ours is not None and sgd is not None:
            agrees = ours["largest_range"] < SHARE * sgd["smallest_range"]
            notes.append(
                f"{problem}, criterion of insensitivity: the largest range of ARAS of a seed, {ours['largest_range']:.3g}, is "
                f"{'' if agrees else 'not '}below {SHARE:g} times the smallest of SGD, {_width(sgd['smallest_range'])}."
            )
            better = ours["best"] < sgd["best"]
            notes.append(
                f"{problem}: at the best step size of each seed, chosen afterwards, ARAS ends at {ours['best']:.3f} and "
                f"SGD at {sgd['best']:.3f}: {'an' if better else 'no'} advantage of adapting, after "
                f"{_work(runs, problem, ADAPTIVE):.1f} and {_work(runs, problem, SGD):.1f} epochs of gradients."
            )
        if plain is not None and controlled is not None:
            notes.append(
                f"{problem}: the largest loss of SdLBFGS over step sizes is {plain['worst']:.3g}, with control of the "
                f"eigenvalues {controlled['worst']:.3g}{_same(runs, problem)}"
                + (f", and with variance reduction {reduced['worst']:.3g}." if reduced is not None else ".")
            )
        largest = losses[losses["problem"] == problem]
        longest = largest[largest["step_size"] == largest["step_size"].max()].set_index("method")["loss"]
        if {SGD, PLAIN} <= set(longest.index):
            notes.append(
                f"{problem}: with the largest step size SdLBFGS {_end(longest[PLAIN])} and SGD {_end(longest[SGD])}."
            )
        own = runs[(runs["problem"] == problem) & (runs["method"] == ADAPTIVE)]
        if len(own):
            ends = [batches[-1] for batches in own["batches"] if batches]
            notes.append(
                f"{problem}: the batch of ARAS ends at {min(ends):.0f} to {max(ends):.0f} examples after "
                f"{own['steps'].min():.0f} to {own['steps'].max():.0f} steps; {int(own['second_phase'].sum())} of {len(own)} "
                "runs reach the second phase."
            )
    done = runs[np.isfinite(runs["loss"])]
    if len(done):
        apart = done[(done["work"] / done["work"].median() - 1).abs() > EQUAL]
        notes.append(
            f"Gradient work: {done['work'].min():.1f} to {done['work'].max():.1f} epochs; {len(apart)} of {len(done)} "
            f"runs are more than {EQUAL:.0%} from the median"
            + (f" ({', '.join(sorted(set(apart['method'])))})." if len(apart) else ".")
        )
    diverged = runs[np.isinf(runs["loss"])]
    notes.append(f"{len(diverged)} of {len(runs)} runs diverged.")
    notes.append(
        "ARAS and the control of eigenvalues are reconstructions from two abstracts (unverified): what is found here is of them, "
        "and may not hold for the authors' algorithms."
    )
    return notes


def _without_ends(runs: pd.DataFrame, problem: str) -> list[str]:
    """The ranges of ARAS and SGD, means over seeds, without the largest and without the smallest step size."""
    sizes = sorted(runs["step_size"].unique())
    if len(sizes) < 3:
        return []
    said = []
    for name, left_out in (("largest", sizes[-1]), ("smallest", sizes[0])):
        inner = _ranges(runs[(runs["problem"] == problem) & (runs["step_size"] != left_out)])
        ours, sgd = _at(inner, problem, ADAPTIVE), _at(inner, problem, SGD)
        if ours is not None and sgd is not None:
            said.append(
                f"without the {name} step size ARAS ranges over {ours['range']:.3g} and SGD over {_width(sgd['range'])}"
            )
    return [f"{problem}: {'; '.join(said)}."] if said else []


def _work(runs: pd.DataFrame, problem: str, method: str) -> float:
    """The mean gradient work of the runs that did not diverge, in epochs."""
    chosen = (runs["problem"] == problem) & (runs["method"] == method) & np.isfinite(runs["loss"])
    return float(runs.loc[chosen, "work"].mean())


def _width(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "infinity, as runs diverged"


def _end(loss: float) -> str:
    return f"ends at {loss:.3g}" if math.isfinite(loss) else "diverges"


def _same(runs: pd.DataFrame, problem: str) -> str:
    """The words where control has changed no loss."""
    own = runs[runs["problem"] == problem].pivot_table(
        index=["seed", "step_size"], columns="method", values="loss", aggfunc="first"
    )
    return ", the same in every run" if (own[PLAIN] == own[CONTROLLED]).all() else ""


def _loss_chart(losses: pd.DataFrame) -> Chart:
    series = []
    for (problem, method), group in losses.groupby(["problem", "method"], sort=False):
        kept = group[np.isfinite(group["loss"])]
        series.append(
            Series(
                label=method,
                panel=problem,
                x=kept["step_size"].tolist(),
                y=kept["loss"].tolist(),
                low=kept["low"].fillna(kept["loss"]).clip(lower=1e-3).tolist(),
                high=kept["high"].fillna(kept["loss"]).tolist(),
            )
        )
    return Chart(
        name="losses",
        title="Final training loss against the first step size",
        caption=(
            "Mean over seeds of the loss on the training set after about twelve epochs of gradients; bars are Student's 95 % "
            "intervals. The step size of ARAS is that of its first step. Settings with a diverged run are left out."
        ),
        x_label="First step size",
        y_label="Training loss",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=[each for each in series if len(each.x)],
    )


def _batch_chart(runs: pd.DataFrame) -> Chart:
    chosen = runs[(runs["method"] == ADAPTIVE) & (runs["seed"] == runs["seed"].min())].sort_values("step_size")
    return Chart(
        name="batches",
        title="The batch of ARAS",
        caption="The batch of every step against the epochs of examples used so far, of the first seed, by the first step size.",
        x_label="Epochs of examples",
        y_label="Batch (examples)",
        log_y=True,
        series=[
            Series(
                label=f"first step {run['step_size']:g}",
                panel=run["problem"],
                x=run["epochs"],
                y=run["batches"],
                kind="line",
            )
            for run in chosen.to_dict("records")
        ],
    )
