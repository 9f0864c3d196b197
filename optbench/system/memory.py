"""Check that something fits into memory before it is made (no torch)."""

import resource
from pathlib import Path

from optbench.errors import UserError

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def of_this_machine() -> int | None:
    """Bytes of main memory that this process may have at most: the machine's, its container's, or a limit of the shell's.

    None if unknown.
    """
    limits = []
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        # Mapped memory that is not used, such as libraries, counts here, too.
        pages, resident = _pages()
        limits.append(address_space - (pages - resident) * resource.getpagesize())
    try:
        words = Path("/proc/meminfo").read_text(encoding="ascii").split()
        limits.append(1024 * sum(int(words[words.index(name) + 1]) for name in ("MemTotal:", "SwapTotal:")))
    except (OSError, ValueError, IndexError):
        pass
    for name in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such controller, or "max"
            continue
    return min(limits, default=None)


def _pages() -> tuple[int, int]:
    """The pages that this process has mapped, and those of them in memory; 0 where /proc does not tell."""
    try:
        mapped, resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
        return int(mapped), int(resident)
    except (OSError, ValueError):
        return 0, 0


def reset_peak() -> bool:
    """Set back the largest resident size of this process to the present one; False where the system does not allow it."""
    try:
        # 5: the peak ("high water mark") alone (Linux, Documentation/filesystems/proc.rst).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak() -> int | None:
    """Bytes of the largest resident size of this process since `reset_peak`, or since its start; None if unknown."""
    try:
        words = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split()
        return 1024 * int(words[words.index("VmHWM:") + 1])
    except (OSError, ValueError, IndexError):
        return None


def require(needed: int, what: str, there: int | None = None, where: str = "this machine", use: str = "") -> None:
    """Raise UserError if ``what`` needs more bytes, for the ``use``, than exist; ``there``: the bytes of another device."""
    there = of_this_machine() if there is None else there
    if there is not None and needed > there:
        raise UserError(
            f"{what}: needs at least {in_words(needed)} of memory{use}, and {where} has {in_words(there)}; "
            "accepted: something smaller"
        )


def in_words(count: int) -> str:
    """A number of bytes with its unit and, where that is shorter, all of its digits: "4.1 GB (4,096,000,000 bytes)"."""
    return short(count) + (f" ({count:,} bytes)" if 1000 <= count < 10**24 else "")


def short(count: int) -> str:
    """A number of bytes in three digits with its unit: "4.1 GB"."""
    scaled, unit = float(min(count, 10**30)), 0
    while scaled >= 1000 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1000, unit + 1
    return f"{count} bytes" if unit == 0 else f"{scaled:.3g} {_UNITS[unit]}"
