"""The minima at the ends of the runs of both protocols: their measures, and the curves, lines and planes around them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pandas as pd

from optbench.analysis.laws.minima import rise
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

Arrays: TypeAlias = dict[str, np.ndarray]

MATCHED, EPOCHS = "equal train loss", "equal epochs"
PROTOCOLS = (MATCHED, EPOCHS)
DISTANCE = 0.5  # the distance along filter-normalized directions at which the rise of the loss is taken
SHARE = 0.25  # the part of the way between two minima at which it is taken
LINE = "line_rise"
#: The measures of one minimum, by column.
MEASURES = {
    "filter_rise": f"rise at {DISTANCE} along filter-normalized directions",
    "adaptive": "rise in a ball with the weights' scale (ASAM)",
    "sam": "rise in a ball (SAM)",
    "keskar": "sharpness in a box (Keskar), %",
    "top": "largest eigenvalue",
    "norm": "norm of the weights",
    "train_loss": "train loss",
}
OUTCOMES = {"test_loss": "test loss", "test_error": "test error"}
#: What is compared between two batch sizes: also the rise along the line between them, which a single minimum has not.
COMPARED = {**OUTCOMES, **MEASURES, LINE: f"rise {SHARE:.0%} of the way along the line between the minima"}
DECAY, RATE = "config.optimizer.weight_decay", "config.optimizer.learning_rate"
_STOPS = "config.budget.stop_at_target"


@dataclass(frozen=True)
class Pair:
    """The place of two minima of one seed, at the smallest and at the largest batch."""

    protocol: str
    decay: float
    rate: float
    seed: int


@dataclass(frozen=True)
class Minima:
    """All minima of a study.

    table: a row for each run that is measured, with its place (protocol, weight_decay, learning_rate, batch, seed), run_id,
        steps, reached, `OUTCOMES`, `MEASURES` and `LINE`. Runs of equal train loss that did not reach the target have reached
        False, and `of` leaves them out.
    curves: by run id, the positions and the loss, the mean over filter-normalized directions. lines: from the smaller to the
        larger batch. planes: by run id.
    """

    table: pd.DataFrame
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    lines: Mapping[Pair, Arrays] = field(default_factory=dict)
    planes: Mapping[str, Arrays] = field(default_factory=dict)

    def of(self, protocol: str) -> pd.DataFrame:
        """The minima of a protocol."""
        return self.table[(self.table["protocol"] == protocol) & self.table["reached"]]

    @property
    def rate(self) -> float:
        """The learning rate that both protocols have, at which they are compared; NaN if there is none."""
        rates = [set(self.of(protocol)["learning_rate"]) for protocol in PROTOCOLS]
        common = set.intersection(*rates) or set.union(*rates)
        return max(common, default=math.nan)

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch."""
        return int(self.table["batch"].min()), int(self.table["batch"].max())


def protocol_of(runs: pd.DataFrame) -> pd.Series:
    """The protocol of each run: those that end where they reach the target are of equal train loss."""
    return runs[_STOPS].map({True: MATCHED, False: EPOCHS})


def at_target(runs: pd.DataFrame) -> pd.Series:
    """True for the runs that reached the target."""
    found = runs["steps_to_target"] if "steps_to_target" in runs else pd.Series(math.nan, index=runs.index)
    return found.notna()


def ended(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that are done, with the columns of their place, and reached: False if a target was not reached that ends them."""
    done = runs[runs["state"] == "done"]
    placed = done.assign(
        protocol=protocol_of(done), weight_decay=done[DECAY].astype(float), learning_rate=done[RATE].astype(float)
    )
    single = seeds_only(placed, ["protocol", "weight_decay", "learning_rate", "batch"])
    return single.assign(reached=(single["protocol"] == EPOCHS) | at_target(single))


def pairs(runs: pd.DataFrame) -> "dict[Pair, tuple[str, str]]":
    """The run ids of the smallest and of the largest batch, where both have ended and reached the target."""
    found = {}
    small, large = runs["batch"].min(), runs["batch"].max()
    chosen = runs[runs["reached"] & (small < large)]
    for key, here in chosen.groupby(["protocol", "weight_decay", "learning_rate", "seed"]):
        ids = here.set_index("batch")["run_id"]
        if {small, large} <= set(ids.index):
            protocol, decay, rate, seed = key
            found[Pair(protocol, decay, rate, int(seed))] = ids[small], ids[large]
    return found


def of_study(study: Study) -> Minima:
    """The minima of the runs that have ended and that the probes of the study have measured."""
    runs = ended(study.runs)
    curves, planes, rows = {}, {}, []
    for _, run in runs.iterrows():
        measured = study.measurements(run["run_id"], "landscape")
        if not measured:
            continue
        arrays = measured[-1].arrays()
        curve = arrays["positions"], arrays["loss"].mean(axis=0)
        curves[run["run_id"]] = curve
        if around := study.measurements(run["run_id"], "plane"):
            planes[run["run_id"]] = around[-1].arrays()
        rows.append(_row(run, curve))
    table = pd.DataFrame(rows)
    if table.empty:
        return Minima(table)
    lines = {}
    for pair, ids in pairs(runs).items():
        if between := study.measurements(ids[1], "interpolation"):
            lines[pair] = arrays = between[-1].arrays()
            for end, run_id in enumerate(ids):
                found = rise(arrays["positions"], arrays["train_loss"], end, SHARE)
                table.loc[table["run_id"] == run_id, LINE] = found
    return Minima(table, curves, lines, planes)


def _row(run: pd.Series, curve: tuple[np.ndarray, np.ndarray]) -> dict[str, float | str]:
    place = ("protocol", "weight_decay", "learning_rate", "batch", "seed", "run_id", "steps", "reached", "train_loss")
    row = {name: run[name] for name in place}
    row |= {"test_loss": run["test_loss"], "test_error": 1 - run["test_accuracy"]}
    row |= {"filter_rise": rise(*curve, 0, DISTANCE), "top": run["eigenvalues_top"]}
    row |= {name: run[f"sharpness_{name}"] for name in ("adaptive", "sam", "keskar")}
    return row | {"norm": run["displacement_weight_norm"], LINE: math.nan}


def lines_by_decay(minima: Minima, protocol: str) -> dict[str, Sequence[Arrays]]:
    """The lines of a protocol at the common learning rate, one for each seed, by the words for the weight decay."""
    found: dict[str, list[Arrays]] = {}
    for pair, line in sorted(minima.lines.items(), key=lambda one: (one[0].decay, one[0].seed)):
        if pair.protocol == protocol and pair.rate == minima.rate:
            found.setdefault(in_words(pair.decay), []).append(line)
    return dict(found)


def in_words(decay: float) -> str:
    """A weight decay, as in panels and labels."""
    return f"weight decay {decay:g}"
