"""The comparisons of the second-order methods with their baselines: ratios and differences of the reported runs, paired by seed.

A table has a row for each: what is compared ("steps to the target", ...), method, against and batch; value with its 95 % Student
interval, a geometric mean for ratios; and seeds. A pair of runs of which one missed the target leaves the value unknown.
"""

import itertools
import math

import numpy as np
import pandas as pd
from second_order_choices import Part, reported

from optbench.analysis.statistics.intervals import Interval, student

STEPS, TREND, SECONDS = "steps to the target", "trend of the steps", "seconds to the target"
LOSS, ACCURACY = "train loss at the end", "test accuracy"
UNKNOWN = Interval(math.nan, math.nan, math.nan)
COLUMNS = ("what", "method", "against", "batch", "value", "low", "high", "seeds")


def comparisons(part: Part, ranked: pd.DataFrame, evaluations: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of a part; means: its curves, with processor_seconds if they were measured."""
    again = reported(ranked)
    made = {"autoencoder": _autoencoder, "convnet": _convnet, "entropy": _entropy}[part.name]
    return pd.DataFrame(made(again, evaluations, means), columns=list(COLUMNS))


def _row(what: str, method: str, against: str, batch: float, found: Interval, seeds: int) -> dict[str, object]:
    named = {"what": what, "method": method, "against": against, "batch": batch}
    return named | {"value": found.estimate, "low": found.low, "high": found.high, "seeds": seeds}


def _logs(first: "pd.Series[float]", second: "pd.Series[float]") -> "pd.Series[float]":
    """The logarithm of the ratio of two values by seed, for the seeds that both have; infinite or NaN where one is."""
    both = pd.concat([first, second], axis=1, keys=["first", "second"]).dropna()
    with np.errstate(invalid="ignore"):
        logs: pd.Series[float] = np.log(both["first"]) - np.log(both["second"])
    return logs


def _mean(values: "pd.Series[float]") -> Interval:
    known = len(values) and np.isfinite(values).all()
    return student(values.to_numpy(float)) if known else UNKNOWN


def _convnet(again: pd.DataFrame, evaluations: pd.DataFrame, means: pd.DataFrame) -> list[dict[str, object]]:
    """The steps of momentum SGD over those of K-FAC and of EKFAC, those of K-FAC over EKFAC's, and the trends with the batch."""
    times = {key: own.groupby("seed")["score"].mean() for key, own in again.groupby(["optimizer", "batch"])}
    rows = []
    for method, against in (("momentum", "kfac"), ("momentum", "ekfac"), ("kfac", "ekfac")):
        sizes = sorted(batch for name, batch in times if name == method and (against, batch) in times)
        logs = {batch: _logs(times[method, batch], times[against, batch]) for batch in sizes}
        rows += [_row(STEPS, method, against, batch, _mean(log).exp(), len(log)) for batch, log in logs.items()]
        if len(sizes) > 1:
            seeds = pd.DataFrame(logs).dropna()
            slopes = pd.Series(
                [np.polyfit(np.log(sizes), row, 1)[0] for row in seeds.to_numpy() if np.isfinite(row).all()]
            )
            trend = _mean(slopes) if len(slopes) == len(seeds) else UNKNOWN
            rows.append(_row(TREND, method, against, math.nan, trend, len(seeds)))
    return rows


def _autoencoder(again: pd.DataFrame, evaluations: pd.DataFrame, means: pd.DataFrame) -> list[dict[str, object]]:
    """The steps of Nesterov momentum, and its seconds, to the train loss at which K-FAC ends, over K-FAC's; and both ends."""
    kfac, nesterov = (again[again["optimizer"] == name].set_index("seed") for name in ("kfac_natural", "nesterov"))
    logs: dict[int, float] = {}
    for seed in [seed for seed in nesterov.index if seed in kfac.index]:
        curve, end = evaluations[evaluations["run_id"] == nesterov.loc[seed, "run_id"]], kfac.loc[seed]
        logs[seed] = math.log(steps_to_loss(curve, float(end["train_loss"])) / end["steps"])
    steps = pd.Series(logs, dtype=float)
    rows = [_row(STEPS, "nesterov", "kfac_natural", math.nan, _mean(steps).exp(), len(steps))]
    if "processor_seconds" in means:
        costs = [_seconds_a_step(means, name) for name in ("Nesterov", "K-FAC, natural")]
        seconds = steps + math.log(costs[0] / costs[1])
        rows.append(_row(SECONDS, "nesterov", "kfac_natural", math.nan, _mean(seconds).exp(), len(steps)))
    ends = (kfac["train_loss"] - nesterov["train_loss"]).dropna()
    return [*rows, _row(LOSS, "kfac_natural", "nesterov", math.nan, _mean(ends), len(ends))]


def steps_to_loss(curve: pd.DataFrame, loss: float) -> float:
    """The step at which the train loss comes down to ``loss``, on lines between evaluations; infinity if it never does."""
    steps, losses = curve["step"].to_numpy(float), curve["train_loss"].to_numpy(float)
    reached = np.flatnonzero(losses <= loss)
    if not len(reached):
        return math.inf
    after = int(reached[0])
    if not after:
        return float(steps[0])
    share = (losses[after - 1] - loss) / (losses[after - 1] - losses[after])
    return float(steps[after - 1] + share * (steps[after] - steps[after - 1]))


def _seconds_a_step(means: pd.DataFrame, method: str) -> float:
    own = means[(means["method"] == method) & (means["step"] > 0)]
    return float((own["processor_seconds"] / own["step"]).mean()) if len(own) else math.nan


def _entropy(again: pd.DataFrame, evaluations: pd.DataFrame, means: pd.DataFrame) -> list[dict[str, object]]:
    """The test accuracy of Entropy-SGD, by its inner steps, minus that of the better of the two baselines."""
    accuracies = {name: own.groupby("seed")["test_accuracy"].mean() for name, own in again.groupby("method")}
    baselines = [name for name in ("SGD", "Nesterov") if name in accuracies]
    if not baselines:
        return []
    best = max(baselines, key=lambda name: float(accuracies[name].mean()))
    rows = []
    for name in [name for name in accuracies if name.startswith("Entropy-SGD")]:
        differences = (accuracies[name] - accuracies[best]).dropna()
        rows.append(_row(ACCURACY, name, best, math.nan, _mean(differences), len(differences)))
    return rows


def sentences(table: pd.DataFrame) -> list[str]:
    """The table in words, a sentence for each quantity."""
    said = []
    for what, rows in itertools.groupby(table.to_dict("records"), key=lambda row: str(row["what"])):
        each = []
        for row in rows:
            where = "" if math.isnan(row["batch"]) else f" at batch {row['batch']:g}"
            ratio = what in (STEPS, SECONDS)
            names = f"{row['method']} {'over' if ratio or what == TREND else 'minus'} {row['against']}{where}"
            value = Interval(row["value"], row["low"], row["high"])
            each.append(f"{names} {value:.3g}" if math.isfinite(row["value"]) else f"{names} not known")
        said.append(f"{what[0].upper()}{what[1:]}, paired by seed, with 95 % Student intervals: {'; '.join(each)}.")
    return said
