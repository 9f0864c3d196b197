"""The meeting of the ranks of a run: they find each other, agree to begin, and exchange the reason of a failure.

Rank 0 holds a key-value store (torch's TCPStore) at the launch's host and port, to which the others connect. The store also
serves torch.distributed when the process group is made. Nothing here writes a file.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from optbench.errors import UserError
from optbench.training.launch_environment import Launch

WAIT_SECONDS = 600.0  # by default; trainer.rendezvous_seconds sets it
# A waiting rank prints a line after this time.
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.05
# Ranks that end normally wait for each other for the first time; a rank that lost the others waits for the second, for the
# reason.
_FAREWELL_SECONDS = 30.0
_REASON_SECONDS = 2.0
_LAST_WORD = "why"


@dataclass
class Meeting:
    """A meeting of all ranks of one run, held in ``store``, whose keys no other meeting uses."""

    launch: Launch
    store: Any  # of torch.distributed
    seconds: float

    def decide(self, decision: str) -> None:
        """Rank 0: tell the others to train (an empty ``decision``), or the reason why the run is not trained."""
        self.store.set("decision", decision)

    def decision(self) -> str:
        """Another rank: the decision of rank 0; raises UserError if there is none within the time-out."""
        self._await({"decision": "rank 0 has the run's lock"})
        return str(self.store.get("decision").decode())

    def get_ready(self) -> None:
        """Wait until every rank has built its model; raises UserError with the reason if one has failed."""
        self.store.set(f"ready/{self.launch.rank}", "")
        self._await({f"ready/{rank}": f"rank {rank}, which builds its model" for rank in range(self.launch.world_size)})

    def report_failure(self, why: str, details: str) -> tuple[str, str]:
        """Report why this rank failed; returns the report of the first rank that failed.

        The others only notice the lost connection, possibly before that report.
        """
        mine = json.dumps([why, details])
        with contextlib.suppress(RuntimeError):  # rank 0, and its store with it, may be gone
            until = time.monotonic() + (_REASON_SECONDS if _lost_connection(why) else 0.0)
            while not self.store.check([_LAST_WORD]) and time.monotonic() < until:
                time.sleep(_LOOK_SECONDS)
            first = self.store.compare_set(_LAST_WORD, "", mine).decode()
            if first != mine:
                why, details = json.loads(first)
        return str(why), str(details)

    def part(self) -> None:
        """Wait until every living rank has called this."""
        with contextlib.suppress(UserError, RuntimeError):
            self.store.set(f"parted/{self.launch.rank}", "")
            others = {f"parted/{rank}": "" for rank in range(self.launch.world_size)}
            self._await(others, seconds=_FAREWELL_SECONDS, silent=True)

    def _await(
        self,
        keys: dict[str, str],
        seconds: float | None = None,
        silent: bool = False,
        lost: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Wait until all of ``keys`` are set; their values describe them in messages."""
        began, told, missing = time.monotonic(), silent, dict(keys)
        limit = self.seconds if seconds is None else seconds
        who = f"rank {self.launch.rank}"
        while True:
            try:
                missing = {key: meaning for key, meaning in missing.items() if not self.store.check([key])}
                if missing and self.store.check([_LAST_WORD]):
                    raise UserError(json.loads(self.store.get(_LAST_WORD))[0])
            except RuntimeError as error:  # torch's errors of stores are RuntimeErrors
                raise UserError(
                    f"{who}: lost rank 0 at {_place(self.launch)} while it waited for {_first(missing)}"
                ) from error
            if not missing:
                return
            waited = time.monotonic() - began
            if (why := lost()) is not None:
                raise UserError(f"{who} waits for {_first(missing)} in vain: {why}")
            if waited > limit:
                raise UserError(
                    f"{who} has waited {limit:.0f} s for {_first(missing)}; accepted: start all ranks, or a longer "
                    "trainer.rendezvous_seconds"
                )
            if waited > _PATIENCE_SECONDS and not told:
                told = True
                _say(f"{who} waits for {_first(missing)}")
            time.sleep(_LOOK_SECONDS)


_stores: dict[tuple[str, int], Any] = {}
_meetings = 0


def listen() -> int:
    """Rank 0, for ranks that this process starts: open a store at a free port, and return the port."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False, multi_tenant=False)  # type: ignore[attr-defined]
    _stores["127.0.0.1", store.port] = store
    return int(store.port)


def meet(launch: Launch, seconds: float, lost: Callable[[], str | None] = lambda: None) -> Meeting:
    """Wait until all ranks of ``launch`` have called this.

    ``lost`` returns the reason why a rank can no longer come, if known. Raises UserError after ``seconds`` with the missing
    ranks, or if rank 0 cannot be reached.
    """
    global _meetings
    _meetings += 1  # every rank has the same meetings in the same order
    store = _connect(launch, seconds)
    meeting = Meeting(launch, dist.PrefixStore(f"optbench/{_meetings}", store), seconds)  # type: ignore[attr-defined]
    try:
        meeting.store.set(f"present/{launch.rank}", "")
    except RuntimeError as error:
        raise UserError(f"rank {launch.rank}: lost rank 0 at {_place(launch)}") from error
    present = {f"present/{rank}": f"rank {rank} at {_place(launch)}" for rank in range(launch.world_size)}
    meeting._await(present, lost=lost)
    return meeting


def _connect(launch: Launch, seconds: float) -> Any:
    assert launch.host is not None
    place = (launch.host, launch.port)
    if place in _stores:
        return _stores[place]
    # The agents of torchrun may already serve a store at this address.
    serves = launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        with _telling_after(_PATIENCE_SECONDS, f"rank {launch.rank} waits for rank 0 at {_place(launch)}"):
            store = dist.TCPStore(  # type: ignore[attr-defined]
                launch.host,
                launch.port,
                None,
                serves,
                timedelta(seconds=seconds),
                wait_for_workers=False,
                multi_tenant=True,
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if serves:
            raise UserError(
                f"rank 0 cannot listen at {_place(launch)}: {reason}; accepted: a free port, in MASTER_PORT"
            ) from error
        raise UserError(
            f"rank {launch.rank} has waited {seconds:.0f} s for rank 0 at {_place(launch)} ({reason}); accepted: start all "
            f"{launch.world_size} ranks, or a longer trainer.rendezvous_seconds"
        ) from error
    _stores[place] = store
    return store


@contextlib.contextmanager
def _telling_after(seconds: float, text: str) -> Iterator[None]:
    timer = threading.Timer(seconds, _say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(text: str) -> None:
    print(f"optbench: {text}", file=sys.stderr, flush=True)


def _place(launch: Launch) -> str:
    return f"{launch.host}:{launch.port}"


def _first(missing: dict[str, str]) -> str:
    several = list(missing.values())
    return several[0] + (f" and {len(several) - 1} more" if len(several) > 1 else "")


def _lost_connection(why: str) -> bool:
    return any(word in why for word in ("onnection", "gloo", "NCCL", "socket", "Broken pipe"))
