"""The tables of the paper from the runs: every seed reports the learning rate that the other seeds choose."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.selection import select

SGD, NESTEROV, HEAVY_BALL = "SGD", "Nesterov", "heavy ball"
METHODS = {"nesterov": NESTEROV, "momentum": HEAVY_BALL}
ERROR, BEFORE = "train_squared_error", "before"
TEST_ERRORS, VALIDATION_ERRORS = "test_errors", "validation_errors"
RATE = "base_learning_rate"
#: The momenta at which the two methods are compared, and the criteria: at most so much of SGD's error, so near to each other.
SMALL, LARGE = 0.9, 0.999
GAIN, SAME = 0.5, 0.1
#: A task on which SGD makes fewer than this share of the errors of a blind answer is solved without momentum.
SOLVED = 0.05
AUTOENCODER, RECURRENT = ["model", "init_scale", "method", "momentum"], ["task", "method", "momentum"]


def autoencoder_runs(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The runs of autoencoders, with method, momentum, init_scale, and the error ``before`` the final phase."""
    own = _methods(runs[runs["config.momentum_schedule.name"] == "sutskever"], "maximum")
    if own.empty:
        return own
    own["init_scale"] = own["config.init.scale"].astype(float)
    steps = own["config.budget.steps"].astype(float)
    final = [_in_steps(*pair) for pair in zip(own["config.momentum_schedule.final_steps"], steps, strict=True)]
    starts = own[["run_id"]].assign(start=steps - final)
    evaluated = starts.merge(history[history["event"] == "evaluation"], on="run_id")
    earlier = evaluated[evaluated["step"] <= evaluated["start"]].sort_values("step")
    own[BEFORE] = own["run_id"].map(earlier.groupby("run_id")[ERROR].last()).astype(float)
    return own


def recurrent_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of recurrent networks, with task, method, momentum, and the wrong answers of a sequence on two splits."""
    own = _methods(runs[runs["config.momentum_schedule.name"] == "delayed"], "then")
    if own.empty:
        return own
    symbols = own.get("config.dataset.symbols", pd.Series(math.nan, index=own.index)).astype(float)
    values = own.get("config.dataset.values", pd.Series(math.nan, index=own.index)).astype(float)
    bits = symbols * np.log2(values)
    names = bits.map(lambda count: f"memorization, {count:.0f} bits" if math.isfinite(count) else "")
    own["task"] = own["dataset"].mask(symbols.notna(), names)
    answers = symbols.fillna(1.0)
    own[TEST_ERRORS] = answers * (1 - own["test_accuracy"].astype(float))
    own[VALIDATION_ERRORS] = answers * (1 - own["validation_accuracy"].astype(float))
    own["blind"] = [_blind_errors(row) for row in own.to_dict("records")]
    return own


def _methods(runs: pd.DataFrame, option: str) -> pd.DataFrame:
    """The runs with method and momentum; both methods are SGD without momentum."""
    momentum = runs[f"config.momentum_schedule.{option}"].astype(float) if len(runs) else pd.Series(dtype=float)
    return runs.assign(momentum=momentum, method=runs["optimizer"].map(METHODS).where(momentum > 0, SGD))


def _in_steps(duration: object, steps: float) -> float:
    text = str(duration)
    return float(text.removesuffix("%")) / 100 * steps if text.endswith("%") else float(text)


def _blind_errors(run: dict[str, object]) -> float:
    """The wrong answers of a sequence of one that knows the targets' distribution but not the sequence."""
    tolerance = 0.04
    if run["dataset"] == "memorization":
        return float(run["config.dataset.symbols"]) * (1 - 1 / float(run["config.dataset.values"]))  # type: ignore[arg-type]
    if run["dataset"] == "adding":  # the sum of two uniform numbers is most often near 1
        return 1 - 2 * tolerance + tolerance**2
    width = 2 * tolerance  # a product of two uniform numbers has the density -log p, which is largest at 0
    return 1 - width * (1 - math.log(width))


def by_seed(runs: pd.DataFrame, by: list[str], metric: str, results: list[str]) -> pd.DataFrame:
    """One row for each cell and seed: ``results`` at the learning rate with the best mean ``metric`` over the other seeds.

    chosen: that learning rate; edges: "low" or "high" if it is an end of the grid. Infinity where that run diverged.
    """
    seeds = sorted(set(runs["seed"])) if len(runs) else []
    if len(seeds) < 2:
        return pd.DataFrame(columns=[*by, "seed", "chosen", "edges", *results])
    parts = []
    for seed in seeds:
        best = select(runs, by, metric, results, [RATE], search_seeds=[other for other in seeds if other != seed])
        best[results] = best[results].mask(best["best_diverged"] > 0, math.inf)
        parts.append(best.assign(seed=seed, chosen=best[RATE])[[*by, "seed", "chosen", "edges", *results]])
    return pd.concat(parts, ignore_index=True)


def cell(table: pd.DataFrame, **wanted: object) -> "pd.Series[float]":
    """The error of the rows of `by_seed` with the wanted values, by seed."""
    own = table
    for name, value in wanted.items():
        own = own[own[name] == value]
    return own.set_index("seed")[ERROR if ERROR in table else TEST_ERRORS].astype(float)


def geometric_mean(values: "pd.Series[float]") -> Interval:
    """The geometric mean over seeds, with Student's interval of the logarithm; NaN if a value is not finite, or 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values.dropna().to_numpy(float))
    if not len(logs) or not np.isfinite(logs).all():
        return Interval(math.nan, math.nan, math.nan)
    found = student(logs)
    return Interval(math.exp(found.estimate), math.exp(found.low), math.exp(found.high))


def ratio(first: "pd.Series[float]", second: "pd.Series[float]") -> Interval:
    """The geometric mean of first/second, paired by seed."""
    return geometric_mean(first / second)


# ---- comparisons of cells -----------------------------------------------------------------------------------------------


def plain(pictures: pd.DataFrame) -> pd.DataFrame:
    """The autoencoders with the initialization of scale 1."""
    return pictures[pictures["init_scale"] == 1] if len(pictures) else pictures.assign(model=[])


def best_momentum(table: pd.DataFrame, method: str) -> float:
    """The momentum with the smallest mean error of a method, NaN if there is none."""
    own = table[table["method"] == method]
    if own.empty:
        return math.nan
    metric = ERROR if ERROR in own else TEST_ERRORS
    return float(own.groupby("momentum")[metric].mean().idxmin())


def against_sgd(table: pd.DataFrame) -> tuple[float, Interval]:
    """The best momentum of Nesterov's method, and its error over that of SGD."""
    best = best_momentum(table, NESTEROV)
    return best, ratio(cell(table, method=NESTEROV, momentum=best), cell(table, method=SGD))


def final_phase(own: pd.DataFrame, method: str, momentum: float) -> "pd.Series[float]":
    """The error after the final phase over that before it, by seed."""
    here = own[(own["method"] == method) & (own["momentum"] == momentum)].set_index("seed")
    found: pd.Series[float] = here[ERROR].astype(float) / here[BEFORE].astype(float)
    return found


def of_scales(pictures: pd.DataFrame) -> Iterator[tuple[tuple[str, float], dict[float, Interval]]]:
    """For every network and momentum the error at each other scale of the initialization over that at scale 1."""
    scaled = pictures[pictures["init_scale"] != 1] if len(pictures) else pictures
    for (model, momentum), own in scaled.groupby(["model", "momentum"], sort=False) if len(scaled) else ():
        same = pictures[
            (pictures["model"] == model) & (pictures["momentum"] == momentum) & (pictures["method"] == NESTEROV)
        ]
        one = cell(same, init_scale=1.0)
        ratios = {scale: ratio(cell(own, init_scale=scale), one) for scale in sorted(own["init_scale"].unique())}
        yield (str(model), float(momentum)), ratios


def lead_over_heavy_ball(
    sequences: pd.DataFrame, blind: "pd.Series[float]"
) -> tuple[float, pd.DataFrame, Interval] | None:
    """The largest momentum of the heavy ball, Nesterov's minus its share of the blind errors by task and seed, and the mean.

    Tasks with a run that diverged have no part. None if there is no task.
    """
    heavy = sequences[sequences["method"] == HEAVY_BALL] if len(sequences) else sequences
    if heavy.empty:
        return None
    momentum, shares = float(heavy["momentum"].max()), {}
    for task, own in sequences.groupby("task", sort=False):
        pair = [cell(own, method=method, momentum=momentum) / blind[task] for method in (NESTEROV, HEAVY_BALL)]
        shares[task] = pair[0] - pair[1]
    table = pd.DataFrame(shares).replace([math.inf, -math.inf], math.nan).dropna(axis=1, how="any")
    return None if table.empty else (momentum, table, student(table.mean(axis=1).to_numpy(float)))


def summary(table: pd.DataFrame, by: list[str], results: list[str]) -> pd.DataFrame:
    """Means over seeds with Student's intervals, the chosen rates, and how many seeds are at an end of the grid."""
    rows = []
    for key, own in table.groupby(by, sort=True):
        row: dict[str, object] = dict(zip(by, key, strict=True))
        for name in results:
            values = own[name].to_numpy(float)
            found = student(values[np.isfinite(values)])
            row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
        row["seeds"] = int(np.isfinite(own[results[0]].to_numpy(float)).sum())
        row["chosen"] = ", ".join(f"{rate:g}" for rate in sorted(set(own["chosen"].dropna())))
        row["at_edge"] = int((own["edges"] != "").sum())
        rows.append(row)
    return pd.DataFrame(rows)
