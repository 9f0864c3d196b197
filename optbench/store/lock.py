"""One writer for each run: a lock file with a heartbeat, which other processes take over if its holder is gone.

The lock is a hard link to a file that names its holder, so that it appears complete and for one process only, on local
file systems and on NFS; without hard links it is created exclusively. The holder touches it every few seconds. The lock
is abandoned if it has not been touched for `stale_after` by the file server's clock, or if its process on this machine
is gone. If the clock was set back, the heartbeat lies in the future and would look recent for too long: a process that
finds such a heartbeat touches the lock itself, and from then on the lock ages unless its holder lives.

Removing an abandoned lock is the difficult part: two processes may find the same lock, and the slower one must not remove
the new lock of the faster one. Every lock carries a token that is never used again, and only the holder of the claim on
that token may remove it. A claim is also a hard link, with a number: any process may take claim 0, and claim k + 1 only
if the holder of claim k is gone. No claim is removed before its lock, so that each is given once. One case remains that
no lock file can prevent: a process sleeps for `stale_after` and wakes up between two system calls. Therefore a holder
checks at each heartbeat that its lock is still there (`RunLock.lost`).
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
    """Raised if another process holds the lock: ``pid`` on ``host``; ``age``: seconds since its last heartbeat."""

    def __init__(self, message: str, host: str = "", pid: int = 0, age: float = 0.0):
        super().__init__(message)
        self.host = host
        self.pid = pid
        self.age = age


@dataclass(frozen=True)
class _Holder:
    """The holder of a lock, as the lock file states it.

    machine: the boot of the machine and the process-id namespace to which ``pid`` belongs. Containers on different
        machines often share a host name, and containers on one machine do not see each other's processes.
    started: the start time of the process, in clock ticks since boot, because process ids are reused.
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
        """True if the holder is known to be dead; False if that cannot be known from this machine."""
        if (self.host, self.machine) != (os.uname().nodename, this_machine()):
            return False
        return is_gone(self.pid, self.started)


@dataclass(frozen=True)
class _Seen:
    """A lock file as it was found: its holder (None if unreadable), its last heartbeat, and its identity."""

    holder: _Holder | None
    touched: float
    identity: str


def _look(path: Path) -> _Seen | None:
    # Opening the file makes NFS ask the server for its current times; stat alone may use a cache.
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
    """The holder of a lock.

    host, pid: its process; "unknown host" and 0 if the file is damaged.
    age: seconds since its last heartbeat, by this host's clock; 0 if the heartbeat lies in the future.
    abandoned: True if the next process that asks for the lock will get it.
    """

    host: str
    pid: int
    age: float
    abandoned: bool


def look(path: str | Path, stale_after: float = 60.0) -> Held | None:
    """The holder of the lock ``path``, or None if it is free; writes nothing, so that it also works on a read-only folder.

    It uses this host's clock, while `RunLock` uses the file server's, so the result is only for display. Raises
    `optbench.store.StoreError` if the file cannot be read.
    """
    with reporting("read", Path(path)):
        seen = _look(Path(path))
    if seen is None:
        return None
    since = time.time() - seen.touched
    age = max(0.0, since)
    # A heartbeat far in the future counts as abandoned, like one long ago.
    abandoned = abs(since) > stale_after
    if seen.holder is None:
        return Held("unknown host", 0, age, abandoned)
    return Held(seen.holder.host, seen.holder.pid, age, abandoned or seen.holder.is_gone())


class RunLock:
    """A lock on ``path`` for one process at a time, on any host that shares the file system.

    Use it as a context manager. Entering raises `RunLocked` if another process (or object) holds the lock, and
    `optbench.store.StoreError` if the folder cannot be written; it never waits. If the block raises and releasing the lock
    fails as well, the error of the block is raised.

    ``heartbeat``: the seconds between two touches of the file by the holder.
    ``stale_after``: a lock not touched for this many seconds is taken over. The lock of a holder on this machine that has
    died, or whose process id now belongs to another process, is taken over at once.
    ``lost``: an event, set when a heartbeat finds that the lock is gone or belongs to another process: stop writing.

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
            # If the disk is gone or read-only, both fail, and the block's error names the write that was lost.
            if error is None:
                raise

    def given_back(self) -> ExitStack:
        """A context that releases the lock, which is already taken, at its end; its `pop_all` keeps the lock."""
        stack = ExitStack()
        stack.push(self)
        return stack

    @contextmanager
    def waited_for(self, seconds: float) -> Iterator[None]:
        """Hold the lock for the block; waits up to ``seconds`` for its holder to release it, then raises `RunLocked`."""
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
        """Release the lock, if this process still holds it."""
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
        """Remove the files of processes that died while they took or released the lock; for its holder.

        A claim on an earlier lock has no effect while this lock exists; files of living processes are left alone.
        """
        own = re.compile(rf"\.{re.escape(self.path.name)}\.([^.]+)\.(new|old|claim\d+)")
        with suppress(OSError):  # a failure here does not affect the lock
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
                continue  # the file server does not answer; the next heartbeat checks again
            try:
                if _look_at(descriptor).identity != holder.token:
                    self.lost.set()
                    return
                # By its descriptor, because the path may name another file by now.
                os.utime(descriptor)
            except OSError:
                continue
            finally:
                os.close(descriptor)

    def _make_room(self, own_file: Path) -> None:
        """Remove the existing lock if it is abandoned; raise `RunLocked` if it is not."""
        seen = _look(self.path)
        if seen is None:
            return
        now = _server_time(own_file)
        if not self._is_abandoned(seen, now):
            if seen.touched - now > self.stale_after:
                with suppress(OSError):  # it is gone by now, or belongs to another user, who alone may touch it
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
            # Claims on a lock that is gone have no effect. If the lock stays, because its holder slept and woke up, only
            # this process's claim is removed: the earlier ones keep their numbers taken.
            for claim in claims if gone else claims[-1:]:
                claim.unlink(missing_ok=True)

    def _claim(self, identity: str, source: Path) -> list[Path]:
        """All claims on the lock ``identity``, the last one ours; empty if the lock is already gone."""
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
            # This process slept, its claim went to another process, and this is that process's lock: put it back.
            link(aside, self.path)
        aside.unlink(missing_ok=True)


def _server_time(file: Path) -> float:
    """The time on the file server's clock, which also stamps the heartbeats and may differ from this host's."""
    os.utime(file)
    return file.stat().st_mtime
