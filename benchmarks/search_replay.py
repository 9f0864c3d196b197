"""Replay searches on a trained grid: which share of its cost finds its answer?

    python benchmarks/search_replay.py TABLE.parquet --over learning_rate --goal validation_loss --conditions optimizer,batch
        --law batch [--share 15%] [--shares 10,15] [--replays 200] [--seed 0] [--cost steps|runs]
        [--methods adaptive,naive,...] [--output PAGE.md]

TABLE is the runs.parquet of a study. Runs that differ in the columns of --conditions other than the law, in the problem, or in
another option that would give two runs to one cell, are grids of their own. Each grid is searched by itself, to the share of its
own cost: the optimizer steps that its runs took, or their number. "Inside": the estimate lies in the 95 % bootstrap interval of
the full grid; without a law, that of the optimum. The last line of the output is one JSON object about the first method at
--share.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from replay_methods import METHODS, Found
from scipy import stats

from optbench.analysis.laws.learning_rates import exponent_over_seeds
from optbench.analysis.laws.optima import optimum
from optbench.errors import UserError
from optbench.sweep.search.adaptive.lattice import LEAST_ERROR
from optbench.sweep.search.replay import Table

REPETITIONS = 500  # as in the study scaling_rules


@dataclass(frozen=True)
class Whole:
    """A trained grid, and its own answer. lows, highs: of the optimum of each condition in octaves."""

    name: str
    table: Table
    has_law: bool

    @cached_property
    def sweep(self) -> dict[float, dict[float, np.ndarray]]:
        """The losses by condition and rate, as the analysis reads them."""
        return {
            float(condition): {
                float(rate): runs[~np.isnan(runs)]
                for rate, runs in zip(self.table.rates, row, strict=True)
                if not np.isnan(runs).all()
            }
            for condition, row in zip(self.table.conditions, self.table.losses, strict=True)
        }

    @cached_property
    def interval(self) -> tuple[float, float, float]:
        """The estimate of the whole grid and its bootstrap interval: of the exponent, or of the logarithm of one optimum."""
        if self.has_law:
            found = exponent_over_seeds(self.sweep, repetitions=REPETITIONS).exponent
            return found.estimate, found.low, found.high
        ((_, grid),) = self.sweep.items()
        rates, generator = np.array(list(grid)), np.random.default_rng(0)
        best = optimum(rates, np.array([runs.mean() for runs in grid.values()])).learning_rate
        again = [
            optimum(rates, np.array([generator.choice(runs, len(runs)).mean() for runs in grid.values()])).learning_rate
            for _ in range(REPETITIONS)
        ]
        low, high = np.nanquantile(np.log2(again), [0.025, 0.975])
        return math.log2(best), float(low), float(high)

    @cached_property
    def residual(self) -> float:
        """The half-width of the t interval of the regression of the optima; NaN with fewer than three."""
        if not self.has_law:
            return math.nan
        found = [
            optimum(np.array(list(grid)), np.array([runs.mean() for runs in grid.values()]))
            for grid in self.sweep.values()
        ]
        y = np.array([each.learning_rate if each.border in ("", "unstable") else math.nan for each in found])
        kept = np.isfinite(y)
        if kept.sum() < 3:
            return math.nan
        line = stats.linregress(np.log(self.table.conditions[kept]), np.log(y[kept]))
        return float(stats.t.ppf(0.975, kept.sum() - 2) * line.stderr)

    @cached_property
    def means(self) -> np.ndarray:
        """The mean loss (B, U); infinity if a seed diverged, or if there is no run."""
        counts = (~np.isnan(self.table.losses)).sum(2)
        sums = np.nansum(self.table.losses, 2)
        return np.where(counts > 0, sums / np.maximum(counts, 1), math.inf)

    def judge(self, found: Found, table: Table) -> dict[str, float]:
        """One replay on ``table``, the grid with its seeds in another order, against the grid."""
        estimate, low, high = self.interval
        own = found.exponent if self.has_law else tuple(map(math.log2, found.optima[0]))
        width = max(high - low, 2 * self.residual if math.isfinite(self.residual) else 0.0)
        losses = self.table.losses
        regrets, worse = [], 0
        for b, rate in enumerate(found.chosen):
            best = int(np.argmin(self.means[b]))
            if not np.isfinite(self.means[b, best]):
                continue
            u = int(np.argmin(np.abs(np.log(self.table.rates / rate)))) if rate > 0 else 0
            runs = losses[b, u][~np.isnan(losses[b, u])]
            worse += bool(np.isinf(runs).mean() > np.isinf(losses[b, best]).mean()) if len(runs) else 0
            # A diverged run learned nothing.
            loss = np.minimum(runs, self.table.first if math.isfinite(self.table.first) else 10 * self.means[b, best])
            regrets.append(float(loss.mean()) - self.means[b, best] if len(runs) else math.nan)
        cells = [table.cell(each.pick) for each in found.seen]
        known = ~np.isnan(losses)
        return {
            "estimate": own[0],
            "inside": float(low - 1e-9 <= own[0] <= high + 1e-9) if high > low else math.nan,
            "covers": float(own[1] - 1e-9 <= estimate <= own[2] + 1e-9) if math.isfinite(own[1]) else math.nan,
            "width": (own[2] - own[1]) / width if width > 0 else math.nan,
            "regret": float(np.nanmean(regrets)) if regrets else math.nan,
            "worst": float(np.nanmax(regrets)) if regrets else math.nan,
            "diverges": float(worse),
            "cost": float(sum(table.taken[cell] for cell in cells) / self.table.taken[known].sum()),
            "runs": len(cells) / int(known.sum()),
        }


# ---- reading ------------------------------------------------------------------------------------------------------------


def read(path: Path, over: str, goal: str, conditions: Sequence[str], law: str | None) -> list[Whole]:
    """The grids in a table of runs."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; accepted: the runs.parquet of a study")
    runs = pd.read_parquet(path)
    if over == "learning_rate" and "base_learning_rate" in runs:
        over = "base_learning_rate"  # what was searched; a scaling rule may have changed it
    for option, column in (
        ("over", over),
        ("goal", goal),
        *(("conditions", name) for name in conditions),
        ("law", law),
    ):
        if column is not None and column not in runs:
            raise UserError(
                f"--{option} {column}: no such column; accepted: {', '.join(map(str, runs.columns[:60]))}, ..."
            )
    if law is not None and law not in conditions:
        raise UserError(f"--law {law}: accepted: one of --conditions {','.join(conditions)}")
    kinds = {"over": over, **({"law": law} if law is not None else {})}
    for option, column in kinds.items():
        runs[column] = pd.to_numeric(runs[column], errors="coerce")
        if not (runs[column].dropna() > 0).all() or runs[column].isna().all():
            raise UserError(f"--{option} {column}: accepted: positive numbers")
    runs = runs.dropna(subset=list(kinds.values())).copy()
    runs["seed"] = runs.get("seed", 0)
    runs["_loss"] = _losses(runs, goal)
    runs = runs[runs["_loss"].notna()]
    groups = [name for name in conditions if name != law]
    groups += [name for name in ("problem", "dataset", "model") if name in runs and name not in conditions]
    groups = [name for name in groups if name in conditions or runs[name].nunique(dropna=False) > 1]
    cell = [over, *([law] if law is not None else []), "seed"]
    groups += _separating(runs, [*groups, *cell])
    found = []
    for key, own in runs.groupby(groups, dropna=False, sort=True) if groups else [((), runs)]:
        name = " ".join(map(str, key if isinstance(key, tuple) else (key,))) or "all"
        whole = _whole(name, own, over, law)
        if whole is None:
            print(f"{name}: left out: fewer than three rates, or no optimum inside of them", file=sys.stderr)
        else:
            found.append(whole)
    if not found:
        raise UserError(f"{path}: no grid with three values of {over} and an answer of its own")
    return found


def _losses(runs: pd.DataFrame, goal: str) -> pd.Series:
    values = pd.to_numeric(runs[goal], errors="coerce").astype(float)
    if goal.endswith("accuracy"):
        values = (1 - values).clip(lower=LEAST_ERROR)
    diverged = pd.Series(False, index=runs.index)
    if "status" in runs:
        diverged |= runs["status"].astype(str) == "diverged"
        values = values.where(diverged | (runs["status"].astype(str) == "done"))
    if "diverged_step" in runs:
        diverged |= runs["diverged_step"].notna()
    if "diverged" in runs:
        diverged |= runs["diverged"].fillna(False).astype(bool)
    if "status" not in runs and "diverged_step" not in runs and "diverged" not in runs:
        diverged |= values.isna()
    return values.where(values > 0).mask(diverged, math.inf)


def _separating(runs: pd.DataFrame, cell: Sequence[str]) -> list[str]:
    """Columns of options that tell runs of one cell apart, the one that separates most first."""
    added: list[str] = []
    while True:
        rows = runs[runs.duplicated([*cell, *added], keep=False)]
        if rows.empty:
            return added
        options = [
            name
            for name in map(str, runs.columns)
            if name.startswith(("config.", "cell.")) and not name.startswith(("config.optimizer.", "cell.optimizer."))
        ]
        left = {}
        for name in options:
            try:
                left[name] = int(rows.duplicated([*cell, *added, name]).sum())
            except TypeError:  # a list
                continue
        best = min(left, key=lambda name: (left[name], name), default=None)
        if best is None or left[best] >= int(rows.duplicated([*cell, *added]).sum()):
            shared = ", ".join([*cell, *added])
            raise UserError(
                f"--conditions: {len(rows)} runs share a cell of {shared}; accepted: columns that tell them apart"
            )
        added.append(best)


def _whole(name: str, runs: pd.DataFrame, over: str, law: str | None) -> Whole | None:
    rates = np.array(sorted(runs[over].unique()), dtype=float)
    conditions = np.array(sorted(runs[law].unique()) if law is not None else [1.0], dtype=float)
    seeds = sorted(runs["seed"].unique())
    if len(rates) < 3:
        return None
    b = np.searchsorted(conditions, runs[law].to_numpy(float)) if law is not None else np.zeros(len(runs), dtype=int)
    u = np.searchsorted(rates, runs[over].to_numpy(float))
    s = np.searchsorted(np.array(seeds), runs["seed"].to_numpy())
    losses, taken = (np.full((len(conditions), len(rates), len(seeds)), math.nan) for _ in range(2))
    losses[b, u, s] = runs["_loss"]
    steps = pd.to_numeric(runs["steps"], errors="coerce") if "steps" in runs else pd.Series(1.0, index=runs.index)
    taken[b, u, s] = steps.fillna(1.0).clip(lower=1.0)
    planned = np.array([_planned(taken[each], losses[each]) for each in range(len(conditions))])
    classes = pd.to_numeric(runs["classes"], errors="coerce").dropna() if "classes" in runs else pd.Series(dtype=float)
    first = math.log(classes.iloc[0]) if len(classes) and classes.iloc[0] > 1 else math.nan
    whole = Whole(name, Table(conditions, rates, losses, taken, planned, first), len(conditions) > 1)
    return whole if math.isfinite(whole.interval[0]) else None


def _planned(taken: np.ndarray, losses: np.ndarray) -> float:
    finished = taken[np.isfinite(losses)]
    return float(finished.max() if len(finished) else np.nanmax(np.append(taken, 1.0)))


def check(path: Path, wholes: Sequence[Whole], law: str | None) -> str:
    """Compare the exponents with those that the study published beside its runs; raises if they differ."""
    published = path.with_name("exponents.csv")
    if law is None or not published.is_file():
        return "no exponents are published beside the table"
    rows = pd.read_csv(published)
    if not {"optimizer", "rate", "exponent", "exponent_low", "exponent_high"} <= set(rows.columns):
        return "no exponents of an optimal rate are published beside the table"
    rows = rows[rows["rate"] == "optimal"].set_index("optimizer")
    compared = 0
    for whole in wholes:
        name = whole.name.split(" ")[0]
        if name in rows.index:
            expected = [float(str(rows.loc[name, key])) for key in ("exponent", "exponent_low", "exponent_high")]
            if not np.allclose(whole.interval, expected, atol=1e-9):
                raise UserError(f"{name}: exponent {whole.interval}, published {expected}")
            compared += 1
    return f"{compared} exponents and their intervals are those of {published.name}"


# ---- replaying ----------------------------------------------------------------------------------------------------------


def replays(whole: Whole, method: str, share: float, cost: str, count: int, seed: int) -> pd.DataFrame:
    """One row for each replay."""
    known = ~np.isnan(whole.table.losses)
    if cost == "runs":
        budget: Any = max(math.floor(share * known.sum() + 1e-9), 1)
    else:
        budget = share * whole.table.taken[known].sum()
    search: Callable[..., Found] = METHODS[method]
    rows = []
    for number in range(count):
        table = whole.table.permuted(seed + number)
        found = search(table, budget, cost, seed + number)
        rows.append(whole.judge(found, table))
    return pd.DataFrame(rows)


def summary(frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """The object of the last line."""

    def mean(column: str) -> float | None:
        values = np.concatenate([frame[column].to_numpy(float) for frame in frames.values()])
        return round(float(np.nanmean(values)), 4) if np.isfinite(values).any() else None

    inside = {
        name: round(float(frame["inside"].mean()), 4) if frame["inside"].notna().any() else None
        for name, frame in frames.items()
    }
    return {
        "cost_share": mean("cost"),
        "runs_share": mean("runs"),
        "inside": inside,
        "coverage": mean("covers"),
        "width_ratio": mean("width"),
        "regret": mean("regret"),
    }


def lines(method: str, share: float, frames: Mapping[str, pd.DataFrame], wholes: Sequence[Whole]) -> list[str]:
    """The rows of a method in the table of a share."""
    rows = []
    for whole in wholes:
        frame = frames[whole.name]
        numbers = frame.mean(numeric_only=True)
        shares = " | ".join(f"{numbers[key]:.1%}" for key in ("cost", "runs", "inside", "covers"))
        error = f"{numbers['estimate'] - whole.interval[0]:+.3f} ± {frame['estimate'].std(ddof=0):.3f}"
        regrets = f"{numbers['regret']:.4f} | {numbers['worst']:.4f} | {frame['diverges'].sum():.0f}"
        rows.append(
            f"| {method} | {share:.0%} | {whole.name} | {shares} | {numbers['width']:.2f} | {error} | {regrets} |"
        )
    return rows


HEADER = [
    "| method | share | grid | cost | runs | inside | covers | width | error | regret | worst batch | diverges |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]


def main(words: Sequence[str] | None = None) -> int:
    """Replay, print the table, and end with the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--over", default="learning_rate")
    parser.add_argument("--goal", default="validation_loss")
    parser.add_argument("--conditions", default="optimizer,batch")
    parser.add_argument("--law")
    parser.add_argument("--share", default="15%")
    parser.add_argument("--shares", help="further shares for the table, in percent: 5,8,10")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", choices=["steps", "runs"], default="steps")
    parser.add_argument("--methods", default="adaptive")
    parser.add_argument("--output", type=Path, help="add the table to this page")
    given = parser.parse_args(words)
    try:
        main_share = _percent(given.share)
        shares = list(
            dict.fromkeys([*(_percent(each) for each in (given.shares or "").split(",") if each), main_share])
        )
        methods = given.methods.split(",")
        for method in methods:
            if method not in METHODS:
                raise UserError(f"--methods {method}: accepted: {', '.join(METHODS)}")
        if given.replays < 1:
            raise UserError(f"--replays {given.replays}: accepted: 1 or more")
        conditions = [name for name in given.conditions.split(",") if name]
        wholes = read(given.table, given.over, given.goal, conditions, given.law)
        checked = check(given.table, wholes, given.law)
    except UserError as error:
        print(f"search_replay: {error}", file=sys.stderr)
        return 2
    rows = [f"{checked}; cost in {given.cost}; {given.replays} replays", "", *HEADER]
    print("\n".join(rows))
    last: dict[str, Any] = {}
    for method in methods:
        for share in shares:
            began = time.perf_counter()
            frames = {
                whole.name: replays(whole, method, share, given.cost, given.replays, given.seed) for whole in wholes
            }
            made = lines(method, share, frames, wholes)
            print("\n".join(made), flush=True)
            print(f"{method} at {share:.0%}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
            rows += made
            if method == methods[0] and share == main_share:
                last = summary(frames)
    if given.output:
        with given.output.open("a", encoding="utf-8") as page:
            page.write("\n".join([*rows, "", ""]))
    print(json.dumps(last))
    return 0


def _percent(text: str) -> float:
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise UserError(f"--share {text}: accepted: a percentage such as 15%")
    return share


if __name__ == "__main__":
    sys.exit(main())
