"""`du`: show the bytes that sweeps take, by kind of file."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from optbench.cli.named import in_bytes, named
from optbench.cli.parser import Parser
from optbench.store import RunDirectory, run_directories
from optbench.store.files import to_json
from optbench.store.removing import files_of, rubbish_in, size_of
from optbench.sweep.plan import Plan, plans
from optbench.system.terminal import console

_KINDS = ("checkpoints", "histories", "probes", "logs", "other")
_OF_FOLDERS = {"checkpoints": "checkpoints", "probes": "probes", "wandb": "logs", "tensorboard": "logs"}
_OF_FILES = {"history.jsonl": "histories", "history.parquet": "histories", "history.csv": "histories", "log.txt": "logs",
             "tracker.log": "logs"}  # fmt: skip
_ALONE = "(of no sweep)"
_ABANDONED = "(half removed)"
_DU = """\
Show the bytes that sweeps take, by kind: checkpoints, histories, measurements of probes, logs (with files that trackers keep in
the run's folder), and the rest. A run that several sweeps list counts in each of them, and once in the total.

--json prints {"results_dir", "sweeps": {NAME: {KIND: bytes}}, "total": {KIND: bytes}}.
"""


def du(words: Sequence[str]) -> int:
    """`du [SWEEP|RUN ...]`: show the bytes of sweeps, by kind; without names, of the whole results folder."""
    parser = Parser(prog="optbench du", description=_DU)
    parser.add_argument("names", nargs="*", metavar="SWEEP|RUN", help="default: all sweeps, and the runs of none")
    parser.add_argument("--json", action="store_true", help="for programs; see below")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    if given.names:
        chosen = named(given.results_dir, given.names)
        sweeps, runs = chosen.sweeps, chosen.runs
    else:
        sweeps, runs = plans(given.results_dir), list(run_directories(given.results_dir))
    sizes = {run.run_id: of_run(run) for run in runs}
    rows = {plan.name: _of_sweep(plan, sizes) for plan in sweeps}
    listed = {entry.run_id for plan in sweeps for entry in plan.entries()}
    if alone := [size for run_id, size in sizes.items() if run_id not in listed]:
        rows[_ALONE] = _sum(alone)
    total = _sum([*sizes.values(), *(Counter(other=_size_of_plan(plan)) for plan in sweeps)])
    if not given.names and (abandoned := _abandoned(Path(given.results_dir))):
        rows[_ABANDONED] = Counter(other=abandoned)
        total["other"] += abandoned
    if given.json:
        by_kind = {name: {kind: size[kind] for kind in _KINDS} for name, size in rows.items()}
        document = {
            "results_dir": given.results_dir,
            "sweeps": by_kind,
            "total": {kind: total[kind] for kind in _KINDS},
        }
        print(to_json(document, indent=2).decode())
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sweep", overflow="fold")
    for kind in ("total", *_KINDS):
        table.add_column(kind, justify="right", no_wrap=True)
    for name, size in [*rows.items(), ("total", total)]:
        table.add_row(name, in_bytes(size.total()), *(in_bytes(size[kind]) if size[kind] else "" for kind in _KINDS))
    console().print(table)
    return 0


def of_run(run: RunDirectory) -> Counter[str]:
    """The bytes in a run's directory, by kind."""
    size: Counter[str] = Counter()
    for path, count in files_of(run.path):
        first = path.relative_to(run.path).parts[0]
        size[_OF_FILES.get(first) or _OF_FOLDERS.get(first, "other")] += count
    return size


def _of_sweep(plan: Plan, sizes: dict[str, Counter[str]]) -> Counter[str]:
    known = [sizes[entry.run_id] for entry in plan.entries() if entry.run_id in sizes]
    return _sum([*known, Counter(other=_size_of_plan(plan))])


def _size_of_plan(plan: Plan) -> int:
    return size_of(plan.path)


def _abandoned(results_dir: Path) -> int:
    places = (results_dir / "runs", results_dir / "sweeps")
    return sum(size_of(path) for place in places for path in rubbish_in(place))


def _sum(sizes: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for size in sizes:
        total.update(size)
    return total
