"""One run that this process trains, and what a command says of it."""

import sys
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.errors import UserError
from optbench.store import RunDirectory, check_writable, tidy
from optbench.system import terminal
from optbench.training.launch_environment import launched

if TYPE_CHECKING:
    from rich.console import Console

    from optbench.training.outcome import Outcome
    from optbench.training.recorder import OnEvaluation


def train_one(config: dict[str, Any]) -> int:
    """Train one resolved configuration, unless it is done; prints its result and returns the exit status."""
    directory = RunDirectory.at(config["results_dir"], configuration.run_id(config))
    console, asked = terminal.console(), configuration.epochs_asked_for(configuration.RunConfig.of(config))
    stale = _of_other_code(directory, config)
    if config["dry_run"]:
        state = directory.status().state if directory.path.is_dir() else "new"
        code = f" ({stale})" if stale else ""
        console.print(f"{directory.run_id}: {state}{code}; dry_run=true starts nothing", soft_wrap=True)
        for line in _estimate(config):
            console.print(line, soft_wrap=True)
        return 0
    outcome = execute_one(config, console, stale=stale)
    if outcome is None:
        note = f" already, {stale}; retry=stale runs it again" if stale else " already; force=true runs it again"
        terminal.print_result(console, directory.summary() or {}, directory.path, note, asked)
        if config["probe"]:
            names = ",".join(config["probe"])
            console.print(
                "probes do not make a run another run: to measure this one as it is, python -m optbench probe "
                f"{directory.run_id} 'probe=[{names}]'",
                soft_wrap=True,
            )
        return 0
    if launched().rank != 0:
        # Rank 0 reports the outcome; a launcher would kill it if this rank returned another status.
        return 1 if outcome.state == "failed" else 0
    if outcome.tracker_problem:
        print(f"optbench: {outcome.tracker_problem}", file=sys.stderr)
    if outcome.summary is not None:
        terminal.print_result(console, outcome.summary, directory.path, epochs_asked_for=asked)
        devices = configuration.Devices.of(config["trainer"])
        if devices.ranks > 1:
            console.print(
                f"trained by {devices.ranks} ranks ({devices}), each with {config['batch'] // devices.ranks} of the "
                f"{config['batch']} examples of a batch",
                soft_wrap=True,
            )
        return 0
    print(f"optbench: {directory.run_id} {outcome.state}: {outcome.why}; files: {directory.path}", file=sys.stderr)
    if outcome.refused:
        return 1
    if outcome.state == "failed":
        print(f"optbench: the traceback is in {directory.log}", file=sys.stderr)
        return 1
    print("optbench: the same command continues it", file=sys.stderr)
    return 128 + outcome.signal if outcome.signal else 1


def _estimate(config: dict[str, Any]) -> list[str]:
    """Describe what a run would take, in lines: memory, the micro-batch, and time as far as earlier runs tell."""
    from optbench.sweep.estimate import estimate

    lines = [estimate(config["results_dir"], [config]).in_words()]
    read = configuration.RunConfig.of(config)
    if read.sorted_shards:
        lines.append(
            f"communication.shards=sorted: the training set is ordered by label and cut in {read.workers}; each worker draws "
            "from its own shard"
        )
    try:
        _require_data(config)
    except UserError as error:
        return [*lines, f"memory and micro_batch are not known before the data are there: {error}"]
    from optbench.training import micro_batch

    chosen = micro_batch.of_dry_run(read)
    return lines if chosen is None else [chosen.describe(), *lines]


def _require_data(config: dict[str, Any]) -> None:
    """Raise UserError, which says how to fetch them, if the data of a run are not there."""
    from optbench.data import fetch

    dataset = config["dataset"]
    fetch.require(configuration.works_as(dataset), config["data_dir"], dataset.get("check_hash", True))


def execute_one(
    config: dict[str, Any],
    console: "Console",
    on_evaluation: "OnEvaluation | None" = None,
    stale: str | None = None,
) -> "Outcome | None":
    """Train one resolved configuration here; returns None if it has already ended and is not to run again.

    ``stale``: the result of `_of_other_code`, if it is known. Raises as `optbench.training.run.execute` does.
    """
    directory = RunDirectory.at(config["results_dir"], configuration.run_id(config))
    if config["retry"] == "stale" and (_of_other_code(directory, config) if stale is None else stale):
        config = {**config, "force": True}
    if directory.is_finished and not config["force"]:
        tidy(directory)
        return None
    check_writable(config["results_dir"])
    _require_data(config)
    # Imported late, because torch takes seconds to import, and Lightning takes longer.
    from optbench.training import run

    return run.execute(config, console, on_evaluation)


def _of_other_code(directory: RunDirectory, config: dict[str, Any]) -> str:
    """Describe the difference between the code that has computed a run and the current code; empty if there is none."""
    from optbench.provenance import Vintages, changed_modules, fingerprints

    vintages = Vintages(config["results_dir"])
    code = (directory.summary() or {}).get("code")
    if directory.is_finished:
        standing = vintages.standing(directory.run_id, code, config)
    else:
        standing = vintages.of_begun(directory, config)
    if standing == "current":
        return ""
    if standing == "unknown":
        return "by code of which no fingerprint was recorded"
    changed = changed_modules(config["results_dir"], fingerprints(code)[-1], vintages.sources.code(config))
    which = f" ({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''} changed)" if changed else ""
    return f"by other code than is there now{which}"
