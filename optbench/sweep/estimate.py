"""Estimate the training time, the files and the bytes of planned runs from the finished ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from optbench import config as configuration
from optbench.config import Config
from optbench.config.run_config import RunConfig
from optbench.store import RunDirectory, load
from optbench.store.removing import files_of
from optbench.system import memory

# Runs that agree in these take about the same time for each example; if none agrees in all, the batch is ignored.
_LIKENESS = ("model.name", "dataset.name", "optimizer.name", "batch")
_MEASURED = 20  # runs of each kind whose folders are looked at


@dataclass(frozen=True)
class Estimate:
    """``seconds`` of training for the ``known`` runs, which resemble earlier ones; ``unknown``: the number of others.

    files, bytes: in the folders of the known runs. examples: of training, in all runs whose length is known.
    """

    seconds: float
    known: int
    unknown: int
    files: float = 0.0
    bytes: float = 0.0
    examples: int = 0

    def in_words(self) -> str:
        """The estimate in one line."""
        if not self.known and not self.unknown:
            return "nothing left to do"
        if not self.known:
            return f"{self.examples:,} examples of training in all; no earlier run tells what these will cost"
        rest = f"; nothing is known of {self.unknown} others" if self.unknown else ""
        return (
            f"{self.examples:,} examples of training in all; about {_duration(self.seconds)} for "
            f"{self.known:,} runs, by the pace of earlier ones, with {self.files:,.0f} files of "
            f"{memory.short(int(self.bytes))}{rest}"
        )


def estimate(results_dir: str | Path, configs: Sequence[Config]) -> Estimate:
    """Estimate the training seconds of ``configs`` by the median pace of the finished runs in ``results_dir``."""
    if not configs:
        return Estimate(0.0, 0, 0)
    pace, earlier = _earlier_runs(results_dir)
    sizes: dict[tuple[Any, ...], tuple[float, float]] = {}  # of the kinds that are planned
    seconds, files, size, known, examples = 0.0, 0.0, 0.0, 0, 0
    for config in configs:
        steps, batch = _length(config), config["batch"]
        key = tuple(_value(config, name) for name in _LIKENESS)
        if steps is None:
            continue
        examples += steps * batch
        seconds_an_example = pace.get(key, pace.get(key[:-1]))
        if seconds_an_example is not None:
            seconds += seconds_an_example * steps * batch
            known += 1
            kind = key[:-1]
            if kind not in sizes:
                sizes[kind] = _size_of_runs(results_dir, earlier[kind][-_MEASURED:])
            files += sizes[kind][0]
            size += sizes[kind][1]
    return Estimate(seconds, known, len(configs) - known, files, size, examples)


def _earlier_runs(results_dir: str | Path) -> tuple[dict[tuple[Any, ...], float], dict[tuple[Any, ...], list[str]]]:
    """The median of the seconds for each example, by the values of `_LIKENESS`, with and without the batch.

    And the ids of the runs, by the same values without the batch.
    """
    paces: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    folders: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    runs = load(results_dir)
    needed = {"run_id", "seconds_training", "samples", *(f"config.{name}" for name in _LIKENESS)}
    if not needed <= {*runs.columns}:
        return {}, {}
    for run in runs[[*needed]].dropna().to_dict("records"):
        if run["samples"] > 0:
            key = tuple(run[f"config.{name}"] for name in _LIKENESS)
            folders[key[:-1]].append(run["run_id"])
            for part in (key, key[:-1]):
                paces[part].append(run["seconds_training"] / run["samples"])
    return {part: median(seen) for part, seen in paces.items()}, dict(folders)


def _size_of_runs(results_dir: str | Path, run_ids: Sequence[str]) -> tuple[float, float]:
    """The medians of the files and of the bytes of these runs."""
    found = [[size for _, size in files_of(RunDirectory.at(results_dir, run_id).path)] for run_id in run_ids]
    return median(map(len, found)), median(map(sum, found))


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
