"""The bench as a library: the same runs, ids and folders as the command line's, from Python.

    import optbench

    run = optbench.run("optimizer=kfac", "model=lenet5", budget={"epochs": 3})
    runs = optbench.sweep("optimizer=adam,momentum", seed=optbench.grid(range(3)), dataset="digits")
    frame = optbench.load()

Words are those of the command line. Keyword arguments are the same settings, after the words: nested mappings are dotted keys,
lists are lists and None is null. Settings that the command line refuses raise `optbench.UserError` with the same message.

`import optbench` is fast: each function imports what it needs, and only training a run imports torch.
"""

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from optbench.analysis.runs import Run, Runs
from optbench.cli import train
from optbench.cli.typed import read
from optbench.config import run_id, search_path
from optbench.config.settings import Grid, grid, words_of
from optbench.errors import Stop, UserError, WorkersFailed
from optbench.store import RunDirectory, StoreError
from optbench.system import terminal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Grid", "Run", "RunFailed", "Runs", "Stop", "StoreError", "UserError", "WorkersFailed", "grid", "load", "run",
           "sweep"]  # fmt: skip

Display = Literal["quiet", "rich"]
_ONE_AT_A_TIME = threading.Lock()
_at_work: int | None = None  # the thread that has the lock


class RunFailed(Exception):
    """Raised if a run failed or could not continue. ``run``: the run so far; its traceback is in ``run.log``."""

    def __init__(self, run: Run, why: str) -> None:
        super().__init__(f"{run.run_id}: {why}; the log is {run.log}")
        self.run, self.why = run, why


def run(
    *words: str,
    display: Display = "quiet",
    on_evaluation: Callable[[int, dict[str, Any]], object] | None = None,
    **settings: Any,
) -> Run:
    """Train one configuration in this process, or continue it; returns at once if it is done.

        run = optbench.run("optimizer=adam", "dataset=digits", budget={"epochs": 3}, optimizer={"learning_rate": 0.01})
        run.state, run.metric, run.summary["test_loss"], run.history()

    display: "quiet" prints nothing; "rich" shows progress as the command line does.
    on_evaluation: called on rank 0 with the step and the row of every evaluation that this call records. An exception that it
        raises (`optbench.Stop`, optuna's TrialPruned, or any other) stops the run at a checkpoint, from which the same call
        continues it, and is raised here. After its last evaluation a run is done, and is not stopped.

    A run that diverges is a result: its state is "diverged", and its metric is the worst possible. With ``dry_run=True`` the
    run is checked and named, and nothing is written. With ``launcher="slurm"`` it is submitted and pending.

    Raises UserError for a configuration that cannot run, before anything starts, and if another process has the run; and
    RunFailed, with the reason and the log, for a run that fails. Ctrl-C stops it at a checkpoint and raises
    KeyboardInterrupt; other signals that ask it to stop are delivered again once it has stopped. Only one run trains at a
    time: calls from other threads wait.

    An objective for Optuna, which maximizes the accuracy and prunes poor trials (Hydra's sweepers also use
    ``float(run)``):

        def objective(trial):
            def report(step, row):
                trial.report(row["validation_accuracy"], step)
                if trial.should_prune():
                    raise optuna.TrialPruned

            rate = trial.suggest_float("learning_rate", 1e-4, 1, log=True)
            return float(optbench.run("dataset=digits", optimizer={"learning_rate": rate}, on_evaluation=report))

        study = optuna.create_study(direction="maximize")
        study.optimize(objective, n_trials=20)
    """
    with _alone():
        console = _console(display)
        with _hydra_kept():
            typed = read(_words(words, settings))
        _warn(typed.warning)
        config = typed.composed
        directory = RunDirectory.at(config["results_dir"], run_id(config))
        found = Run(directory, config)
        if typed.is_submitted:
            if on_evaluation is not None:
                raise UserError(
                    f"on_evaluation: launcher={config['launcher']['name']} trains in another process; accepted: launcher=local"
                )
            from optbench.sweep import launch

            launch.submit_one(config, typed.overrides, console)
            return found
        if config["dry_run"]:
            return found
        with _torch_kept():
            outcome = train.execute_one(config, console, on_evaluation)
    if outcome is None or outcome.state in ("done", "diverged"):
        _warn(outcome.tracker_problem if outcome is not None else None)
        return found
    if outcome.state == "preempted" and outcome.signal is not None:
        signal.raise_signal(outcome.signal)  # for the caller's handlers
        return found
    raise RunFailed(found, f"{outcome.state}: {outcome.why}")


def sweep(*words: str, display: Display = "quiet", **settings: Any) -> Runs:
    """Train every combination of the words by warm workers on this machine, or by the chosen launcher.

        runs = optbench.sweep("optimizer=adam,momentum", "seed=0,1", dataset="digits", budget={"epochs": 3})
        runs = optbench.sweep(experiment="scaling_rules", scale="smoke")
        runs.frame().groupby("optimizer")["test_accuracy"].mean()

    Words are read as after -m. In keyword arguments `optbench.grid` gives alternatives, ``seed=optbench.grid(range(3))``;
    text and lists are single values. Finished runs are skipped, and interrupted ones resume. Runs that fail or diverge are
    among the returned ones: ``runs.states`` counts them. With ``launcher="slurm"`` they are submitted and pending; with
    ``dry_run=True`` they are checked and named, and nothing is written.

    Raises UserError for a configuration that cannot run, before anything starts, and `optbench.WorkersFailed` if the workers
    ended before the runs. Ctrl-C lets every worker write a checkpoint, and raises KeyboardInterrupt.
    """
    with _alone():
        console = _console(display)
        with _hydra_kept():
            typed = read(["--multirun", *_words(words, settings)])
        _warn(typed.warning)
        from optbench.sweep import launch
        from optbench.sweep.grid.expand import Expansion

        started = launch.sweep(typed.composed, typed.overrides, typed.experiment, console)
    if started.status > 128:
        signal.raise_signal(started.status - 128)
    if not isinstance(typed.composed, Expansion):  # a search: the runs that it has chosen
        return (
            Runs.find(started.plan.name, started.plan.results_dir)
            if started.plan.exists
            else Runs([], started.plan.results_dir)
        )
    configs = (cell.config for cell in typed.composed.cells)
    planned = [Run(RunDirectory.at(config["results_dir"], run_id(config)), config) for config in configs]
    return Runs(planned, started.plan.results_dir, started.plan.name)


def load(
    results_dir: str | Path = "results", runs: Iterable[str] | None = None, sweep: str | None = None
) -> "pd.DataFrame":
    """All runs of a results folder, finished or not, one row for each; or only ``runs`` (ids), or those of the ``sweep``.

    The columns are described at `optbench.store.load`. Raises UserError if there is no such run or sweep.
    """
    from optbench import store

    if sweep is not None:
        if runs is not None:
            raise UserError(f"load: runs and sweep={sweep} are both given; accepted: one of them")
        return Runs.find(sweep, results_dir).frame()
    return store.load(results_dir, runs)


# ---- the caller's state -----------------------------------------------------------------------------------------------------


def _words(words: Iterable[str], settings: dict[str, Any]) -> list[str]:
    """The words and settings as words of the command line; raises UserError for options of the command."""
    checked = []
    for word in words:
        if not isinstance(word, str) or (word.startswith("-") and not word.startswith("--config-dir")):
            raise UserError(
                f"{word}: is no setting; accepted: words such as optimizer=adam, keyword arguments, and '--config-dir=DIR'; "
                "what has several values is for optbench.sweep"
            )
        checked.append(word)
    return [*checked, *words_of(settings)]


def _console(display: str) -> Console:
    if display == "quiet":
        return Console(file=io.StringIO(), quiet=True)
    if display == "rich":
        return terminal.console()
    raise UserError(f"display={display!r}: accepted: quiet, rich")


def _warn(line: str | None) -> None:
    if line:
        warnings.warn(line, stacklevel=3)


@contextmanager
def _alone() -> Iterator[None]:
    """Run one call at a time: the state of Hydra and the generators and switches of torch belong to the process.

    Folders of choices that a call names, as by --config-dir, hold for that call only.
    """
    global _at_work
    if _at_work == threading.get_ident():
        raise UserError("optbench.run and optbench.sweep cannot be called by on_evaluation; accepted: after the run")
    with _ONE_AT_A_TIME:
        _at_work = threading.get_ident()
        try:
            with search_path.forgotten_afterwards():
                yield
        finally:
            _at_work = None


@contextmanager
def _hydra_kept() -> Iterator[None]:
    """Restore Hydra's state, which composing changes, for a caller that is a Hydra application."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    kept, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    variable = os.environ.get("HYDRA_FULL_ERROR")
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = kept, config
        if variable is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = variable


@contextmanager
def _torch_kept() -> Iterator[None]:
    """Restore the generators and the switches of torch, if the caller has imported it."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    cudnn = torch.backends.cudnn
    switches = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    precision = torch.get_float32_matmul_precision()
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = switches
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
