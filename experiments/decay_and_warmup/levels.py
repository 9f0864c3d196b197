"""The levels of weight decay and of warm-up at each batch size, each with its own best learning rate, in every draw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from optbench.analysis.laws.best_rates import RATE, BestRate, Draws, best_rates
from optbench.analysis.laws.loss_curves import LossCurves
from optbench.analysis.laws.noisy_optima import Vertices
from optbench.analysis.laws.optima import HIGHEST, LOWEST, optima
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

LOSS = "validation_loss"
RESULTS = ("test_accuracy",)
DECAY, WARMUP = "weight decay", "warm-up"


@dataclass(frozen=True)
class Levels:
    """The best learning rates by level and batch size of one variable, `DECAY` or `WARMUP`."""

    variable: str
    best: Mapping[tuple[float, int], BestRate]

    @property
    def batches(self) -> list[int]:
        """The batch sizes, ascending."""
        return sorted({batch for _, batch in self.best})

    def at(self, batch: int) -> dict[float, BestRate]:
        """The levels of a batch size, ascending."""
        return {level: self.best[level, batch] for level, own in sorted(self.best) if own == batch}

    def curves(self) -> LossCurves | None:
        """The least loss over the rates against the level, at the batch sizes at which every level above 0 has been trained.

        None for fewer than two levels or batch sizes.
        """
        levels = sorted({level for level, _ in self.best if level > 0})
        batches = [batch for batch in self.batches if all((level, batch) in self.best for level in levels)]
        if len(levels) < 2 or len(batches) < 2:
            return None
        tables, resampled = (
            np.stack(
                [np.stack([_optima(self.best[level, batch], part)[1] for level in levels], -1) for batch in batches], 1
            )
            for part in _PARTS
        )
        own = {key: best for key, best in self.best.items() if key[1] in batches}
        runs = np.array([sum(len(best.runs) for (_, b), best in own.items() if b == batch) for batch in batches])
        cells = sum(len(best.rates) for best in own.values())
        stretch = max(best.stretch for best in own.values())
        return LossCurves(np.array(batches), np.array(levels), tables, resampled, runs, cells, stretch)

    def rates(self, curves: LossCurves) -> tuple[np.ndarray, np.ndarray]:
        """The best learning rate at the best level, (M, B) and (N, B), between tested levels on a line in the logarithms."""
        x = np.log(curves.rates)
        found = []
        for part, best_levels in zip(_PARTS, (curves.optima, curves.resampled_optima), strict=True):
            columns = []
            for b, batch in enumerate(curves.batches):
                own = [self.best[level, int(batch)] for level in curves.rates]
                chosen = np.log(np.stack([_optima(best, part)[0] for best in own], -1))
                at = np.log(best_levels.rates[:, b])
                right = np.clip(np.searchsorted(x, at), 1, len(x) - 1)
                share = np.clip((at - x[right - 1]) / (x[right] - x[right - 1]), 0, 1)
                rows = np.arange(len(at))
                columns.append(np.exp((1 - share) * chosen[rows, right - 1] + share * chosen[rows, right]))
            found.append(np.stack(columns, -1))
        return found[0], found[1]


def of_study(study: Study, without_seed: int | None = None) -> dict[str, Levels]:
    """Both variables, as far as runs of them have trained; ``without_seed``: as if the runs of this seed were not there."""
    runs = study.runs[study.runs["seed"] != without_seed]
    if LOSS not in runs or not (runs["status"] == "done").any():
        return {}
    is_decay = runs["optimizer"] == "adamw"
    shares = runs["config.schedule.warmup"].map(share)
    level = runs["config.optimizer.weight_decay"].astype(float).where(is_decay, shares)
    labelled = runs.assign(variable=is_decay.map({True: DECAY, False: WARMUP}), level=level)
    by = ["variable", "level", "batch"]
    found: dict[str, dict[tuple[float, int], BestRate]] = {}
    for one in best_rates(study, by, seeds_only(labelled, [*by, RATE]), LOSS, RESULTS):
        variable, own, batch = (one.key[name] for name in by)
        found.setdefault(str(variable), {})[float(str(own)), int(str(batch))] = one
    return {variable: Levels(variable, best) for variable, best in found.items()}


def share(text: object) -> float:
    """A warm-up as the share of the run: "2%" is 0.02."""
    words = str(text)
    return float(words.removesuffix("%")) / 100 if words.endswith("%") else float(words)


def vertices(curves: LossCurves, values: tuple[np.ndarray, np.ndarray]) -> Vertices:
    """The law's points for ``values`` (M, B) and (N, B) at the best levels, spread as those of `LossCurves.vertices`."""
    levels = curves.vertices()
    centre, middle = (np.nanmedian(np.log(part), 0) for part in values)
    draws = np.exp(middle + curves.stretch * (np.log(values[1]) - middle))
    return Vertices(levels.batches, np.exp(centre), levels.losses, levels.borders, draws, levels.draw_borders)


def at_end(curves: LossCurves, b: int) -> float:
    """The share of the draws in which the best level of the batch ``b``, an index, is the lowest or the highest one."""
    return float(np.isin(curves.optima.borders[:, b], (LOWEST, HIGHEST)).mean())


def losses(best: BestRate) -> Draws:
    """The least validation loss over the rates in every draw, at the vertex of a parabola."""
    return Draws(*(_optima(best, part)[1] for part in _PARTS))


def saving(without: BestRate, best: BestRate) -> Draws:
    """1 - loss / loss without: the share of the validation loss that is saved, in every draw."""
    with np.errstate(invalid="ignore"):
        return Draws(*(1 - own / base for base, own in _aligned(without, best, 1)))


def ratio_of_rates(best: BestRate, without: BestRate) -> Draws:
    """The logarithm of the ratio of the best rates, in every draw."""
    return Draws(*(np.log(own / base) for base, own in _aligned(without, best, 0)))


_PARTS = ("tables", "resampled")


def _aligned(one: BestRate, other: BestRate, which: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The best rates (``which`` 0) or their losses (1) of both conditions, as many draws of each."""
    pairs = [(_optima(one, part)[which], _optima(other, part)[which]) for part in _PARTS]
    return [(first[: len(second)], second[: len(first)]) for first, second in pairs]


def _optima(best: BestRate, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The best rate and its loss in every draw; infinity is the loss if all rates diverge."""
    means = getattr(best.choosing, part)
    is_cell = ~np.isnan(means[0])
    rates, least, _ = optima(best.rates[is_cell], means[:, is_cell])
    return rates, np.where(np.isnan(least), math.inf, least)
