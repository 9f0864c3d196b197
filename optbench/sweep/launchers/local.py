"""launcher=local: start the workers of a sweep on this machine and show their progress."""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from optbench.config import Config, Devices
from optbench.config.children import environment as environment_of_children
from optbench.errors import UserError, WorkersFailed
from optbench.sweep.plan import Plan
from optbench.sweep.status.activity import left_to_others
from optbench.sweep.status.display import SweepDisplay
from optbench.sweep.worker.events import EventReader, Refused, Warned
from optbench.system import terminal

_REDRAW_SECONDS = 0.5


def check(configs: Sequence[Config]) -> None:
    """Raise UserError for runs that this launcher cannot start."""
    for config in configs:
        devices = Devices.of(config["trainer"])
        if devices.ranks > 1:
            raise UserError(
                f"{devices} in a sweep on this machine: its workers train one rank each; accepted: trainer.devices=1, "
                "launcher=slurm, or one command a run without --multirun"
            )


def launch(
    plan: Plan,
    run_ids: Sequence[str],
    configs: Iterable[Config],
    options: Mapping[str, Any],
    console: Console | None = None,
) -> int:
    """Train ``run_ids`` on this machine; returns the exit status: 0, 1 if some failed, 128 + N if stopped by signal N.

    Raises WorkersFailed if the file system refused a file that the workers wrote, or if they ended by themselves.
    """
    command = _command(configs, options, len(run_ids))
    return _Session(plan, run_ids, command, options["threads"], console or terminal.console()).run()


def launch_search(
    plan: Plan, samples: Iterable[Config], options: Mapping[str, Any], most: int, console: Console | None = None
) -> int:
    """Train the runs that a search chooses, ``most`` at a time, on this machine; otherwise as `launch`."""
    command = _command(samples, options, most)
    return _Session(plan, None, command, options["threads"], console or terminal.console()).run()


def _command(configs: Iterable[Config], options: Mapping[str, Any], most: int) -> list[str]:
    devices = _gpus() if any(config["trainer"]["accelerator"] != "cpu" for config in configs) else []
    workers = min(options["workers"] or _default_workers(options, devices), most)
    command = ["--workers", str(workers), "--max-retries", str(options["max_retries"])]
    command += ["--threads", str(options["threads"])]
    if devices:
        command += ["--devices", ",".join(devices)]
    return command


def _default_workers(options: Mapping[str, Any], devices: Sequence[str]) -> int:
    if devices:
        return int(len(devices) * options["workers_per_device"])
    return int(max(1, len(os.sched_getaffinity(0)) // options["threads"]))


def _gpus() -> list[str]:
    """The names of this machine's GPUs for CUDA_VISIBLE_DEVICES, found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: that of every child process, with the number of ``threads``."""
    environment = environment_of_children() | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    # With this, torch counts GPUs without initializing CUDA, which must not happen before the workers are forked.
    environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    return environment


class _Session:
    """One process of workers, and its display. ``run_ids``: the runs to train; None: those that a search chooses."""

    def __init__(
        self, plan: Plan, run_ids: Sequence[str] | None, command: Sequence[str], threads: int, console: Console
    ) -> None:
        self.plan, self.run_ids = plan, list(run_ids or ())
        reading, writing = os.pipe()
        self._reports = reading
        words = [
            sys.executable,
            "-P",
            "-m",
            "optbench.sweep.worker.process",
            str(plan.results_dir),
            plan.name,
            *command,
        ]
        # A file without a name, which vanishes if this process is killed.
        runs = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed below)
        runs.write("\n".join(self.run_ids).encode())
        runs.seek(0)
        listed = ["--search"] if run_ids is None else ["--runs", f"/dev/fd/{runs.fileno()}"]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process that writes it)
        self._process = subprocess.Popen(
            [*words, "--report-to", str(writing), *listed],
            pass_fds=[writing, runs.fileno()],
            env=worker_environment(threads),
            # Ctrl-C then reaches only this process, which asks the workers to stop.
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )
        runs.close()
        os.close(writing)
        os.set_blocking(reading, False)
        plan.note_job(kind="local", host=os.uname().nodename, pid=self._process.pid)
        self.display = SweepDisplay(console, plan.name, len(self.run_ids))
        self._interrupted: int | None = None
        self._refused = ""
        self._events = EventReader()

    def run(self) -> int:
        """Show the progress until the workers are done; returns the exit status."""
        signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        kept = {number: signal.signal(number, self._ask_to_stop) for number in signals}
        selector = selectors.DefaultSelector()
        selector.register(self._reports, selectors.EVENT_READ)
        try:
            with self.display:
                drawn = 0.0
                while self._read() and self._process.poll() is None:
                    selector.select(timeout=_REDRAW_SECONDS)
                    if time.monotonic() - drawn > _REDRAW_SECONDS:
                        drawn = time.monotonic()
                        self.display.refresh(lambda run_id: self.plan.directory(run_id).progress())
                status = self._process.wait()
                self._read()
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
            selector.close()
            os.close(self._reports)
        self._say_how_it_went(status)
        return 128 + self._interrupted if self._interrupted else min(abs(status), 1)

    def _read(self) -> bool:
        """Read the events reported so far; False once the other end is closed."""
        while True:
            try:
                content = os.read(self._reports, 1 << 16)
            except BlockingIOError:
                return True
            if not content:
                return False
            for event in self._events.read(content):
                if isinstance(event, Refused):
                    self._refused = event.why
                elif isinstance(event, Warned):
                    self.display.console.print(f"optbench: {event.why}", soft_wrap=True)
                self.display.report(event)

    def _ask_to_stop(self, number: int, frame: object) -> None:
        # After the first Ctrl-C, workers have time for a step and a checkpoint; the second kills them.
        if self._interrupted is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            return
        self._interrupted = number
        self._process.terminate()

    def _say_how_it_went(self, status: int) -> None:
        say = self.display.console.print
        say(self.display.summary(), soft_wrap=True)
        if self._interrupted is None:
            for line in left_to_others(self.plan, self.display.not_ended(self.run_ids)):
                say(line, soft_wrap=True)
        with self._said:
            if self._interrupted is not None:
                return
            if self._refused:
                raise WorkersFailed(self._refused)
            if status not in (0, 1) and status <= 128:
                self._said.seek(0)
                last = self._said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise WorkersFailed(f"the workers ended with exit status {status}: {last[0]}")
