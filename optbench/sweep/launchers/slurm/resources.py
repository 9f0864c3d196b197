"""The resources that a run needs from Slurm: the launcher's options, changed by the rules in ``resources`` that apply."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optbench.config import Config, Devices, schema
from optbench.config.schema import time_limit_minutes
from optbench.errors import UserError, nearest
from optbench.sweep.expressions import Expression

# Options of the whole sweep, equal for all its runs.
_OF_THE_SWEEP = ("resources", "snapshot", "max_retries")
# Options of sbatch that have a key of their own, or on which requeueing and packing depend.
_OWN_KEYS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "time": "time",
    "mem": "mem",
    "cpus-per-task": "cpus",
    "gpus-per-node": "gpus",
    "signal": "signal_delay",
}
_FIXED = (
    "array",
    "job-name",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "output",
    "error",
    "open-mode",
    "requeue",
    "no-requeue",
)


@dataclass(frozen=True)
class Resources:
    """The resources of one job, and their division among workers; runs with equal resources share arrays.

    minutes: the time limit.
    memory: GB on each node, or None for the cluster's default.
    gpus: on each node.
    nodes, tasks: nodes, and ranks on each of them, of one run.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    minutes: int
    memory: float | None
    cpus: int
    gpus: int
    nodes: int
    tasks: int
    runs_per_job: int
    workers: int
    max_jobs: int | None
    array_parallelism: int | None
    setup: tuple[str, ...]
    container: str
    srun_args: tuple[str, ...]
    extra: tuple[tuple[str, str | int | float | bool], ...]
    signal_delay: int
    max_timeouts: int

    @property
    def ranks(self) -> int:
        """The number of processes that train one run together."""
        return self.nodes * self.tasks

    def __str__(self) -> str:
        """The resources in the words of the options, without those left to the cluster."""
        words = [f"partition={self.partition}" if self.partition else ""]
        words += [f"nodes={self.nodes} ranks={self.ranks}" if self.ranks > 1 else ""]
        words += [f"cpus={self.cpus}", f"gpus={self.gpus}" if self.gpus else ""]
        words += [f"mem={self.memory:g}" if self.memory else "", f"time={self.minutes // 60}:{self.minutes % 60:02}:00"]
        return " ".join(word for word in words if word)


class Rules:
    """The options of launcher=slurm, checked and ready to be applied to runs.

    Raises UserError for an invalid rule, and for options that contradict each other.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._rules = [self._rule(number, given) for number, given in enumerate(options["resources"])]

    def _rule(self, number: int, given: Mapping[str, Any]) -> tuple[Expression, dict[str, Any]]:
        where = f"launcher.resources[{number}]"
        if not isinstance(given.get("when"), str):
            raise UserError(f"{where}: has no condition; accepted: {{when: \"model == 'wrn'\", gpus: 1}}")
        typed = {key: text for key, text in self._options["info"]["schema"].items() if key not in _OF_THE_SWEEP}
        changes = {key: value for key, value in given.items() if key != "when"}
        for key in changes:
            if key not in typed:
                raise UserError(f"{where}.{key}: unknown key; {nearest(key, typed)}")
        schema.check(changes, {key: typed[key] for key in changes}, where)
        return Expression.parse(given["when"], f"{where}.when"), changes

    def of(self, config: Config) -> Resources:
        """The resources of the run ``config``; raises UserError for impossible ones."""
        options = dict(self._options)
        for condition, changes in self._rules:
            if condition.holds(config):
                options.update(changes)
        minutes = time_limit_minutes(options["time"])
        if options["signal_delay"] >= minutes * 60:
            raise UserError(
                f"launcher.signal_delay={options['signal_delay']}: not before the end of launcher.time={options['time']} "
                f"({minutes} min), so every job would be stopped at once; accepted: a longer time, or fewer seconds"
            )
        trainer = config["trainer"]
        gpus = _gpus(options["gpus"], trainer)
        several = Devices.of(trainer).ranks > 1
        workers = options["workers"] or (gpus * options["workers_per_gpu"] if gpus else options["cpus"])
        return Resources(
            partition=options["partition"],
            account=options["account"],
            qos=options["qos"],
            constraint=options["constraint"],
            minutes=minutes,
            memory=options["mem"],
            cpus=options["cpus"],
            gpus=gpus,
            nodes=trainer["num_nodes"] if several else 1,
            tasks=trainer["devices"] if several else 1,
            runs_per_job=1 if several else options["runs_per_job"],
            workers=1 if several else workers,
            max_jobs=None if several else options["max_jobs"],
            array_parallelism=options["array_parallelism"],
            setup=tuple(options["setup"]),
            container=options["container"],
            srun_args=tuple(options["srun_args"]),
            extra=_extra(options["extra"]),
            signal_delay=options["signal_delay"],
            max_timeouts=options["max_timeouts"],
        )


def _gpus(asked: int | None, trainer: Mapping[str, Any]) -> int:
    needed = trainer["devices"] if trainer["accelerator"] == "gpu" else 0
    if asked is None:
        return needed
    # Ranks on a machine with GPUs take one each, unless the configuration trains on the processor.
    wanted = trainer["devices"] if asked and trainer["accelerator"] == "auto" else needed
    if asked < wanted:
        raise UserError(
            f"launcher.gpus={asked}: too few for trainer.devices={trainer['devices']} with "
            f"trainer.accelerator={trainer['accelerator']}; accepted: at least {wanted} on each node, or null"
        )
    return asked


def _extra(given: Mapping[str, Any]) -> tuple[tuple[str, str | int | float | bool], ...]:
    extra = []
    for key, value in given.items():
        where, name = f"launcher.extra.{key}", str(key).replace("_", "-")
        if name in _OWN_KEYS:
            raise UserError(f"{where}={value}: has a key of its own, launcher.{_OWN_KEYS[name]}")
        if name in _FIXED:
            raise UserError(f"{where}={value}: is what optbench sets itself; accepted: other options of sbatch")
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise UserError(f"{where}={value}: must be text, a number, or true for an option without a value")
        if value is not False:
            extra.append((name, value))
    return tuple(extra)
