"""Supervise workers: fork them from one warm process, replace those that die, and pass on their events."""

import os
import selectors
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from optbench.sweep.worker.events import Event, EventReader, OfWorker, RunEnded, RunStarted, WorkerCrashed
from optbench.system.signals import SIGNALS, Stop

Report = Callable[[Event], None]

# Exit statuses of a worker, and of the supervisor.
ALL_WELL, SOME_FAILED, REFUSED = 0, 1, 3
# The exit status of a worker that must be replaced.
TO_BE_RENEWED = 4
# A worker that dies before it has taken a run is tried again this often in a row.
_IDLE_CRASHES = 2


@dataclass
class _Worker:
    number: int
    pid: int
    pipe: int
    run: str | None = None  # the run that it trains
    took: bool = False  # whether it has ever taken a run
    events: EventReader = field(default_factory=EventReader, repr=False)


class Supervisor:
    """Runs ``work(number, report)`` in ``workers`` forked processes until each of them has returned its exit status.

    A worker reports `RunStarted` and `RunEnded`; these events, and those of the supervisor, go to ``report``. If a worker
    dies, ``record_crash(run, why)`` decides what happens to its run, and a new worker replaces it. ``stop``: once it has
    received a signal, all workers are asked to stop. Workers are forked with the signals blocked, until they listen with a
    `Stop` of their own.

    The calling process must not have initialized CUDA nor started threads.
    """

    def __init__(
        self,
        work: Callable[[int, Report], int],
        workers: int,
        report: Report,
        record_crash: Callable[[str, str], str],
        stop: Stop,
    ) -> None:
        self._work, self._count, self._report, self._record_crash, self._stop = (
            work,
            workers,
            report,
            record_crash,
            stop,
        )
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Worker] = {}
        self._idle_crashes: Counter[int] = Counter()  # in a row, by the worker's number
        self._status = ALL_WELL

    def run(self) -> int:
        """Returns 0, 1 if some run failed, 3 if the file system refused, or 128 + N when stopped by signal N."""
        told = False
        try:
            for number in range(self._count):
                self._start(number)
            while self._workers:
                for key, _ in self._selector.select(timeout=0.2):
                    self._read(self._workers[key.data])
                if self._stop.signal is not None and not told:
                    told = True
                    self._signal(signal.SIGTERM)
                self._reap()
        except BaseException:
            self._signal(signal.SIGKILL)
            raise
        if self._stop.signal is not None:
            return 128 + self._stop.signal
        return self._status

    def _start(self, number: int) -> None:
        reading, writing = os.pipe()
        # Signals are blocked until the child listens; the handlers that it inherits would lose them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            # If a worker held the reading end of a pipe, the pipe would not break when the supervisor is gone.
            for inherited in (reading, *(worker.pipe for worker in self._workers.values())):
                os.close(inherited)
            self._selector.close()
            _be_worker(self._work, number, writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writing)
        os.set_blocking(reading, False)
        self._workers[number] = _Worker(number, pid, reading)
        self._selector.register(reading, selectors.EVENT_READ, number)

    def _signal(self, number: int) -> None:
        for worker in self._workers.values():
            os.kill(worker.pid, number)  # not reaped yet, so that its process id cannot have been reused

    def _read(self, worker: _Worker) -> None:
        while True:
            try:
                content = os.read(worker.pipe, 1 << 16)
            except BlockingIOError:
                return
            if not content:
                self._selector.unregister(worker.pipe)
                return
            for event in worker.events.read(content):
                self._take_note(worker, event)

    def _take_note(self, worker: _Worker, event: Event) -> None:
        if isinstance(event, RunStarted):
            worker.run, worker.took = event.run, True
            del self._idle_crashes[worker.number]
        elif isinstance(event, RunEnded):
            worker.run = None
            self._count_end(event.state)
        self._report(replace(event, worker=worker.number) if isinstance(event, OfWorker) else event)

    def _count_end(self, state: str) -> None:
        if state == "failed":
            self._status = max(self._status, SOME_FAILED)

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid == 0:
                continue
            if worker.pipe in self._selector.get_map():
                self._read(worker)
            if worker.pipe in self._selector.get_map():
                self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            del self._workers[worker.number]
            self._settle(worker, os.waitstatus_to_exitcode(status))

    def _settle(self, worker: _Worker, code: int) -> None:
        if code == REFUSED:
            self._status = REFUSED
            self._stop_for_good()
        elif code == TO_BE_RENEWED:
            self._start_again(worker.number)
        elif code in (ALL_WELL, SOME_FAILED) or code > 128:
            if self._status != REFUSED:
                self._status = max(self._status, code)
        else:
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"crashed with exit status {code}"
            if code == -signal.SIGKILL:
                why += " (out of memory?)"
            self._report(WorkerCrashed(worker.number, worker.run, why))
            if worker.run is not None:
                state = self._record_crash(worker.run, f"its process was {why}" if code < 0 else f"its process {why}")
                if state == "failed":
                    self._count_end(state)
                    self._report(RunEnded(worker.run, state, why, worker=worker.number))
            if not worker.took:
                self._idle_crashes[worker.number] += 1
            if self._idle_crashes[worker.number] > _IDLE_CRASHES:
                self._status = max(self._status, SOME_FAILED)
            else:
                self._start_again(worker.number)

    def _start_again(self, number: int) -> None:
        if self._stop.signal is None and self._status != REFUSED:
            self._start(number)

    def _stop_for_good(self) -> None:
        # If the file system refuses one worker, it refuses the others as well; they stop at a checkpoint.
        self._signal(signal.SIGTERM)


def _be_worker(work: Callable[[int, Report], int], number: int, pipe: int) -> None:
    """Run a forked child; it ends here and never returns to the code of its parent."""
    code = 70
    try:
        parent = os.getppid()

        def report(event: Event) -> None:
            line = memoryview(event.line())
            try:
                while line:
                    line = line[os.write(pipe, line) :]
            except BrokenPipeError:
                if os.getppid() != parent:
                    # The supervisor is gone, so that no process would receive reports or stop this worker: this run is the last.
                    os.kill(os.getpid(), signal.SIGTERM)

        code = work(number, report)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
