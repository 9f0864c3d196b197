"""`verify`: run a part of a sweep again, and report which runs agree bit for bit with their records."""

import argparse
import math
import platform
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from optbench import config as configuration
from optbench.cli.parser import Parser
from optbench.errors import UserError
from optbench.provenance import UNKNOWN, Vintages, environment
from optbench.store import RunDirectory, StoreError, find
from optbench.store.files import read_object
from optbench.sweep.plan import Plan
from optbench.sweep.verification import (
    FEWEST,
    Difference,
    Sample,
    compare,
    computed_again,
    samples,
    settle,
    trained_again,
)
from optbench.system.terminal import console

# States of a run that has not been run again to its end.
_OPEN = ("pending", "running", "preempted", "paused")
_DESCRIPTION = f"""\
Run a random part of a sweep's finished runs again, in a scratch folder that is removed afterwards, and compare their histories
and summaries bit for bit with the records, except for times. From the runs of each version of the code, --fraction of them are
taken, but at least {FEWEST}, or all if there are fewer. If all of these agree, the version is recorded in RESULTS/vintages.json
as equal to the current code, so that its runs are not stale; if one differs, such a record is withdrawn. A run without a
recorded version counts as computed by the current code only if it was run again and agrees.

Agreement bit for bit is promised on the same machine with the same versions. Exit status: 0 if all agree, 1 if not.
A command that is stopped tells what has been compared, and records a version as equal only if all its chosen runs were.

In place of a sweep, the folder of a report such as results/landscape can be given: its page holds the command of every run, and
tables/runs the results, with which those of the runs that are trained again are compared. Nothing is recorded then.
"""


def verify(words: Sequence[str]) -> int:
    """`verify SWEEP`: run some of its runs again and compare."""
    parser = Parser(prog="optbench verify", description=_DESCRIPTION)
    parser.add_argument("name", metavar="SWEEP", help="of the sweep, or the folder of a report")
    parser.add_argument("--fraction", default="5%", metavar="SHARE", help="such as 5%% (default) or 0.05")
    parser.add_argument("--run", action="append", metavar="ID", help="only this one (may be given several times)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice (default: 0)")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time (default: one for each core or GPU)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data are (default: where the runs had them)")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    fraction = _fraction(given.fraction)
    if given.workers is not None and given.workers < 1:
        raise UserError(f"--workers {given.workers}: accepted: 1 or more")
    if "/" in given.name and Path(given.name).is_dir():
        return _verify_report(Path(given.name), fraction, given)
    plan = Plan.find(given.results_dir, given.name)
    finished = [run for run in (plan.directory(entry.run_id) for entry in plan.entries()) if run.is_finished]
    named = [_named(name, plan, finished) for name in given.run or ()]
    if not finished:
        raise UserError(f"verify {plan.name}: none of its runs has finished; accepted: a sweep with finished runs")
    chosen = samples(finished, fraction, given.seed, named)
    configs = {run.run_id: configuration.thaw(run) for sample in chosen for run in sample.runs}
    several = [run_id for run_id, config in configs.items() if configuration.Devices.of(config["trainer"]).ranks > 1]
    for run_id in several:
        print(f"{run_id}: was trained by several ranks, which verify does not start; it is left out")
        del configs[run_id]
    chosen = [_without(sample, several) for sample in chosen]
    chosen = [sample for sample in chosen if sample.runs]
    if not configs:
        return 1
    changed = {} if given.data_dir is None else {"data_dir": given.data_dir}
    with computed_again(plan, configs, changed, given.workers) as again:
        # A command that is stopped leaves runs that say nothing about their records.
        ended = [run_id for run_id in configs if again.directory(run_id).status().state not in _OPEN]
        different = {run_id: compare(plan.directory(run_id), again.directory(run_id)) for run_id in ended}
        # The code that the workers imported, as they recorded it: the files may have been edited since.
        codes = {run_id: str((again.directory(run_id).summary() or {}).get("code", "")) for run_id in configs}
    return _report(plan, chosen, codes, different)


def _verify_report(folder: Path, fraction: float, given: argparse.Namespace) -> int:
    """Train some of the runs of a published report again, and compare their results with its table."""
    from optbench.analysis.report.published import is_published, published

    if not is_published(folder):
        raise UserError(
            f"verify {folder}: has no page/commands.parquet and tables/runs.parquet; accepted: a report's folder"
        )
    everything = published(folder)
    if unknown := set(given.run or ()) - {run.run_id for run in everything}:
        raise UserError(f"--run {min(unknown)}: is not a finished run of the report {folder}")
    if given.run:
        chosen = [run for run in everything if run.run_id in given.run]
    else:
        count = min(len(everything), max(FEWEST, math.ceil(fraction * len(everything))))
        chosen = random.Random(given.seed).sample(everything, count)
    if not chosen:
        raise UserError(
            f"verify {folder}: none of its runs has finished and has a command; accepted: a report with such runs"
        )
    by_id, configs = {}, {}
    for run in chosen:
        config = run.config()
        if config["init"].get("source") is not None or configuration.Devices.of(config["trainer"]).ranks > 1:
            print(f"{run.run_id}: starts from another run, or was trained by several ranks; it is left out")
            continue
        run_id = configuration.run_id(config)  # may differ from the published one, if options have other names now
        by_id[run_id], configs[run_id] = run, config
    changed = {} if given.data_dir is None else {"data_dir": given.data_dir}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "values", "", "largest difference"):
        table.add_column(heading, overflow="fold")
    differ = ended = 0
    with trained_again(folder.resolve().name, configs, changed, given.workers) as again:
        for run_id, run in by_id.items():
            if again.directory(run_id).status().state in _OPEN:
                continue
            found, values = run.compare(again.directory(run_id))
            largest = f"{found.largest:.3g}" if found and math.isfinite(found.largest) else ""
            table.add_row(run.run_id, str(values), found.why or "agrees", largest)
            ended, differ = ended + 1, differ + bool(found)
    console().print(table)
    return _said(str(folder), ended, differ, len(chosen) - ended)


def _said(name: str, total: int, differ: int, left: int) -> int:
    """Print the last line; returns the exit status."""
    rest = f", {differ} differ{'s' if differ == 1 else ''}" if differ else ""
    rest += f"; {left} not run again, because the command was stopped" if left else ""
    agree = total - differ
    print(f"{name}: {total} run{'' if total == 1 else 's'} again: {agree} agree{'s' if agree == 1 else ''}{rest}")
    return 1 if differ or left else 0


def _fraction(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(f"--fraction {text}: accepted: more than 0 and at most 100%, such as 5% or 0.05")
    return value


def _named(name: str, plan: Plan, finished: Sequence[RunDirectory]) -> str:
    run_id = find(plan.results_dir, name).run_id
    if run_id not in {run.run_id for run in finished}:
        raise UserError(f"--run {name}: {run_id} is not a finished run of the sweep {plan.name}")
    return run_id


def _without(sample: Sample, left_out: Sequence[str]) -> Sample:
    return Sample(sample.code, tuple(run for run in sample.runs if run.run_id not in left_out), sample.of)


def _report(plan: Plan, chosen: Sequence[Sample], codes: Mapping[str, str], different: Mapping[str, Difference]) -> int:
    """Print the comparison, and record which versions of the code are equal; returns the exit status."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "code", "", "largest difference"):
        table.add_column(heading, overflow="fold")
    compared = [
        _without(sample, [run.run_id for run in sample.runs if run.run_id not in different]) for sample in chosen
    ]
    for sample in compared:
        for run in sample.runs:
            found = different[run.run_id]
            largest = f"{found.largest:.3g}" if math.isfinite(found.largest) else ""
            table.add_row(run.run_id, sample.code, found.why or "agrees", largest if found else "")
    screen = console()
    screen.print(table)
    vintages = Vintages(plan.results_dir)
    for asked, sample in zip(chosen, compared, strict=True):
        # Runs with equal recorded codes have the same modules, and so the same current code.
        now = next((codes[run.run_id] for run in sample.runs if codes[run.run_id]), "")
        # A part of a sample can tell that a code differs, but not that it is equal; of runs of unknown code each is for itself.
        is_part = len(sample.runs) < len(asked.runs) and sample.code != UNKNOWN
        agrees_so_far = not any(different[run.run_id] for run in sample.runs)
        if now and not (is_part and agrees_so_far) and (said := settle(vintages, sample, now, different, plan.name)):
            screen.print(f"{plan.name}: {said}", soft_wrap=True)
    differ = sum(map(bool, different.values()))
    if differ and (elsewhere := _elsewhere(plan, different)):
        screen.print(elsewhere, soft_wrap=True)
    left = sum(len(sample.runs) for sample in chosen) - len(different)
    return _said(plan.name, len(different), differ, left)


def _elsewhere(plan: Plan, different: Mapping[str, Difference]) -> str:
    """A note that some runs that differ were trained on another machine or with other versions; empty if none was."""
    here = {**environment.versions(), "processor": environment.processor(), "platform": platform.platform()}
    found: set[str] = set()
    for run_id in (run_id for run_id, difference in different.items() if difference):
        try:
            then = read_object(plan.directory(run_id).path / "environment.json")
        except (StoreError, FileNotFoundError):
            continue
        versions = then.get("versions")
        then = {**(versions if isinstance(versions, dict) else {}), **then}
        found |= {name for name, value in here.items() if name in then and then[name] != value and name != "optbench"}
    if not found:
        return ""
    return f"runs that differ were trained elsewhere: other {', '.join(sorted(found))}, which may be all that differs"
