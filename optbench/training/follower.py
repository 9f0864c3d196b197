"""The process of a rank that rank 0 has started on its machine: python -m optbench.training.follower RUN_DIRECTORY."""

import sys
from collections.abc import Sequence

from rich.console import Console

from optbench.store import RunDirectory
from optbench.system.signals import Stop
from optbench.training import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the run in that directory, as the rank that the environment says; returns 1 if it failed."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    stop = Stop()
    stop.listen()
    # Rank 0 speaks for all.
    outcome = run.execute_as_rank(RunDirectory(path), Console(quiet=True), stop)
    return 1 if outcome.state == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
