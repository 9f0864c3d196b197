"""Start and end the mirroring process, in the process of the run."""

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

#: The message from the run's process to the standard input of the mirroring process when the run has ended.
END = b"end\n"
#: The beginning of the line in tracker.log with the outcome of the mirroring.
OUTCOME = "optbench: "

_DEFAULT_TIMEOUT = 60.0
# Variables of an outer wandb run or sweep: with them the mirror would join that run instead of opening its own.
_NOT_INHERITED = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_DIR", "WANDB_NAME")


class Mirror:
    """The run's handle on its mirroring process."""

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
        """The id of the mirroring process, which also leads its own process group; None if it could not be started."""
        return None if self._process is None else self._process.pid

    def finish(self, timeout: float | None = None) -> str | None:
        """Tell the mirror that the run has ended, and wait for it to complete.

        Waits for at most ``timeout`` seconds, by default the tracker's ``finish_timeout``, and then kills the mirror.
        Returns None on success, otherwise a sentence that describes the problem. Never raises for the tracker.
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

    Returns at once and never raises for the tracker. Rows after the checkpoint from which the run resumes, and an earlier
    summary.json, must be removed before, because a summary.json ends the mirror.
    """
    return Mirror(run_directory.resolve(), tracker) if tracker.get("_target_") is not None else None


def sync(run_directory: Path, tracker: Mapping[str, Any], timeout: float = 600.0) -> str:
    """Mirror a whole run again from the store; returns its new place in a sentence.

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
        # For a user without a home folder, trackers would make a folder with the name ~ in the working folder.
        environment["HOME"] = tempfile.gettempdir()
    # -P: a file in the working folder with the name of a module (or the folder ./wandb) must not replace the module.
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
    """Convert the containers of omegaconf to those of JSON, and other values to text."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) else str(value)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Even a killed process remains while its file system does not answer; the run must not wait for that.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)


def _outcome(run_directory: Path) -> str:
    """The line of tracker.log with the outcome of the mirroring, or else its last line."""
    try:
        log = (run_directory / "tracker.log").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"tracker.log: {error}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    outcomes = [line.removeprefix(OUTCOME) for line in lines if line.startswith(OUTCOME)]
    return (outcomes or lines or ["tracker.log is empty"])[-1]
