"""The rendezvous of the ranks of one run: rank 0 writes its address to a file, for which the others wait."""

import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from optbench.errors import UserError
from optbench.store.files import read_object, to_json, write_atomically

# A waiting rank prints a line after this time.
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Meeting:
    """The address of rank 0. ``port`` 0: there is nothing to do, because the run is done or another process has it."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """The host for this process: the loopback address if rank 0 is on the same machine."""
        return "127.0.0.1" if self.host == socket.gethostname() else self.host


def call(path: Path) -> Meeting:
    """Rank 0: choose a free port for this attempt, and write it to ``path``."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        meeting = Meeting(socket.gethostname(), probe.getsockname()[1])
    _write(path, meeting)
    return meeting


def call_off(path: Path) -> Meeting:
    """Rank 0: tell the others that there is nothing to do."""
    meeting = Meeting(socket.gethostname(), 0)
    _write(path, meeting)
    return meeting


def _write(path: Path, meeting: Meeting) -> None:
    write_atomically(path, to_json({"host": meeting.host, "port": meeting.port}))


def attend(path: Path, seconds: float, who: str) -> Meeting:
    """Another rank, ``who``: wait until rank 0 has written ``path``. Raises UserError after ``seconds``."""
    began, told = time.monotonic(), False
    while (waited := time.monotonic() - began) < seconds:
        try:
            return Meeting(**read_object(path))
        except FileNotFoundError:
            if waited > _PATIENCE_SECONDS and not told:
                told = True
                print(f"optbench: {who} waits for rank 0, which writes {path}", file=sys.stderr, flush=True)
            # NFS shows a new file to other hosts once they list the folder again.
            list(path.parent.iterdir())
            time.sleep(0.1)
    raise UserError(
        f"{who} has waited {seconds:.0f} s for rank 0, which has not written {path}; accepted: start all ranks, or a longer "
        "trainer.rendezvous_seconds"
    )
