"""Starts and ends the mirroring process from the side of the run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optbench.config.children import environment as environment_of_children
from optbench.errors import UserError
from optbench.store import RunDirectory, StoreError
from optbench.system.home import at_home
from optbench.trackers.base import tracker_class
from optbench.trackers.wandb_login import USERS_DIR

#: What the run's process writes to the standard input of the mirroring process when the run has ended.
END = b"end\n"
#: The line of tracker.log that says how the mirroring went starts with this.
OUTCOME = "optbench: "

_DEFAULT_TIMEOUT = 60.0
# Of a wandb run or sweep around this process: the mirror would join it instead of opening the run's own.
_NOT_INHERITED = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_DIR", "WANDB_NAME")


class Mirror:
    """The mirroring process of one run, as the run sees it."""

    def __init__(self, run_directory: Path, tracker: Mapping[str, Any]) -> None:
        self._run_directory = run_directory
        self._name = tracker.get("name", "mirror")
        self._timeout = float(tracker.get("finish_timeout", _DEFAULT_TIMEOUT))
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: str | None = None
        try:
            self._process = _spawn(run_directory, tracker, follow=True)
        except (OSError, StoreError) as error:
            self._problem = f"could not be started ({error})"

    @property
    def pid(self) -> int | None:
        """The mirroring process, which also leads a process group of its own; None if it could not be started."""
        return None if self._process is None else self._process.pid

    def finish(self, timeout: float | None = None) -> str | None:
        """Say that the run has ended and wait for the mirror to complete.

        Waits for at most ``timeout`` seconds, by default the tracker's ``finish_timeout``, and then kills the mirror.
        Returns None if all is well, or else one sentence that says what went wrong. Never raises for the tracker.
        """
        timeout = self._timeout if timeout is None else timeout
        problem = self._problem
        if self._process is not None:
            try:
                self._process.communicate(END, timeout)
            except subprocess.TimeoutExpired:
                _kill(self._process)
                problem = f"was not done {timeout:g} s after the run and was stopped"
            else:
                if self._process.returncode != 0:
                    _kill(self._process)
                    problem = f"failed ({_outcome(self._run_directory)})"
        if problem is None:
            return None
        return f"tracker={self._name} {problem}; `python -m optbench sync {self._run_directory.name}` mirrors it again"


def start(run_directory: Path, tracker: Mapping[str, Any]) -> Mirror | None:
    """Start mirroring the run in ``run_directory`` to ``tracker``; None if it names no tracker (tracker=none).

    Returns at once and never raises for the tracker. What the run is about to drop, rows beyond the checkpoint that it
    resumes from and a summary.json of an earlier life, must be gone before: a summary.json ends the mirror.
    """
    return Mirror(run_directory.resolve(), tracker) if tracker.get("_target_") is not None else None


def sync(run_directory: Path, tracker: Mapping[str, Any], timeout: float = 600.0) -> str:
    """Mirror a run again from the store, whole, and say where to.

    Raises UserError if the tracker fails or takes longer than ``timeout`` seconds.
    """
    run_directory = run_directory.resolve()
    name = tracker.get("name", "mirror")
    if tracker_class(tracker) is None:
        return f"{run_directory.name}: tracker={name} mirrors nothing"
    process = _spawn(run_directory, tracker, follow=False)
    try:
        process.communicate(b"", timeout)
    except subprocess.TimeoutExpired as error:
        message = f"{run_directory.name}: tracker={name} was not done after {timeout:g} s and was stopped"
        raise UserError(message) from error
    finally:
        if process.returncode != 0:
            _kill(process)
    if process.returncode != 0:
        raise UserError(f"{run_directory.name}: tracker={name} failed ({_outcome(run_directory)})")
    return _outcome(run_directory)


def _spawn(run_directory: Path, tracker: Mapping[str, Any], follow: bool) -> subprocess.Popen[bytes]:
    RunDirectory(run_directory).check_links()
    environment = {key: value for key, value in environment_of_children().items() if key not in _NOT_INHERITED}
    environment["OMP_NUM_THREADS"] = "1"
    if "WANDB_DIR" in os.environ:
        environment[USERS_DIR] = os.environ["WANDB_DIR"]
    if at_home("~") == "~":
        # A user without a home folder: trackers would make a folder of the name ~ wherever they are.
        environment["HOME"] = tempfile.gettempdir()
    # -P: a file in the working folder that is named like a module (or its ./wandb) must not stand in for the module.
    command = [sys.executable, "-P", "-m", "optbench.trackers.mirror", str(run_directory)]
    command += ["--tracker", json.dumps(tracker, default=_plain), "--parent", str(os.getpid())]
    with (run_directory / "tracker.log").open("wb") as log:
        return subprocess.Popen(
            command + ["--follow"] * follow,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _plain(value: object) -> Any:
    """The containers of omegaconf as those of JSON; anything else as text."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) else str(value)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Even a killed process stays while its file system does not answer; that must not hold up the run.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)


def _outcome(run_directory: Path) -> str:
    """The line of tracker.log that says how the mirroring went, or else its last one."""
    try:
        log = (run_directory / "tracker.log").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"tracker.log: {error}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    outcomes = [line.removeprefix(OUTCOME) for line in lines if line.startswith(OUTCOME)]
    return (outcomes or lines or ["tracker.log is empty"])[-1]
