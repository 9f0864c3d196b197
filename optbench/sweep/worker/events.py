"""The events that workers report: a line of JSON each, written and read here and nowhere else."""

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
    """So many workers are about to start."""

    kind = "ready"
    workers: int


@dataclass(frozen=True)
class RunStarted(OfWorker):
    """A worker has taken a run."""

    kind = "start"
    run: str


@dataclass(frozen=True)
class RunEnded(OfWorker):
    """A run has ended in ``state``, after ``seconds`` where a worker lived to see it."""

    kind = "end"
    run: str
    state: str
    why: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class WorkerDied(Event):
    """A worker has died; ``run``: the one that it had, if any."""

    kind = "death"
    worker: int
    run: str | None
    why: str


@dataclass(frozen=True)
class Refused(OfWorker):
    """The file system has refused what a worker wrote, which stops them all."""

    kind = "refused"
    why: str


@dataclass(frozen=True)
class Warned(Event):
    """Something that whoever watches should know."""

    kind = "warning"
    why: str


class EventReader:
    """Puts together the events of a stream that comes in pieces."""

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
