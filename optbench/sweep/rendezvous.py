"""How the ranks of one run find each other: rank 0 writes its address to a file that the others wait for."""

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from optbench.store.files import read_object, to_json, write_atomically


@dataclass(frozen=True)
class Meeting:
    """Where rank 0 listens. ``port`` 0: there is nothing to do, because the run is done or in other hands."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """The host as this process reaches it: over the loopback where both are on one machine."""
        return "127.0.0.1" if self.host == socket.gethostname() else self.host


def call(path: Path) -> Meeting:
    """Rank 0: choose a free port for this attempt, and say so in ``path``."""
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


def attend(path: Path, seconds: float) -> Meeting:
    """Another rank: wait until rank 0 has written ``path``. Raises TimeoutError after ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            return Meeting(**read_object(path))
        except FileNotFoundError:
            # NFS shows a new file to other hosts once they look at the folder again.
            list(path.parent.iterdir())
            time.sleep(0.1)
    raise TimeoutError(f"rank 0 has not written {path} within {seconds:.0f} s")
