"""`rm` and `prune`: remove sweeps and runs, or only the checkpoints of finished runs."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from optbench.cli.named import confirmed, counted, in_bytes, listing, named, refuse_at_work
from optbench.cli.parser import Parser
from optbench.store.removing import files_of, prune_run, remove_folder, remove_rubbish, remove_run, size_of
from optbench.store.run_directory import FINISHED
from optbench.sweep.plan import Plan

_RM = """\
Remove runs, or sweeps with their runs, from the results folder: results, checkpoints and logs. Runs that another sweep also
lists stay, and so do reports. Runs and sweeps on which a process works are refused.
"""
_PRUNE = """\
Remove the checkpoints of runs that are done or diverged, and keep their results. Such runs cannot be measured by `probe`
any more, unless they are trained again. Unfinished and paused runs keep their checkpoints, to be continued.
"""


def rm(words: Sequence[str]) -> int:
    """`rm SWEEP|RUN ...`: remove sweeps with their runs, or single runs."""
    given = _read("rm", _RM, words)
    chosen = named(given.results_dir, given.names)
    names = {plan.name for plan in chosen.sweeps}
    others = {name: ids for name, ids in listing(given.results_dir, chosen.runs).items() if name not in names}
    shared = set().union(*others.values())
    runs = [*chosen.singles, *(run for run in chosen.of_sweeps if run.run_id not in shared)]
    affected = [Plan(given.results_dir, name) for name, ids in others.items() if ids & {run.run_id for run in runs}]
    refuse_at_work(f"rm {' '.join(given.names)}", runs, [*chosen.sweeps, *affected])
    size = in_bytes(sum(map(size_of, [*(run.path for run in runs), *(plan.path for plan in chosen.sweeps)])))
    what = [f"the sweep {plan.name}" for plan in chosen.sweeps]
    if runs:
        states = Counter(run.status().state for run in runs)
        what.append(f"{counted(len(runs), 'run')} ({', '.join(f'{count} {state}' for state, count in states.items())})")
    if kept := len(chosen.runs) - len(runs):
        print(f"{counted(kept, 'run')} that other sweeps list, too, will stay")
    if not confirmed(f"Remove {' and '.join(what)}, {size}?", given.yes):
        print("nothing is removed")
        return 1
    remove_rubbish(Path(given.results_dir) / "runs", Path(given.results_dir) / "sweeps")
    for run in runs:
        remove_run(run)
    # The plan is removed last, so that after a crash the same command finds what is left.
    for plan in chosen.sweeps:
        remove_folder(plan.path)
    print(f"removed {' and '.join(what)}, {size}")
    for plan in affected:
        print(f"{plan.name}: lists runs of these, which count as missing there now")
    for plan in chosen.sweeps:
        if (report := plan.results_dir / plan.name).is_dir():
            print(f"{plan.name}: its report stays in {report}")
    return 0


def prune(words: Sequence[str]) -> int:
    """`prune SWEEP|RUN ...`: remove the checkpoints of finished runs."""
    given = _read("prune", _PRUNE, words)
    chosen = named(given.results_dir, given.names)
    finished = [run for run in chosen.runs if run.status().state in FINISHED]
    refuse_at_work(f"prune {' '.join(given.names)}", finished)
    held = [run for run in finished if any(files_of(run.checkpoint.parent))]
    rest = len(chosen.runs) - len(finished)
    left = f"; {counted(rest, 'run')} not finished, left alone" if rest else ""
    if paused := sum(run.status().state == "paused" for run in chosen.runs):
        left += f" ({paused} paused: a search continues them from their checkpoints)"
    if not held:
        print(f"no checkpoints of finished runs{left}")
        return 0
    size = in_bytes(sum(size_of(run.checkpoint.parent) for run in held))
    if not confirmed(f"Remove the checkpoints of {counted(len(held), 'finished run')}, {size}{left}?", given.yes):
        print("nothing is removed")
        return 1
    remove_rubbish(*(run.path for run in finished))
    freed = sum(map(prune_run, held))
    print(f"removed the checkpoints of {counted(len(held), 'run')}: {freed} bytes ({in_bytes(freed)}){left}")
    return 0


def _read(command: str, description: str, words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=f"optbench {command}", description=description)
    parser.add_argument(
        "names", nargs="+", metavar="SWEEP|RUN", help="a sweep, or a run by its id or a unique beginning or end of it"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_results_dir()
    return parser.parse_args(list(words))
