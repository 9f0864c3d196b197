"""Run a sample of a sweep again in a scratch folder, and compare it bit for bit with the records."""

import math
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from optbench import config as configuration
from optbench.config import Config
from optbench.provenance import UNKNOWN, Vintages, fingerprints
from optbench.store import RunDirectory
from optbench.store.measured import COUNTED, without_measured
from optbench.sweep.launchers import local
from optbench.sweep.plan import Entry, Plan

# At least this many runs of a code, or all if there are fewer, must be run again before it counts as equal to another code.
FEWEST = 3
# Values that depend on the machine or on the start of a run; all others must be equal in both.
_APART = ("run_id", "code")


@dataclass(frozen=True)
class Sample:
    """Runs of one ``code`` (its column in the summary) that are run again; ``of``: the number of all runs of that code."""

    code: str
    runs: tuple[RunDirectory, ...]
    of: int

    @property
    def is_enough(self) -> bool:
        """True if the sample is large enough to stand for all runs of the code."""
        return len(self.runs) >= min(FEWEST, self.of)


@dataclass(frozen=True)
class Difference:
    """The difference of a repeated run. ``why``: a description, empty if there is none. ``largest``: among its results."""

    why: str = ""
    largest: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.why)


def samples(finished: Sequence[RunDirectory], fraction: float, seed: int, named: Sequence[str] = ()) -> list[Sample]:
    """For every code, a random ``fraction`` of its runs, but at least `FEWEST`; or all of ``named``, if any are given."""
    by_code: dict[str, list[RunDirectory]] = {}
    for directory in finished:
        code = "+".join(fingerprints((directory.summary() or {}).get("code")))
        by_code.setdefault(code, []).append(directory)
    chosen = []
    for code, runs in sorted(by_code.items()):
        if named:
            few = [directory for directory in runs if directory.run_id in named]
        else:
            count = min(len(runs), max(FEWEST, math.ceil(fraction * len(runs))))
            few = random.Random(f"{seed} {code}").sample(runs, count)
        if few:
            chosen.append(Sample(code, tuple(few), len(runs)))
    return chosen


@contextmanager
def computed_again(
    plan: Plan, configs: Mapping[str, Config], changed: Mapping[str, Any], workers: int | None
) -> Iterator[Plan]:
    """The runs ``configs`` of ``plan``, by id, trained again as by `trained_again`, with the threads of the sweep.

    Rounding depends on the number of threads.
    """
    with trained_again(plan.name, configs, changed, workers, _threads(plan), plan) as scratch:
        yield scratch


@contextmanager
def trained_again(
    name: str,
    configs: Mapping[str, Config],
    changed: Mapping[str, Any],
    workers: int | None,
    threads: int = 1,
    starts: Plan | None = None,
) -> Iterator[Plan]:
    """A plan in a scratch folder with the runs ``configs``, by id, trained by local workers; removed after the block.

    changed: settings of the machine to change, such as data_dir. starts: the plan with the runs from whose weights others start.
    """
    launcher = {**configuration.read_choice("launcher", "local"), "workers": workers, "threads": threads}
    with tempfile.TemporaryDirectory(prefix="optbench-verify-") as folder:
        scratch = Plan(folder, name)
        machine = {"results_dir": folder, "force": False, "retry": "none", "sweep": None, "dry_run": False}
        tracker = configuration.read_choice("tracker", "none")
        for run_id, config in configs.items():
            again = {**config, **machine, **changed, "tracker": tracker}
            scratch.directory(run_id).create(again)
            source = config["init"].get("source")  # of init=run: the run from whose weights it starts
            if starts is not None and source is not None and not scratch.directory(source).path.exists():
                shutil.copytree(starts.directory(source).path, scratch.directory(source).path)
        scratch.extend([Entry(run_id, {}) for run_id in configs], {})
        local.launch(scratch, list(configs), configs.values(), launcher)
        yield scratch


def _threads(plan: Plan) -> int:
    launcher = plan.information().get("launcher")
    options = launcher if isinstance(launcher, dict) else {}
    threads = options.get("threads", options.get("cpus", 1))
    return threads if isinstance(threads, int) and threads >= 1 else 1


def compare(recorded: RunDirectory, again: RunDirectory, words: tuple[str, str] = ("then", "now")) -> Difference:
    """The difference of the history and the summary of ``again`` from ``recorded``, without measurements of the machine and
    values only in ``again``; what follows from the configuration, and is not in ``again``, counts as equal, too.

    words: the names of the two in the description.
    """
    then, now = words
    state, new = recorded.status().state, again.status()
    if new.state != state:
        return Difference(f"{new.state}, not {state}" + (f": {new.why}" if new.why else ""), math.inf)
    old_summary, new_summary = _numbers(recorded.summary() or {}), _numbers(again.summary() or {})
    changed = {
        name: value
        for name, value in old_summary.items()
        if not _same(value, new_summary.get(name)) and not (name in COUNTED and name not in new_summary)
    }
    largest = max((_distance(value, new_summary.get(name)) for name, value in changed.items()), default=0.0)
    old_rows, new_rows = list(map(_numbers, _rows(recorded))), list(map(_numbers, _rows(again)))
    for old, new_row in zip(old_rows, new_rows, strict=False):
        for name, value in old.items():
            if not _same(value, new_row.get(name)):
                where = f"{name} at step {old.get('step')}: {_shown(value)} {then}, {_shown(new_row.get(name))} {now}"
                return Difference(where, max(largest, _distance(value, new_row.get(name)) if not changed else 0.0))
    if len(old_rows) != len(new_rows):
        return Difference(f"{len(old_rows)} rows of the history {then}, {len(new_rows)} {now}", largest)
    if changed:
        name = next(iter(changed))
        return Difference(f"{name}: {_shown(changed[name])} {then}, {_shown(new_summary.get(name))} {now}", largest)
    return Difference()


def settle(vintages: Vintages, sample: Sample, now: str, different: Mapping[str, Difference], sweep: str) -> str:
    """Record the conclusion from a sample, whose outcomes by run id are in ``different``; returns it as a sentence, or empty.

    now: the fingerprint of the code that has run the sample again. A code is equal to it if all runs of a large enough sample
    agree. Runs without a recorded code may come from different codes: each stands only for itself.
    """
    agreed = [run.run_id for run in sample.runs if not different[run.run_id]]
    if sample.code == UNKNOWN:
        for run_id in agreed:
            vintages.record_run(run_id, now, sweep)
        for run in sample.runs:
            if different[run.run_id]:
                vintages.withdraw_run(run.run_id)
        left = sample.of - len(agreed)
        rest = f"; no code is recorded of {left} others, which stay unknown" if left else ""
        return f"{_runs(len(agreed))} of unknown code now count as of {now}{rest}" if agreed else ""
    if sample.code == now or "+" in sample.code:
        return ""  # runs that several codes have computed stand for none of them
    if len(agreed) < len(sample.runs):
        gone = vintages.withdraw(sample.code, now)
        return f"{sample.code} differs from {now}, the code of now{'; that it was equal is withdrawn' if gone else ''}"
    if not sample.is_enough:
        return f"{sample.code} is not recorded as equal to {now}: {_runs(len(agreed))} of {sample.of} are too few"
    vintages.record_equal(sample.code, now, sweep, agreed, sample.of)
    return f"{sample.code} is recorded as equal to {now}, the code of now, by {len(agreed)} of {_runs(sample.of)}"


def _rows(directory: RunDirectory) -> list[dict[str, Any]]:
    if (directory.path / "history.jsonl").is_file():
        return directory.rows()
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in directory.history_table().to_pylist()
    ]


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in without_measured(values).items() if name not in _APART}


def _same(one: Any, other: Any) -> bool:
    """True if two values are equal in JSON, where a number that is not finite is null."""
    if isinstance(one, float) and not math.isfinite(one):
        one = None
    if isinstance(other, float) and not math.isfinite(other):
        other = None
    return type(one) is type(other) and one == other


def _distance(one: Any, other: Any) -> float:
    numbers = [value for value in (one, other) if isinstance(value, int | float) and not isinstance(value, bool)]
    return abs(numbers[0] - numbers[1]) if len(numbers) == 2 else math.inf


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
