"""Check that something fits into memory before it is made (no torch)."""

from pathlib import Path

from optbench.errors import UserError

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def of_this_machine() -> int | None:
    """The bytes of main memory available to this process: the machine's, or its container's; None if unknown."""
    limits = []
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


def require(needed: int, what: str, there: int | None = None, where: str = "this machine", use: str = "") -> None:
    """Raise UserError if ``what`` needs more bytes, for the ``use``, than exist; ``there``: the bytes of another device."""
    there = of_this_machine() if there is None else there
    if there is not None and needed > there:
        raise UserError(
            f"{what}: needs at least {in_words(needed)} of memory{use}, and {where} has {in_words(there)}; "
            "accepted: something smaller"
        )


def in_words(count: int) -> str:
    """A number of bytes with its unit and, if they are shortened, all digits: "4.1 GB (4,096,000,000 bytes)"."""
    scaled, unit = float(min(count, 10**30)), 0
    while scaled >= 1000 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1000, unit + 1
    if unit == 0:
        return f"{count} bytes"
    return f"{scaled:.3g} {_UNITS[unit]}" + (f" ({count:,} bytes)" if count < 10**24 else "")
