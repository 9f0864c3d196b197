"""The searches that search_replay.py compares; all see only the losses of the cells that they pay for."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from optbench.analysis.laws.optima import BORDERS, optima
from optbench.analysis.laws.scaling_laws import exponents
from optbench.sweep.search.adaptive.method import Adaptive
from optbench.sweep.search.method import Options, Pick, Seen
from optbench.sweep.search.replay import Table, replay

Cell = tuple[int, int, int]


@dataclass(frozen=True)
class Found:
    """The answer of a search. optima: (estimate, low, high) of each condition; chosen: the rate of the lattice."""

    seen: Sequence[Seen]
    exponent: tuple[float, float, float]
    optima: Sequence[tuple[float, float, float]]
    chosen: Sequence[float]


def _options(table: Table, budget: float, cost: str, seed: int, picks: str) -> Options:
    amount: Any = int(budget) if cost == "runs" else f"{float(100 * budget / table.total_steps)!r}%"
    values = {"over": None, "law": None, "budget": amount, "cost": "auto", "width": None, "factor": None}
    return Options({**values, "minimum": 0.05, "quality": None, "confirm": 0, "picks": picks}, seed)


def _product(picks: str) -> Callable[[Table, float, str, int], Found]:
    def search(table: Table, budget: float, cost: str, seed: int) -> Found:
        options, method = _options(table, budget, cost, seed, picks), Adaptive()
        seen, _ = replay(method, table, options)
        return _answer(method, table, seen, options)

    return search


def _answer(method: Adaptive, table: Table, seen: Sequence[Seen], options: Options) -> Found:
    rows = method.answer(table, seen, options).rows
    if not rows:
        unknown = (math.nan, math.nan, math.nan)
        return Found(seen, unknown, [unknown] * len(table.conditions), [table.rates[0]] * len(table.conditions))
    exponent = (rows[0]["exponent"], rows[0]["exponent_low"], rows[0]["exponent_high"])
    return Found(
        seen, exponent, [(row["optimum"], row["low"], row["high"]) for row in rows], [row["chosen"] for row in rows]
    )


# ---- cells in an order of their own, and the answer of the surrogate ------------------------------------------------------


def _ordered(order: Callable[[Table, int], Iterator[Cell]]) -> Callable[[Table, float, str, int], Found]:
    def search(table: Table, budget: float, cost: str, seed: int) -> Found:
        payer = Payer(table, budget, cost)
        for cell in order(table, seed):
            if not math.isnan(table.losses[cell]) and cell not in payer.cells:
                payer.pay(cell)
        return _answer(Adaptive(), table, payer.seen(), _options(table, budget, cost, seed, "bracket"))

    return search


def _random(table: Table, seed: int) -> Iterator[Cell]:
    cells = list(np.ndindex(table.losses.shape))
    for place in np.random.default_rng([seed, 4]).permutation(len(cells)):
        yield cells[place]


def _sobol(table: Table, seed: int) -> Iterator[Cell]:
    shape = np.array(table.losses.shape)
    for point in qmc.Sobol(3, seed=np.random.default_rng([seed, 5])).random(
        2 ** math.ceil(math.log2(4 * shape.prod()))
    ):
        b, u, s = (int(index) for index in np.minimum(point * shape, shape - 1))
        yield b, u, s


class Payer:
    """Trains cells while the budget can pay them."""

    def __init__(self, table: Table, budget: float, cost: str) -> None:
        self.table, self.left, self._in_steps = table, budget, cost == "steps"
        self.cells: list[Cell] = []

    def pay(self, cell: Cell) -> bool:
        """Train a cell; False if there is no money left for it. It is known beforehand only what a whole run costs."""
        if (self.table.planned[cell[0]] if self._in_steps else 1.0) > self.left:
            return False
        self.left -= float(self.table.taken[cell]) if self._in_steps else 1.0
        self.cells.append(cell)
        return True

    def seen(self) -> list[Seen]:
        """The results."""
        conditions, rates, seeds = self.table.grids[0].axes.values()
        found = []
        for b, u, s in self.cells:
            pick = Pick(dict(zip(self.table.grids[0].axes, (conditions[b], rates[u], seeds[s]), strict=True)))
            first = self.table.first if math.isfinite(self.table.first) else None
            found.append(self.table.trained(Seen(pick, 0, "waiting", planned=self.table.steps(pick), first=first)))
        return found

    def means(self) -> np.ndarray:
        """The mean loss (B, U) over the trained seeds; NaN if there is none."""
        losses = np.full(self.table.losses.shape, math.nan)
        for cell in self.cells:
            losses[cell] = self.table.losses[cell]
        counts = (~np.isnan(losses)).sum(2)
        return np.where(counts > 0, np.nansum(losses, 2) / np.maximum(counts, 1), math.nan)

    def found(self) -> Found:
        """The answer of the analysis to the trained cells alone, without an interval."""
        means, rates, table = self.means(), [], self.table
        chosen = []
        for row in means:
            kept = ~np.isnan(row)
            if not kept.any():
                rates.append(math.nan)
                chosen.append(float(table.rates[0]))
                continue
            rate, _, border = optima(table.rates[kept], row[kept])
            rates.append(math.nan if BORDERS[int(border)] in ("lowest", "highest") else float(rate))
            chosen.append(float(table.rates[kept][int(np.argmin(row[kept]))]))
        law = float(exponents(table.conditions, np.array(rates)))
        unknown = (math.nan, math.nan)
        return Found(self.seen(), (law, *unknown), [(rate, *unknown) for rate in rates], chosen)


# ---- brackets without a surrogate -------------------------------------------------------------------------------------------


def naive(table: Table, budget: float, cost: str, seed: int) -> Found:
    """A bracket for each condition, from the cheapest, which begins at the optimum of the one before; then one more seed."""
    payer = Payer(table, budget, cost)
    for s in range(table.losses.shape[2]):
        place = table.losses.shape[1] // 2
        for b in np.argsort(table.planned, kind="stable"):
            place = _descend(payer, int(b), place, s)
    return payer.found()


def _descend(payer: Payer, b: int, place: int, s: int) -> int:
    """Move to the better neighbour, with the seeds up to ``s``, until both are worse; the place where it ends."""
    table = payer.table

    def loss(u: int) -> float:
        for each in range(s + 1):
            if (
                not math.isnan(table.losses[b, u, each])
                and (b, u, each) not in payer.cells
                and not payer.pay((b, u, each))
            ):
                return math.inf
        runs = [table.losses[cell] for cell in payer.cells if cell[:2] == (b, u)]
        return float(np.mean(runs)) if runs else math.inf

    while True:
        near = [u for u in (place - 1, place, place + 1) if 0 <= u < len(table.rates)]
        losses = [loss(u) for u in near]
        if all(map(math.isinf, losses)):
            best = near[0]  # too large a rate: go down
        else:
            best = near[int(np.argmin(losses))]
        if best == place or (math.isinf(min(losses)) and place == 0):
            return place
        place = best


# ---- Optuna, one study for each condition -------------------------------------------------------------------------------------


def _optuna(sampler: str) -> Callable[[Table, float, str, int], Found]:
    def search(table: Table, budget: float, cost: str, seed: int) -> Found:
        try:
            import optuna
        except ImportError:
            raise SystemExit(
                "search_replay: --methods optuna_...: accepted with the package optuna installed"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        makers = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
        whole = Payer(table, budget, cost)
        price = table.taken if cost == "steps" else np.where(np.isnan(table.losses), math.nan, 1.0)
        share = budget / np.nansum(price)
        for b in range(len(table.conditions)):
            part = Payer(table, share * float(np.nansum(price[b])), cost)
            study = optuna.create_study(sampler=makers[sampler](seed=seed + 1000 * b))
            for _ in range(4 * table.losses[b].size):
                trial = study.ask()
                u = trial.suggest_int("rate", 0, len(table.rates) - 1)
                known = [s for _, each, s in part.cells if each == u]
                free = [
                    s for s in range(table.losses.shape[2]) if s not in known and not math.isnan(table.losses[b, u, s])
                ]
                if free and not part.pay((b, u, free[0])):
                    break
                value = (
                    float(table.losses[b, u, free[0]])
                    if free
                    else float(np.mean([table.losses[b, u, s] for s in known or [0]]))
                )
                study.tell(trial, min(value, 10.0) if not math.isnan(value) else 10.0)
            whole.cells += part.cells
        return whole.found()

    return search


METHODS: dict[str, Callable[[Table, float, str, int], Found]] = {
    "adaptive": _product("bracket"),
    "information": _product("information"),
    "naive": naive,
    "random": _ordered(_random),
    "sobol": _ordered(_sobol),
    "optuna_tpe": _optuna("tpe"),
    "optuna_gp": _optuna("gp"),
}
