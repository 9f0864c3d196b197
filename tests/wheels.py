"""Programs as a user without a checkout runs them; the fixtures wheel and from_wheel are in conftest.py."""

import os
import subprocess
import sys

# What may lead a program to this checkout, or to settings of this machine.
_SETTINGS = ("PYTHONPATH", "OPTBENCH_CONF", "OPTBENCH_DATA", "OPTBENCH_EXPERIMENTS", "OPTBENCH_PATH")


def run(words, cwd, **environment):
    """Run Python with ``words`` in ``cwd``; returns what it printed, and fails where it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    # -P: not even the current folder is on the path.
    result = subprocess.run(
        [sys.executable, "-P", *map(str, words)],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
