"""Being asked to stop: by Ctrl-C, by a scheduler that wants the machine back, or by one whose time is up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what `kill`, scancel and a preempting Slurm send; what submitit has Slurm send before a time limit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """Whether this process has been asked to stop in order, and by which ``signal``.

    Schedulers send several signals, and one that reaches the process group arrives more than once, so repeating one does
    nothing; only a second Ctrl-C means at once, and raises KeyboardInterrupt.

    ``error``: what the caller's own callback has raised, where that is why this process stops.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.error: BaseException | None = None

    def __str__(self) -> str:
        """Who has asked, such as "SIGTERM" or "on_evaluation (Stop)"; empty while nobody has."""
        if self.error is not None:
            return f"on_evaluation ({type(self.error).__name__})"
        return "" if self.signal is None else signal.Signals(self.signal).name

    def listen(self) -> None:
        """Handle the signals from now on; libraries replace handlers, so this may be called again.

        Python lets only the main thread do so: in another one nothing is handled, and nothing is replaced.
        """
        if not _in_main_thread():
            return
        for number in SIGNALS:
            signal.signal(number, self.receive)
        # A parent may have blocked them until somebody listens.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Handle signal ``number``."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Put back the signal handlers that the block replaces."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items() if _in_main_thread() else ():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
