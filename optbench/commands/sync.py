"""`sync`: mirror runs again from the store to the trackers that they name."""

from collections.abc import Sequence

from optbench.commands.parser import Parser
from optbench.errors import UserError


def sync(words: Sequence[str]) -> int:
    """`sync [RUN ...]`: mirror runs again from the store to their trackers."""
    parser = Parser(prog="optbench sync", description="Mirror runs again from the store to the trackers they name.")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="run ids, or their beginnings; none: every run that ended"
    )
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    from optbench import trackers
    from optbench.store import find, run_directories

    chosen = [find(given.results_dir, name) for name in given.runs]
    if not given.runs:
        chosen = [directory for directory in run_directories(given.results_dir) if directory.is_finished]
    failed = 0
    for directory in chosen:
        tracker = directory.config()["tracker"]
        try:
            done = trackers.sync(directory.path, tracker) if tracker["name"] != "none" else "tracker=none"
        except UserError as error:
            done, failed = f"not mirrored: {error}", failed + 1
        print(done if done.startswith(directory.run_id) else f"{directory.run_id}: {done}")
    print(f"{len(chosen)} runs, {failed} not mirrored")
    return 1 if failed else 0
