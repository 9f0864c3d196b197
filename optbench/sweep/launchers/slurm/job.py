"""One Slurm job: it starts the workers of a sweep, watches them, and reports their result.

submitit unpickles a `Job` in the allocation, calls it, and handles the signals: on SIGUSR2, which Slurm sends before the time
limit, it calls `Job.checkpoint` and requeues. The job only watches its child process, so nothing here imports torch.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from optbench.store.claims import record_lost_rank
from optbench.sweep.launchers.local import worker_environment
from optbench.sweep.plan import Plan
from optbench.sweep.worker.events import Event, EventReader, Refused, RunEnded, RunStarted, Searched, WorkerCrashed

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

# If the workers end after a signal, it came from Slurm, which then ends the job or lets submitit requeue it. Until that
# happens, the job waits for this time.
_LINGER_SECONDS = 120.0
_LOOK_SECONDS = 0.1
# A worker that is still importing when the signal comes is killed by it, before it has a run.
_STOPS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
_SHOWN_RUNS = 10
# If a rank is killed while the run trains, rank 0 loses the connection, and releases the run's lock within this time.
_LOCK_SECONDS = 15.0


class JobFailed(RuntimeError):
    """Raised by a job so that Slurm marks it FAILED; the message names the failed runs, or the reason of the failure."""


@dataclass
class Job:
    """One job of a sweep: plain data that can be pickled, and a callable.

    runs: the file with the ids of all runs of its array; the job trains at most ``limit`` of them, beginning at ``first``.
    search: its workers choose their runs themselves. Or run: the one run that its tasks train together, each of them as one rank.
    """

    results_dir: str
    name: str
    runs: str = ""
    first: int = 0
    limit: int = 0
    run: str = ""
    search: bool = False
    workers: int = 1
    cpus: int = 1
    gpus: int = 0
    max_retries: int = 1
    signal_delay: int = 90
    _child: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False, compare=False)
    _failed: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _refused: str = field(default="", init=False, repr=False, compare=False)

    def __call__(self) -> None:
        """Start the workers and wait for them; raises `JobFailed` unless all their runs ended as done or diverged."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        words = [
            sys.executable,
            "-P",
            "-m",
            "optbench.sweep.worker.process",
            self.results_dir,
            self.name,
            *self._words(),
        ]
        self._child = subprocess.Popen(
            [*words, "--report-to", str(writing)],
            pass_fds=[writing],
            env=worker_environment(self._threads),
            stdin=subprocess.DEVNULL,
        )
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as reports:
            events = EventReader()
            while True:
                code = _exit_code(self._child)  # before the last read, so that no event is missed
                for event in events.read(reports.read() or b""):
                    self._note(event)
                if code is not None:
                    break
                time.sleep(_LOOK_SECONDS)
        stopped = next((number for number in _STOPS if code in (128 + number, -number)), None)
        if stopped is not None:
            self._linger(stopped)
        elif code != 0:
            raise JobFailed(self._what_went_wrong(code))

    def checkpoint(self) -> "DelayedSubmission":
        """Stop the workers, which write a checkpoint of each run; returns this job, for submitit to requeue."""
        from submitit.helpers import DelayedSubmission

        until = time.monotonic() + max(self.signal_delay - 10, 1)
        told = False
        while self._child is not None and _exit_code(self._child) is None and time.monotonic() < until:
            if not told:
                # Slurm may already have signalled every process of the job; a second signal is harmless.
                os.kill(self._child.pid, signal.SIGUSR2)
                told = True
            time.sleep(_LOOK_SECONDS)
        return DelayedSubmission(replace(self))

    @property
    def _threads(self) -> int:
        return max(1, self.cpus // self.workers)

    def _words(self) -> list[str]:
        words = ["--max-retries", str(self.max_retries), "--threads", str(self._threads)]
        if self.run:
            environment = os.environ
            attempt = f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"
            meeting = Plan(self.results_dir, self.name).path / "jobs" / f"rendezvous-{attempt}-{self.run}"
            words += ["--run", self.run, "--rank", str(_rank()), "--local-rank", environment["SLURM_LOCALID"]]
            return [*words, "--world", environment["SLURM_NTASKS"], "--rendezvous", str(meeting)]
        if self.search:
            words += ["--search", "--first", str(self.first)]
        else:
            words += ["--runs", self.runs, "--first", str(self.first), "--limit", str(self.limit)]
        words += ["--workers", str(self.workers)]
        if self.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(number) for number in range(self.gpus))
            words += ["--devices", visible]
        return words

    def _note(self, event: Event) -> None:
        """Handle an event of the workers, and print it to the job's log."""
        match event:
            case RunStarted():
                print(f"{event.run}: worker {event.worker} starts", flush=True)
            case RunEnded():
                why = f": {event.why}" if event.why else ""
                print(f"{event.run}: {event.state}{why}", flush=True)
                if event.state == "failed":
                    self._failed[event.run] = event.why
            case Searched():
                print(f"search: {event.answer}{f'; over: {event.why}' if event.why else ''}", flush=True)
            case WorkerCrashed():
                print(f"worker {event.worker}: {event.why}", flush=True)
            case Refused():
                self._refused = event.why

    def _linger(self, number: signal.Signals) -> None:
        if _rank() != 0:
            return  # rank 0 decides the outcome of the job
        until = time.monotonic() + _LINGER_SECONDS
        while time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        raise JobFailed(
            f"the workers were stopped by {number.name}, and the job was neither requeued nor ended after that"
        )

    def _what_went_wrong(self, code: int) -> str:
        if code < 0:
            why = f"was killed by {signal.Signals(-code).name}"
            if not self.run:
                return f"the process of the workers {why}"
            why = f"rank {_rank()} {why}"
            record_lost_rank(Plan(self.results_dir, self.name).directory(self.run), why, _LOCK_SECONDS)
            return f"{self.run}: {why}"
        if self._refused:
            return self._refused
        if self.run and code == 1:
            return f"{self.run}: failed: {Plan(self.results_dir, self.name).directory(self.run).status().why}"
        if self._failed:
            shown = [f"{run}: {why}" if why else run for run, why in list(self._failed.items())[:_SHOWN_RUNS]]
            more = f" and {len(self._failed) - _SHOWN_RUNS} more" if len(self._failed) > _SHOWN_RUNS else ""
            return f"{len(self._failed)} of its runs failed: {'; '.join(shown)}{more}"
        return f"the workers ended with exit status {code}; what they said is above"


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", "0"))


def _exit_code(child: "subprocess.Popen[bytes]") -> int | None:
    """The exit status of ``child``, negative if a signal killed it; None while it lives.

    Popen's own methods share a lock, which a signal handler cannot take if it has interrupted one of them.
    """
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
