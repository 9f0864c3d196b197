"""Estimate the training time of planned runs from the finished ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from optbench import config as configuration
from optbench.config import Config
from optbench.config.run_config import RunConfig
from optbench.store import load

# Runs that agree in these take about the same time for each example; if none agrees in all, the batch is ignored.
_LIKENESS = ("model.name", "dataset.name", "optimizer.name", "batch")


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of training for the ``known`` runs, which resemble earlier ones; ``unknown``: the number of others."""

    seconds: float
    known: int
    unknown: int

    def in_words(self) -> str:
        """The estimate in one line."""
        if not self.known and not self.unknown:
            return "nothing left to do"
        if not self.known:
            return "no earlier run tells what these will cost"
        rest = f"; nothing is known of {self.unknown} others" if self.unknown else ""
        return f"about {_duration(self.seconds)} of training in all for {self.known} runs, by the pace of earlier ones{rest}"


def estimate(results_dir: str | Path, configs: Sequence[Config]) -> Estimate:
    """Estimate the training seconds of ``configs`` by the median pace of the finished runs in ``results_dir``."""
    if not configs:
        return Estimate(0.0, 0, 0)
    pace = _pace_of_earlier_runs(results_dir)
    seconds, known = 0.0, 0
    for config in configs:
        steps, batch = _length(config), config["batch"]
        key = tuple(_value(config, name) for name in _LIKENESS)
        if steps is None:
            continue
        seconds_an_example = pace.get(key, pace.get(key[:-1]))
        if seconds_an_example is not None:
            seconds += seconds_an_example * steps * batch
            known += 1
    return Estimate(seconds, known, len(configs) - known)


def _pace_of_earlier_runs(results_dir: str | Path) -> dict[tuple[Any, ...], float]:
    """The median of the seconds for each example, by the values of `_LIKENESS`, with and without the batch."""
    paces: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    runs = load(results_dir)
    needed = {"seconds_training", "samples", *(f"config.{name}" for name in _LIKENESS)}
    if not needed <= {*runs.columns}:
        return {}
    for run in runs[[*needed]].dropna().to_dict("records"):
        if run["samples"] > 0:
            key = tuple(run[f"config.{name}"] for name in _LIKENESS)
            for part in (key, key[:-1]):
                paces[part].append(run["seconds_training"] / run["samples"])
    return {part: median(seen) for part, seen in paces.items()}


def _value(config: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _length(config: Config) -> int | None:
    read = RunConfig.of(config)
    examples = configuration.training_examples(read)
    return None if examples is None else configuration.horizon(read, examples).steps


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
