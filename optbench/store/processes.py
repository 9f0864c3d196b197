"""Identify processes and machines, and find out if a process of this machine is gone."""

import hashlib
import os
from functools import cache
from pathlib import Path


def process_of(pid: int) -> tuple[str, str] | None:
    """The state and the start time of a process, or None if /proc does not show it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the command in parentheses and may hold anything; proc(5) numbers the state 3, the start 22.
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]


def is_gone(pid: int, started: str | None = None) -> bool:
    """True if the process ``pid`` of this machine has ended; with ``started``, also if its id was reused."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's process, which /proc may hide
    process = process_of(pid)
    if process is None:
        return False
    state, since = process
    # A zombie has ended, and its parent has not yet read its exit status.
    return state in "ZX" or (started is not None and since != started)


def this_machine() -> str:
    """The ids of this machine's boot and of the process-id namespace; empty if /proc does not show them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


@cache
def machine_tag() -> str:
    """`this_machine` and its host name, short enough for a file name."""
    return hashlib.blake2b(f"{os.uname().nodename} {this_machine()}".encode(), digest_size=4).hexdigest()
