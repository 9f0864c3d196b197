"""One writer per run: a lock file with a heartbeat, which others take over when its holder is gone.

The lock is a hard link to a file that names its holder, so that it appears whole and for one process only, on local
file systems and on NFS alike; where there are no hard links it is created exclusively. The holder touches it every few
seconds. It is abandoned when it has not been touched for long by the file server's own clock, or when its process on
this very machine is gone. A clock that was set back leaves a heartbeat in the future, which would look young for as long:
whoever finds one touches the lock himself, and from then on it ages unless its holder lives.

Removing an abandoned lock is the delicate part: two processes may find the same one, and the slower must not remove
the new lock of the faster. Every lock carries a token that is never used again, and it may be removed only by the
holder of the claim on that token. A claim is a hard link as well, numbered: claim 0 is open to anybody, claim k + 1
only when the holder of claim k is gone. No claim is removed before the lock that it is about, so each is given once.
What no lock file can rule out is a process that sleeps for `stale_after` and wakes up between two system calls; for
that, a holder notices at its next heartbeat when its lock is gone (`RunLock.lost`).
"""

import errno
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import TracebackType

from optbench.errors import UserError
from optbench.store.files import StoreError, link, reporting
from optbench.store.processes import is_gone, process_of, this_machine


class RunLocked(UserError):
    """Another process holds the lock. ``host``, ``pid`` and ``age``, the seconds since its last heartbeat, say who."""

    def __init__(self, message: str, host: str = "", pid: int = 0, age: float = 0.0):
        super().__init__(message)
        self.host = host
        self.pid = pid
        self.age = age


@dataclass(frozen=True)
class _Holder:
    """What a lock file says about its holder.

    machine: which boot of which machine, and which process-id namespace there, ``pid`` belongs to. Containers on
        different machines often share a host name, and containers on one machine do not see each other's processes.
    started: when the process started, in clock ticks since boot, because process ids are used again.
    """

    host: str
    machine: str
    pid: int
    started: str | None
    token: str

    @classmethod
    def this_process(cls) -> "_Holder":
        process = process_of(os.getpid())
        return cls(
            host=os.uname().nodename,
            machine=this_machine(),
            pid=os.getpid(),
            started=process[1] if process else None,
            token=os.urandom(16).hex(),
        )

    def is_gone(self) -> bool:
        """Whether the holder is known to be dead; False when it cannot be known from here."""
        if (self.host, self.machine) != (os.uname().nodename, this_machine()):
            return False
        return is_gone(self.pid, self.started)


@dataclass(frozen=True)
class _Seen:
    """A lock file as it was found: its holder, None when unreadable; its last heartbeat; what tells it from others."""

    holder: _Holder | None
    touched: float
    identity: str


def _look(path: Path) -> _Seen | None:
    # Opening the file makes NFS ask the server for its current times, which stat alone may take from a cache.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
    try:
        return _look_at(descriptor)
    finally:
        os.close(descriptor)


def _look_at(descriptor: int) -> _Seen:
    status = os.fstat(descriptor)
    try:
        holder = _Holder(**json.loads(os.read(descriptor, 1 << 16)))
        if not (type(holder.pid) is int and 0 < holder.pid < 2**31):
            raise ValueError("no process id")
        return _Seen(holder, status.st_mtime, str(holder.token))
    except (ValueError, TypeError):
        return _Seen(None, status.st_mtime, f"unreadable-{status.st_ino}-{status.st_mtime_ns}")


@dataclass(frozen=True)
class Held:
    """Who holds a lock.

    host, pid: its process; "unknown host" and 0 when the file is damaged.
    age: seconds since its last heartbeat, by this host's clock; 0 where that is yet to come.
    abandoned: whether the next process that asks for the lock is going to be given it.
    """

    host: str
    pid: int
    age: float
    abandoned: bool


def look(path: str | Path, stale_after: float = 60.0) -> Held | None:
    """Who holds the lock ``path``, or None when nobody does; touches nothing, and so works on a read-only folder too.

    It asks this host's clock, where `RunLock` asks the file server's: it informs, and decides nothing. Raises
    `optbench.store.StoreError` when the file cannot be read.
    """
    with reporting("read", Path(path)):
        seen = _look(Path(path))
    if seen is None:
        return None
    since = time.time() - seen.touched
    age = max(0.0, since)
    # A heartbeat far in the future tells no more than one long ago.
    abandoned = abs(since) > stale_after
    if seen.holder is None:
        return Held("unknown host", 0, age, abandoned)
    return Held(seen.holder.host, seen.holder.pid, age, abandoned or seen.holder.is_gone())


class RunLock:
    """A lock on ``path`` for one process at a time, on any host that shares the file system.

    Use it as a context manager. Entering raises `RunLocked` when another process (or object) holds the lock, and
    `optbench.store.StoreError` when the folder cannot be written. It is never waited for. Where the block raises and the
    lock cannot be given back either, the error of the block is raised.

    ``heartbeat``: every how many seconds the holder touches the file.
    ``stale_after``: a lock untouched for as many seconds is taken over. A holder on this machine that has died, or
    whose process id now belongs to another process, is not waited for.
    ``lost``: an event, set when a heartbeat finds that the lock is gone or somebody else's: stop writing.

    A forked child does not hold its parent's lock: leaving the context there does nothing.
    """

    def __init__(self, path: str | Path, heartbeat: float = 10.0, stale_after: float = 60.0):
        if not 0 < heartbeat < stale_after:
            raise ValueError(f"needs 0 < heartbeat < stale_after, got {heartbeat} and {stale_after}")
        self.path = Path(path)
        self.heartbeat = heartbeat
        self.stale_after = stale_after
        self.lost = threading.Event()
        self._holder: _Holder | None = None
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
        except StoreError:
            # On a disk that went away or became read-only both fail, and the block's error names the write that was lost.
            if error is None:
                raise

    def given_back(self) -> ExitStack:
        """A context for a block that has the lock already, left like ``with`` the lock; its `pop_all` keeps the lock."""
        stack = ExitStack()
        stack.push(self)
        return stack

    @contextmanager
    def waited_for(self, seconds: float) -> Iterator[None]:
        """Take the lock as soon as its holder gives it back, for the block; raise `RunLocked` after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            try:
                self.acquire()
                break
            except RunLocked:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        with self.given_back():
            yield

    def acquire(self) -> None:
        """Take the lock or raise `RunLocked`."""
        holder = _Holder.this_process()
        own_file = self._beside(holder.token, "new")
        with reporting("lock", self.path):
            try:
                own_file.write_text(json.dumps(asdict(holder)))
                while not link(own_file, self.path):
                    self._make_room(own_file)
            finally:
                own_file.unlink(missing_ok=True)
        self._holder = holder
        self.lost.clear()
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat of {self.path}", daemon=True)
        self._thread.start()
        self._remove_litter(holder.token)

    def release(self) -> None:
        """Give the lock back, if this process still holds it."""
        holder = self._holder
        if holder is None or holder.pid != os.getpid():
            return
        self._holder = None
        self._released.set()
        if self._thread is not None:
            self._thread.join()
        with reporting("unlock", self.path):
            seen = _look(self.path)
            if seen is None or seen.identity != holder.token:
                self.lost.set()
                return
            try:
                self._remove(holder.token, source=self.path, only_abandoned=False)
            except (RunLocked, FileNotFoundError):
                self.lost.set()  # it is being taken over at this moment

    def _remove_litter(self, own_token: str) -> None:
        """Remove the files by which processes took or gave back the lock and died; for its holder.

        A claim on an earlier lock decides nothing while this one is there, and files of the living are left alone.
        """
        own = re.compile(rf"\.{re.escape(self.path.name)}\.([^.]+)\.(new|old|claim\d+)")
        with suppress(OSError):  # no reason to refuse the lock
            for path in self.path.parent.iterdir():
                match = own.fullmatch(path.name)
                if match is None or match[1] == own_token:
                    continue
                seen = _look(path)
                if seen is not None and self._is_abandoned(seen, _server_time(self.path)):
                    path.unlink(missing_ok=True)

    def _beside(self, token: str, purpose: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{token}.{purpose}")

    def _beat(self) -> None:
        holder = self._holder
        while holder is not None and not self._released.wait(self.heartbeat):
            try:
                descriptor = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                self.lost.set()
                return
            except OSError:
                continue  # the file server does not answer; whether the lock is lost is seen when it does
            try:
                if _look_at(descriptor).identity != holder.token:
                    self.lost.set()
                    return
                # The open file, not the path, which may name another file by now.
                os.utime(descriptor)
            except OSError:
                continue
            finally:
                os.close(descriptor)

    def _make_room(self, own_file: Path) -> None:
        """Remove the lock that is in the way if it is abandoned; raise `RunLocked` if it is not."""
        seen = _look(self.path)
        if seen is None:
            return
        now = _server_time(own_file)
        if not self._is_abandoned(seen, now):
            if seen.touched - now > self.stale_after:
                with suppress(OSError):  # it is gone by now, or somebody else's file, whom alone it lets touch it
                    os.utime(self.path)
            raise self._locked_by(seen, now)
        self._remove(seen.identity, source=own_file, only_abandoned=True)

    def _is_abandoned(self, seen: _Seen, now: float) -> bool:
        return now - seen.touched > self.stale_after or (seen.holder is not None and seen.holder.is_gone())

    def _locked_by(self, seen: _Seen, now: float) -> RunLocked:
        age = max(0.0, now - seen.touched)
        host, pid = (seen.holder.host, seen.holder.pid) if seen.holder else ("unknown host", 0)
        who = f"process {pid} on {host}" if seen.holder else "a process that cannot be told (the file is damaged)"
        return RunLocked(
            f"{self.path} is held by {who}, last heartbeat {age:.0f} s ago: the run is being written. Wait for it or "
            f"stop that process; a lock without a heartbeat for {self.stale_after:.0f} s is taken over",
            host,
            pid,
            age,
        )

    def _remove(self, identity: str, source: Path, only_abandoned: bool) -> None:
        """Remove the lock ``identity`` under a claim on it, which becomes a hard link to ``source``."""
        claims = self._claim(identity, source)
        if not claims:
            return
        gone = False
        try:
            seen = _look(self.path)
            if seen is None or seen.identity != identity:
                gone = True
            elif not only_abandoned or self._is_abandoned(seen, _server_time(source)):
                self._take_away(identity)
                gone = True
        finally:
            # Claims on a lock that is gone decide nothing any more. On one that stays, because its holder slept and
            # woke up, only ours goes: the earlier ones keep the numbers that were given.
            for claim in claims if gone else claims[-1:]:
                claim.unlink(missing_ok=True)

    def _claim(self, identity: str, source: Path) -> list[Path]:
        """All claims on the lock ``identity``, the last one ours; none when it turns out to be gone already."""
        claims: list[Path] = []
        for number in count():
            claims.append(self._beside(identity, f"claim{number}"))
            if link(source, claims[-1]):
                return claims
            other = _look(claims[-1])
            if other is None:
                return []
            now = _server_time(source)
            if not self._is_abandoned(other, now):
                raise self._locked_by(other, now)
        raise AssertionError("unreachable")

    def _take_away(self, identity: str) -> None:
        aside = self._beside(identity, "old")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        seen = _look(aside)
        if seen is not None and seen.identity != identity:
            # We slept, our claim was given to another process, and this is the lock that followed: put it back.
            link(aside, self.path)
        aside.unlink(missing_ok=True)


def _server_time(file: Path) -> float:
    """The time on the clock that also stamps the heartbeats, which need not be this host's."""
    os.utime(file)
    return file.stat().st_mtime
