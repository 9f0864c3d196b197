"""Lines that a process prints only once, even if their cause occurs often."""

import sys

_said: set[str] = set()


def say_once(line: str) -> None:
    """Print ``line`` on stderr, unless this process has printed it before."""
    if line not in _said:
        _said.add(line)
        print(f"optbench: {line}", file=sys.stderr, flush=True)
