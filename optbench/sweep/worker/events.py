"""The events that workers report, each as a line of JSON; only this module writes and reads them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """An event; ``kind`` is its name in the line."""

    kind: ClassVar[str]

    def line(self) -> bytes:
        """The event as a line."""
        return json.dumps({"event": self.kind, **asdict(self)}).encode() + b"\n"


@dataclass(frozen=True)
class OfWorker(Event):
    """An event that a worker reports; the supervisor, which knows its number, fills in ``worker``."""

    worker: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Ready(Event):
    """The given number of workers is about to start."""

    kind = "ready"
    workers: int


@dataclass(frozen=True)
class RunStarted(OfWorker):
    """A worker has taken a run."""

    kind = "start"
    run: str


@dataclass(frozen=True)
class RunEnded(OfWorker):
    """A run has ended in ``state``, after ``seconds`` if its worker was alive at the end."""

    kind = "end"
    run: str
    state: str
    why: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class WorkerCrashed(Event):
    """A worker has crashed; ``run``: the run that it had, if any."""

    kind = "crash"
    worker: int
    run: str | None
    why: str


@dataclass(frozen=True)
class Searched(OfWorker):
    """A worker has asked the search: it has chosen ``chosen`` runs so far, of which ``ended`` have ended.

    answer: in one line, with the cost so far. why: the reason for the end of the search; empty while it goes on.
    """

    kind = "search"
    chosen: int
    ended: int
    answer: str
    why: str = ""


@dataclass(frozen=True)
class Refused(OfWorker):
    """The file system has refused a file of a worker, which stops all workers."""

    kind = "refused"
    why: str


@dataclass(frozen=True)
class Warned(Event):
    """A warning for the display or the log."""

    kind = "warning"
    why: str


class EventReader:
    """Assembles the events of a stream that arrives in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, content: bytes) -> Iterator[Event]:
        """The events that ``content`` completes."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            fields: dict[str, Any] = json.loads(line)
            yield _kind(fields.pop("event"))(**fields)


def _kind(name: str) -> type[Event]:
    kinds = [*Event.__subclasses__(), *OfWorker.__subclasses__()]
    return next(kind for kind in kinds if getattr(kind, "kind", None) == name)
