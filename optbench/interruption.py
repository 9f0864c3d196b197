"""Being asked to stop: by Ctrl-C, by a scheduler that wants the machine back, or by one whose time is up."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what `kill`, scancel and a preempting Slurm send; what submitit has Slurm send before a time limit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """Whether this process has been asked to stop in order, and by which ``signal``.

    Schedulers send several signals, and one that reaches the process group arrives more than once, so repeating one does
    nothing; only a second Ctrl-C means at once, and raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def listen(self) -> None:
        """Handle the signals from now on; libraries replace handlers, so this may be called again."""
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
        for number, handler in kept.items():
            signal.signal(number, handler)
