"""The runs of a published report: the commands and the results that its folder holds, for a comparison without run folders."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench import config as configuration
from optbench.config import Config
from optbench.errors import UserError
from optbench.store import RunDirectory
from optbench.store.measured import without_measured
from optbench.store.run_directory import FINISHED
from optbench.sweep.verification import Difference

_COMMANDS, _RUNS = Path("page", "commands.parquet"), Path("tables", "runs.parquet")
_PROGRAM = ["python", "-m", "optbench"]
# Settings that a summary repeats.
_SETTINGS = frozenset(("batch", "seed", "trial", "learning_rate", "base_learning_rate"))


@dataclass(frozen=True)
class PublishedRun:
    """One finished run of a report. ``results``: the numbers of its row in tables/runs, without settings and measurements."""

    run_id: str
    command: str
    state: str
    results: Mapping[str, float]

    def config(self) -> Config:
        """The configuration that the command asks for.

        Raises UserError, naming the run, for a command that is none of ours, or that could not be typed here.
        """
        try:
            words = shlex.split(self.command)
            if words[:3] != _PROGRAM or any("=" not in word or word.startswith(("-", "hydra.")) for word in words[3:]):
                raise UserError(f"its command is {self.command!r}; accepted: python -m optbench KEY=VALUE ...")
            return configuration.apart(configuration.compose(words[3:]))
        except (UserError, ValueError) as error:
            raise UserError(f"run {self.run_id}: {error}") from error

    def compare(self, again: RunDirectory) -> tuple[Difference, int]:
        """The difference of ``again`` from the published results, and the number of values that both have."""
        status, summary = again.status(), again.summary() or {}
        if status.state != self.state:
            return Difference(
                f"{status.state}, not {self.state}" + (f": {status.why}" if status.why else ""), math.inf
            ), 0
        # A published table has null for values that are not finite; those were left out.
        pairs = {name: (then, summary[name]) for name, then in self.results.items() if _is_number(summary.get(name))}
        changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if not changed:
            return Difference("" if pairs else "no result has the name that it had then"), len(pairs)
        name, (then, now) = next(iter(changed.items()))
        largest = max(abs(then - now) for then, now in changed.values())
        return Difference(f"{name}: {then!r} then, {now!r} now", largest), len(pairs)


def is_published(folder: Path) -> bool:
    """True if the folder is a report with its commands and its runs, such as results/landscape."""
    return (folder / _COMMANDS).is_file() and (folder / _RUNS).is_file()


def published(folder: Path) -> list[PublishedRun]:
    """The finished runs of a report that have commands, in the order of its table.

    Raises UserError if its files cannot be read.
    """
    import pandas as pd

    try:
        commands = pd.read_parquet(folder / _COMMANDS).set_index("run_id")["command"].dropna()
        rows = pd.read_parquet(folder / _RUNS)
        found = rows[rows["status"].isin(FINISHED) & rows["run_id"].isin(commands.index)]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: its runs cannot be read ({error}); accepted: the folder of a report") from error
    settings = ("config.", "cell.")
    names = [name for name in found if not str(name).startswith(settings) and name not in _SETTINGS]
    return [
        PublishedRun(str(row["run_id"]), str(commands[row["run_id"]]), str(row["status"]), _results(row))
        for row in found[names].to_dict("records")
    ]


def _results(row: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {str(name): float(value) for name, value in row.items() if _is_number(value) and math.isfinite(value)}
    return without_measured(numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
