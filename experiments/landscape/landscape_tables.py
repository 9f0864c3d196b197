"""The tables of the study: its settings, large over small batch, the part that depth has in it, and rank correlations."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from landscape_minima import (
    COMPARED,
    DECAY,
    EPOCHS,
    LINE,
    MATCHED,
    MEASURES,
    OUTCOMES,
    RATE,
    Minima,
    at_target,
    protocol_of,
)

from optbench.analysis.laws.minima import ratios
from optbench.analysis.statistics.inclusion import holm
from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.rank_correlation import rank_correlation
from optbench.analysis.statistics.shares import clopper_pearson

SETTING = ["weight_decay", "learning_rate", "batch"]
#: Minima count as equally deep if the ratio of their train losses is known to lie within this factor of 1.
DEEP = 1.1
#: Scopes of correlations: the columns within whose groups ranks are taken.
SCOPES: dict[str, Sequence[str]] = {"all minima": (), "within batches": ("batch",)}
#: Permutations of a correlation; its interval takes a tenth as many resamples.
REPETITIONS = 20_000
_CONDITION = "condition"


def settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Each setting of each protocol: its runs that have ended, those that reached the target (share, low, high), and means.

    runs: of the study. The means are over the runs that are done and, at equal train loss, reached the target.
    """
    over = runs[runs["state"].isin(["done", "diverged"])]
    rows = []
    for key, here in over.assign(protocol=protocol_of(over)).groupby(["protocol", DECAY, RATE, "batch"]):
        reached = here[(here["state"] == "done") & at_target(here)]
        share = clopper_pearson(len(reached), len(here))
        row = dict(zip(["protocol", *SETTING], key, strict=True))
        row |= {"runs": len(here), "diverged": int((here["state"] == "diverged").sum()), "reached": len(reached)}
        row |= {"share": share.estimate, "low": share.low, "high": share.high}
        part = here[here["state"] == "done"] if row["protocol"] == EPOCHS else reached
        means = part[["steps", "train_loss", "test_loss", "test_accuracy"]].astype(float).mean()
        rows.append(row | means.to_dict())
    return pd.DataFrame(rows)


def differences(minima: Minima) -> pd.DataFrame:
    """`optbench.analysis.laws.minima.ratios`, large over small batch, for both protocols at each weight decay and rate."""
    table = minima.table[minima.table["reached"]]
    place = ["protocol", "weight_decay", "learning_rate"]
    key = table[place].apply(tuple, axis=1)
    found = ratios(table.assign(**{_CONDITION: key}), _CONDITION, COMPARED)
    if found.empty:
        return found
    places = pd.DataFrame(found.pop(_CONDITION).tolist(), columns=place, index=found.index)
    return pd.concat([places, found], axis=1)


def of_condition(table: pd.DataFrame, measure: str, protocol: str, decay: float, rate: float) -> pd.Series | None:
    """The row of `differences` for a measure at one condition; None if there is none."""
    if table.empty:
        return None
    rows = table[(table["measure"] == measure) & (table["protocol"] == protocol)]
    rows = rows[(rows["weight_decay"] == decay) & (rows["learning_rate"] == rate)]
    return rows.iloc[0] if len(rows) else None


def equally_deep(table: pd.DataFrame, decay: float, rate: float) -> bool:
    """True if the train losses of both batches are known to differ by less than the factor `DEEP` where they were to be equal."""
    row = of_condition(table, "train_loss", MATCHED, decay, rate)
    return row is not None and bool(row["low"] >= 1 / DEEP and row["high"] <= DEEP)


def depth(minima: Minima) -> pd.DataFrame:
    """The part of the factor of equal epochs, large over small batch, that is gone at equal train loss, by measure and decay.

    At the common learning rate, over the seeds that have all four minima. at_epochs, at_loss: the geometric means of the factors.
    removed, low, high: their ratio, with Student's interval, paired by seed. share, share_low, share_high: 1 - log(at_loss) /
    log(at_epochs), with `fieller`'s interval; NaN if Student's interval of the factor at equal epochs holds 1.
    """
    rows = []
    table = minima.table[minima.table["reached"] & (minima.table["learning_rate"] == minima.rate)]
    small, large = minima.batches
    for decay, here in table.groupby("weight_decay"):
        for name in [*MEASURES, LINE]:
            wide = here.pivot_table(index="seed", columns=["protocol", "batch"], values=name)
            if small == large or not {(p, b) for p in (EPOCHS, MATCHED) for b in (small, large)} <= set(wide):
                continue
            wide = wide[(wide > 0).all(axis=1)]
            logs = np.log(
                np.stack([(wide[p, large] / wide[p, small]).to_numpy(float) for p in (EPOCHS, MATCHED)], axis=1)
            )
            if len(logs):
                rows.append({"measure": name, "meaning": COMPARED[name], "weight_decay": decay} | _depth(logs))
    return pd.DataFrame(rows)


def _depth(logs: np.ndarray) -> dict[str, float]:
    """From the logarithms (seeds, 2) of the factors at equal epochs and at equal train loss."""
    at_epochs, at_loss = np.exp(logs.mean(axis=0))
    removed = student(logs[:, 0] - logs[:, 1])
    row = {"at_epochs": at_epochs, "at_loss": at_loss, "removed": math.exp(removed.estimate)}
    row |= {"low": math.exp(removed.low), "high": math.exp(removed.high)}
    low, high = fieller(logs[:, 1], logs[:, 0])
    share = math.nan if math.isnan(low) else 1 - float(logs[:, 1].mean() / logs[:, 0].mean())
    return row | {"share": share, "share_low": 1 - high, "share_high": 1 - low, "seeds": len(logs)}


def fieller(above: np.ndarray, below: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval of the ratio of two means, of pairs: the r at which a t-test accepts that above - r below has mean 0.

    NaN if it is not bounded, because the mean of ``below`` may be 0. Source: Fieller 1954.
    """
    n = len(above)
    if n < 2:
        return math.nan, math.nan
    from scipy.special import stdtrit

    means = np.array([above.mean(), below.mean()])
    a, b, c = (np.outer(means, means) - stdtrit(n - 1, (1 + level) / 2) ** 2 * np.cov(above, below) / n)[
        [1, 0, 0], [1, 1, 0]
    ]
    if a <= 0:
        return math.nan, math.nan
    width = math.sqrt(max(b**2 - a * c, 0.0))
    return float((b - width) / a), float((b + width) / a)


def correlations(minima: Minima) -> pd.DataFrame:
    """Spearman's correlations of every measure with test loss and test error over the minima of equal train loss.

    Settings (weight decay, learning rate, batch) are the units. A setting of which a run that ended did not reach the target has
    no part. Columns measure, meaning, outcome, scope (`SCOPES`), rho, low, high, p, settings, minima; p_holm is over all
    measures and both outcomes of a scope.
    """
    own = minima.table[minima.table["protocol"] == MATCHED]
    if own.empty:
        return pd.DataFrame()
    whole = own[own.groupby(SETTING)["reached"].transform("all").astype(bool)]
    rows = []
    for scope, partial in SCOPES.items():
        for outcome in OUTCOMES:
            for name, meaning in MEASURES.items():
                found = rank_correlation(whole, name, outcome, SETTING, partial=partial, repetitions=REPETITIONS)
                row = {"measure": name, "meaning": meaning, "outcome": outcome, "scope": scope, "rho": found.rho}
                row |= {"low": found.low, "high": found.high, "p": found.p, "p_holm": math.nan}
                rows.append(row | {"settings": found.units, "minima": found.runs})
    table = pd.DataFrame(rows)
    for _, here in table.groupby("scope"):
        table.loc[here.index, "p_holm"] = holm(here["p"].to_numpy(float))
    return table
