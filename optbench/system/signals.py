"""Handle requests to stop: by Ctrl-C, by a scheduler that preempts the job, or before a time limit."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Sent by Ctrl-C; by `kill`, scancel and a preempting Slurm; and, for submitit, by Slurm before a time limit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """The request to this process to stop at a checkpoint, and the ``signal`` that made it, if any.

    Schedulers send several signals, and one that reaches the process group arrives more than once, so that a repeated signal
    has no effect. Only a second Ctrl-C stops at once: it raises KeyboardInterrupt.

    ``error``: the exception of the caller's own callback, if that is the reason.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.error: BaseException | None = None

    def __str__(self) -> str:
        """The origin of the request, such as "SIGTERM" or "on_evaluation (Stop)"; empty if there is none."""
        if self.error is not None:
            return f"on_evaluation ({type(self.error).__name__})"
        return "" if self.signal is None else signal.Signals(self.signal).name

    def listen(self) -> None:
        """Handle the signals from now on; libraries replace handlers, so this may be called again.

        Python allows this only in the main thread: in another thread it does nothing.
        """
        if not _in_main_thread():
            return
        for number in SIGNALS:
            signal.signal(number, self.receive)
        # The parent may have blocked them until this point.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Handle signal ``number``."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Restore the signal handlers that the block replaces."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items() if _in_main_thread() else ():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
