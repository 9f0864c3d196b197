"""The process of a rank started by rank 0 on the same machine: python -m optbench.training.follower RUN_DIRECTORY."""

import sys
from collections.abc import Sequence

from rich.console import Console

from optbench.store import RunDirectory
from optbench.system.signals import Stop
from optbench.training import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the run in the given directory, as the rank in the environment variables; returns 1 if it failed."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    stop = Stop()
    stop.listen()
    # Only rank 0 prints.
    outcome = run.execute_as_rank(RunDirectory(path), Console(quiet=True), stop)
    return 1 if outcome.state == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
