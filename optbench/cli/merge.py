"""`merge`: take the finished runs of another results folder, and the sweeps that list them."""

from collections.abc import Sequence
from pathlib import Path

from optbench import config as configuration
from optbench.cli.named import confirmed, counted
from optbench.cli.parser import Parser
from optbench.errors import UserError
from optbench.store import check_writable
from optbench.store.removing import remove_rubbish
from optbench.sweep.merging import Merge

_DESCRIPTION = """\
Copy the results of another machine: the finished runs of the results folder FOLDER, and its sweeps, whose plans are joined with
those here. A run with the id of a finished one here must agree with it in its science and in every number except times. If one
does not, it is named, and nothing is copied. Unfinished runs of FOLDER are not copied; they stay missing in the sweeps here,
until the sweep's command trains them. A finished run of FOLDER replaces an unfinished one here.
"""
_MOST_NAMED = 20


def merge(words: Sequence[str]) -> int:
    """`merge FOLDER`: copy the finished runs and the plans of another results folder."""
    parser = Parser(prog="optbench merge", description=_DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", help="a results folder: it has a folder runs/")
    parser.add_argument("--dry-run", action="store_true", help="list what would be copied, and copy nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask before unfinished runs here are replaced")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    source, results_dir = Path(configuration.folder(given.folder, "merge ")), Path(given.results_dir)
    if not (source / "runs").is_dir():
        raise UserError(f"merge {source}: is no results folder; accepted: a folder that has a folder runs/")
    if results_dir.exists() and source.resolve() == results_dir.resolve():
        raise UserError(f"merge {source}: is the results folder itself; accepted: another one")
    check_writable(results_dir)
    found = Merge.look(source, results_dir)
    if found.different:
        for run_id, why in list(found.different.items())[:_MOST_NAMED]:
            print(f"{run_id}: {why}")
        if len(found.different) > _MOST_NAMED:
            print(f"and {len(found.different) - _MOST_NAMED} more")
        print(f"{counted(len(found.different), 'run')} of {source} cannot be taken, so nothing is")
        return 1
    gained = {name: len(entries) for name, entries in found.plans.items() if entries}
    lines = [
        f"{counted(len(found.new), 'new run')}",
        f"{counted(len(found.unfinished_here), 'run')} in place of unfinished ones here" * bool(found.unfinished_here),
        f"{counted(len(found.same), 'run')} the same here" * bool(found.same),
        f"{counted(found.unfinished_there, 'run')} not finished there, not taken" * bool(found.unfinished_there),
        *(f"the sweep {name} gains {counted(number, 'run')}" for name, number in gained.items()),
    ]
    summary = f"{source}: {', '.join(filter(None, lines))}"
    if given.dry_run:
        print(f"{summary}; --dry-run takes nothing")
        return 0
    if found.unfinished_here and not confirmed(f"{summary}. Replace the unfinished ones?", given.yes):
        print("nothing is taken")
        return 1
    remove_rubbish(results_dir / "runs")
    found.carry_out()
    print(summary)
    return 0
