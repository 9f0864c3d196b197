"""The costs of runs, against which results are drawn beside steps: FLOPs, seconds of training, and bytes.

Runs of earlier versions have no FLOPs and no bytes, and neither have FLOPs the methods whose work depends on values; they have a
missing value, and `missing` says how many.
"""

from dataclasses import dataclass

import pandas as pd

from optbench.store.run_directory import FINISHED


@dataclass(frozen=True)
class Cost:
    """A cost of a run: the ``name`` of its column here, its ``label`` on an axis, and its ``words`` in a sentence."""

    name: str
    label: str
    words: str


COSTS = (
    Cost("flops", "FLOPs", "FLOPs"),
    Cost("seconds", "Seconds of training", "seconds of training"),
    Cost("bytes", "Bytes of weights and optimizer state", "bytes of weights and optimizer state"),
)


def with_costs(runs: pd.DataFrame, steps: str = "steps", seconds: str = "seconds_training") -> pd.DataFrame:
    """The runs with a column for each of `COSTS`, NaN where a run lacks it.

    flops: FLOPs a step times the column ``steps``. seconds: the column ``seconds``; with "steps_to_target" and
    "seconds_to_target" both are those to the target, infinite where it was not reached. bytes: what the run holds of the
    weights and of the optimizer's state, whatever its length.
    """

    def column(name: str) -> "pd.Series[float]":
        return pd.to_numeric(runs[name], errors="coerce").astype(float) if name in runs else missing_values

    missing_values = pd.Series(float("nan"), index=runs.index)
    return runs.assign(
        flops=column("flops_per_step") * column(steps),
        seconds=column(seconds),
        bytes=column("parameter_bytes") + column("optimizer_state_bytes"),
    )


def missing(runs: pd.DataFrame) -> list[str]:
    """A sentence for each cost that runs which have ended lack; ``runs`` are those of `with_costs`."""
    ended = runs[runs["status"].isin(FINISHED)]
    notes = []
    for cost in COSTS:
        lacking = int(ended[cost.name].isna().sum())
        if lacking:
            notes.append(
                f"{lacking} of {len(ended)} runs have no {cost.words}, and are not in the figure against these: they are of an "
                "earlier version, or the work of their method depends on values."
            )
    return notes
