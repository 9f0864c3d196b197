"""The conditions of the study: the method, the remedy and the batch of every run, and the best rate of each condition."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from optbench.analysis.laws.best_rates import RATE, BestRate, best_rates
from optbench.analysis.names import method as name_of
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

VALIDATION = "validation_loss"
RESULTS = ("test_accuracy", "test_loss", "train_loss")
PLAIN, UPDATES, WHOLE, WARMUP, LARS, TOGETHER = (
    "plain",
    "equal updates",
    "batch norm over the whole batch",
    "longer warm-up",
    "LARS",
    "16 epochs and longer warm-up",
)
MOMENTUM = "momentum"


@dataclass(frozen=True)
class Conditions:
    """The best rates of all conditions, by method, condition and batch.

    epochs: of the plain runs. small, large: their smallest and largest batch.
    """

    best: Mapping[tuple[str, str, int], BestRate]
    epochs: float
    small: int
    large: int

    @property
    def methods(self) -> list[str]:
        """The methods with plain runs at both batch sizes; none if these are the same."""
        if self.small == self.large:
            return []
        names = dict.fromkeys(method for method, condition, _ in self.best if condition == PLAIN)
        return [name for name in names if {(name, PLAIN, self.small), (name, PLAIN, self.large)} <= self.best.keys()]

    def of_momentum(self, condition: str, batch: int | None = None) -> BestRate | None:
        """The best rate of momentum SGD (LARS: of itself) in a condition; ``batch`` None: at the large one."""
        return self.best.get((MOMENTUM, condition, self.large if batch is None else batch))

    def longer(self, batch: int) -> dict[float, BestRate]:
        """The best rates of momentum SGD at ``batch`` by epochs, ascending, with the plain one."""
        found = {
            _epochs_of(condition, self.epochs): rate
            for (method, condition, own), rate in self.best.items()
            if method == MOMENTUM and own == batch and (condition == PLAIN or condition.endswith((" epoch", " epochs")))
        }
        return dict(sorted(found.items()))


def of_study(study: Study, without_seed: int | None = None) -> Conditions | None:
    """The best rate of every condition, ``without_seed`` as if the runs of this seed were not there.

    None if no run has trained without a remedy.
    """
    runs = study.runs[study.runs["seed"] != without_seed]
    if not (runs["status"] == "done").any():
        return None
    epochs = float(runs["config.budget.epochs"].astype(float).mode().iloc[0])
    by = ["method", "condition", "batch"]
    labelled = runs.assign(method=_methods(runs), condition=_conditions(runs, epochs))
    labelled = seeds_only(labelled, [*by, RATE])
    if VALIDATION not in labelled:
        return None
    plain = labelled[(labelled["condition"] == PLAIN) & (labelled["status"] == "done")]
    if plain.empty:
        return None
    found = best_rates(study, by, labelled, VALIDATION, RESULTS)
    if not found:
        return None
    best = {(str(one.key["method"]), str(one.key["condition"]), int(str(one.key["batch"]))): one for one in found}
    return Conditions(best, epochs, int(plain["batch"].min()), int(plain["batch"].max()))


def in_words(method: str) -> str:
    """The name of a method as people write it."""
    optimizer, _, momentum = method.partition(" ")
    return f"{name_of(optimizer)}{f' ({momentum})' if momentum else ''}"


def words_of_epochs(epochs: float) -> str:
    """The condition of training for ``epochs``."""
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


def _epochs_of(condition: str, plain: float) -> float:
    return plain if condition == PLAIN else float(condition.split()[0])


def _methods(runs: pd.DataFrame) -> pd.Series:
    """The optimizer, with the momentum of momentum SGD where it is not 0.9; LARS is a remedy of momentum SGD."""
    momentum = runs.get("config.optimizer.momentum", pd.Series(math.nan, index=runs.index))
    names = [
        f"{MOMENTUM} {value:g}"
        if name == MOMENTUM and math.isfinite(value) and value != 0.9
        else (MOMENTUM if name == "lars" else name)
        for name, value in zip(runs["optimizer"], momentum, strict=True)
    ]
    return pd.Series(names, index=runs.index)


def _conditions(runs: pd.DataFrame, epochs: float) -> pd.Series:
    own = runs["config.budget.epochs"].astype(float)
    words = own.map(words_of_epochs).where(own != epochs, PLAIN)
    is_warm = runs["config.schedule.warmup"].astype(str) == "25%"
    words = words.mask(is_warm, TOGETHER).mask(is_warm & (own == epochs), WARMUP)
    words = words.mask(runs["config.ghost_batch_size"].isna(), WHOLE)
    words = words.mask(runs["config.budget.regime_adaptation"].eq(True), UPDATES)
    return words.mask(runs["optimizer"] == "lars", LARS)
